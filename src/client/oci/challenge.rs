//! What a registry says when it wants to know who asks: the `WWW-Authenticate` header (RFC 9110, 11.6.1).
//!
//! A scope holds commas and blanks inside its quotes, so this is a parser and no split.

/// One challenge: a scheme, and parameters with names in lower case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// `bearer`, `basic`, … in lower case.
    pub scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter, the first one of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// All challenges of one header. What makes no sense ends the list: what came before it counts.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut rest = Rest(header);
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        rest.skip(|c| c == ' ' || c == '\t' || c == ',');
        let Some(word) = rest.token() else { return challenges };
        rest.skip(|c| c == ' ' || c == '\t');
        let Some(value) = rest.value() else {
            // No `=` behind it: the scheme of the next challenge.
            if rest.0.starts_with('=') {
                return challenges;
            }
            challenges
                .push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            continue;
        };
        match challenges.last_mut() {
            Some(last) => last.parameters.push((word.to_ascii_lowercase(), value)),
            None => return challenges,
        }
    }
}

struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, which: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(which);
    }

    /// A token (RFC 9110, 5.6.2).
    fn token(&mut self) -> Option<&'a str> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let end = self.0.find(|c| !is_part(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// `=` and a token or a quoted string.
    fn value(&mut self) -> Option<String> {
        let after = self.0.strip_prefix('=')?.trim_start_matches([' ', '\t']);
        let Some(quoted) = after.strip_prefix('"') else {
            let before = std::mem::replace(&mut self.0, after);
            let token = self.token().map(str::to_owned);
            if token.is_none() {
                self.0 = before;
            }
            return token;
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(chars.next()?.1),
                _ => value.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_registries_send() {
        let found = parse(
            r#"Bearer realm="https://r.azurecr.io/oauth2/token",service="r.azurecr.io",scope="repository:x1:pull,push repository:team/app:pull",error="invalid_token""#,
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].get("realm"), Some("https://r.azurecr.io/oauth2/token"));
        let scope = "repository:x1:pull,push repository:team/app:pull";
        assert_eq!(found[0].get("scope"), Some(scope));
        assert_eq!(found[0].get("error"), Some("invalid_token"));
        assert_eq!(found[0].get("nonce"), None);

        let found = parse(r#"Basic Realm = "probe \"realm\"", Bearer realm=x, scope=y"#);
        assert_eq!(found[0].get("realm"), Some(r#"probe "realm""#));
        assert_eq!((found[1].get("realm"), found[1].get("scope")), (Some("x"), Some("y")));
        assert_eq!(parse("Negotiate")[0].scheme, "negotiate");
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in ["", ",", "=", "realm=\"x\"", "\"", "Bearer realm=\"x", "ä"] {
            assert!(parse(text).iter().all(|found| found.get("realm").is_none()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_without_panic(text in "(Bearer |Basic )?.{0,40}") {
            parse(&text);
        }
    }
}
