//! Reads Rust sources for what they import, and judges it by a table of layers.
//!
//! The sources are read as tokens, so that comments and strings do not count and macros do; code
//! under `#[cfg(test)]` and files named `tests.rs` are free. Paths are followed through `crate::`,
//! `super::` and `self::` and groups of them, wherever a path may stand; what could not be followed,
//! globs and renames of the crate's root, is refused.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// What the sources must keep to.
#[derive(Debug)]
pub(crate) struct Rules {
    /// What each top-level module may import: a module (`"vfs"`) or, of it, only some types
    /// (`"io::*Config"`, `"store::{Error*, Result}"`).
    pub(crate) table: &'static [(&'static str, &'static [&'static str])],
    /// Crates that only one place may name, and that place.
    pub(crate) crate_homes: &'static [(&'static str, &'static str)],
    /// Where an errno may be named; the first is what complaints point to.
    pub(crate) errno_homes: &'static [&'static str],
}

/// Something in a source file that the table does not allow.
#[derive(Debug)]
pub(crate) struct Violation {
    /// Counted from one.
    pub(crate) line: usize,
    /// What is wrong, without the file and the line.
    pub(crate) what: String,
}

impl Rules {
    /// Checks one file. `name` is its path from the root of the repository, with `/`.
    pub(crate) fn check(&self, name: &str, text: &str) -> Vec<Violation> {
        let module = module_path(name);
        if module.iter().any(|part| part == "tests") {
            return Vec::new();
        }
        let mut checker = Checker {
            rules: self,
            name,
            tokens: without_tests(tokens(text)),
            module,
            violations: Vec::new(),
        };
        if let Some(top) = checker.module.first()
            && self.row(top).is_none()
        {
            checker
                .report(1, format!("module `{top}` has no row in the table of tests/layering.rs"));
        }
        checker.run();
        checker.violations
    }

    fn row(&self, module: &str) -> Option<&'static [&'static str]> {
        let mut rows = self.table.iter();
        rows.find(|(name, _)| *name == module).map(|(_, imports)| *imports)
    }
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are `[a, b]`; `src/lib.rs` and `src/main.rs` are the root.
fn module_path(name: &str) -> Vec<String> {
    let path = name.strip_prefix("src/").unwrap_or(name);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let mut parts: Vec<String> = path.split('/').map(String::from).collect();
    if parts.last().is_some_and(|last| last == "mod") || ["lib", "main"].contains(&path) {
        parts.pop();
    }
    parts
}

struct Checker<'a> {
    rules: &'a Rules,
    name: &'a str,
    tokens: Vec<Token>,
    /// Where the walk is: the file's module and the inline ones around the current token.
    module: Vec<String>,
    violations: Vec<Violation>,
}

impl Checker<'_> {
    fn report(&mut self, line: usize, what: String) {
        self.violations.push(Violation { line, what });
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    fn run(&mut self) {
        // The brace depths at which an inline `mod name {` was entered.
        let mut inline = Vec::new();
        let mut depth = 0;
        let mut at = 0;
        while at < self.tokens.len() {
            match self.text(at) {
                "mod" if self.text(at + 2) == "{" => {
                    self.module.push(self.text(at + 1).to_owned());
                    inline.push(depth);
                    depth += 1;
                    at += 3;
                    continue;
                }
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    if inline.last() == Some(&depth) {
                        inline.pop();
                        self.module.pop();
                    }
                }
                _ => {}
            }
            if self.starts_path(at) {
                at = self.path(at, Vec::new());
            } else {
                at += 1;
            }
        }
    }

    /// Whether a path begins here: a name that is followed by `::` and does not itself continue a
    /// path, or what stands right after `use` or `extern crate`.
    fn starts_path(&self, at: usize) -> bool {
        let before = |back: usize| at.checked_sub(back).map_or("", |at| self.text(at));
        if before(1) == "use" || (before(1) == "crate" && before(2) == "extern") {
            return self.text(at) != "::";
        }
        // `::name` is a path of its own after a keyword or a bracket, and a continuation after a name.
        let continues = before(1) == "::" && is_name(before(2)) && !KEYWORDS.contains(&before(2));
        let generic = before(1) == "::" && [">", "]", ")"].contains(&before(2));
        is_name(self.text(at))
            && !KEYWORDS.contains(&self.text(at))
            && self.text(at + 1) == "::"
            && before(1) != "."
            && !continues
            && !generic
    }

    /// Reads one path or one tree of a `use` that continues `prefix`; returns where it ends.
    fn path(&mut self, mut at: usize, mut prefix: Vec<String>) -> usize {
        let line = self.tokens[at].line;
        loop {
            match self.text(at) {
                "{" => {
                    at += 1;
                    while !["}", ""].contains(&self.text(at)) {
                        at = self.path(at, prefix.clone());
                        if self.text(at) == "," {
                            at += 1;
                        }
                    }
                    return at + 1;
                }
                "" | "," | "}" => break,
                name => {
                    prefix.push(name.to_owned());
                    at += 1;
                }
            }
            if self.text(at) != "::" {
                break;
            }
            at += 1;
            // A turbofish, `a::b::<T>`, or the end of a `$path::` in a macro.
            if !self.text(at).starts_with(|c: char| c.is_alphanumeric() || "_{*".contains(c)) {
                break;
            }
        }
        let renamed = self.text(at) == "as";
        self.judge(line, &prefix, renamed);
        // Past the new name, so that it is not taken for the next part of a group.
        if renamed { at + 2 } else { at }
    }

    fn judge(&mut self, line: usize, path: &[String], renamed: bool) {
        let first = path.first().map_or("", String::as_str);
        if let Some((krate, home)) =
            self.rules.crate_homes.iter().find(|(krate, _)| *krate == first)
            && !self.name.starts_with(home)
        {
            self.report(line, format!("`{krate}` may be named only in {home}"));
        }
        let homes = self.rules.errno_homes;
        if path.len() >= 2 && !homes.iter().any(|home| self.name.starts_with(home)) {
            let [.., owner, item] = path else { return };
            if ["libc", "Errno"].contains(&owner.as_str()) && is_errno(item) {
                self.report(
                    line,
                    format!("errno `{owner}::{item}` may be named only in {}", homes[0]),
                );
            }
        }
        let Some(target) = self.resolve(path) else {
            return;
        };
        let Some(from) = self.module.first().cloned() else {
            return;
        };
        let target: Vec<&str> = target.iter().map(String::as_str).collect();
        match target.as_slice() {
            [] | ["self"] if renamed => self.report(line, "the crate's root is renamed".to_owned()),
            [] | ["self"] => {}
            ["*", ..] => self.report(line, "the crate's root is imported by a glob".to_owned()),
            [to, ..] if *to == from => {}
            [to, ..] if self.rules.row(to).is_none() => {
                self.report(
                    line,
                    format!("`{to}` is not a module of the table in tests/layering.rs"),
                );
            }
            [to, rest @ ..] => {
                let allowed = self.rules.row(&from).unwrap_or_default();
                if !allowed.iter().any(|pattern| fits(pattern, to, rest)) {
                    let path = target.join("::");
                    self.report(line, format!("`{from}` may not import `{path}`"));
                }
            }
        }
    }

    /// The path from the crate's root, or nothing when it does not lead through it.
    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base = match path.first()?.as_str() {
            // The binary names the library by its name.
            "crate" | "blobdir" => Vec::new(),
            "self" => self.module.clone(),
            "super" => self.module[..self.module.len().saturating_sub(1)].to_vec(),
            _ => return None,
        };
        for name in &path[1..] {
            if name == "super" {
                base.pop();
            } else {
                base.push(name.clone());
            }
        }
        Some(base)
    }
}

/// Whether an import of `rest` from module `to` is what the table's pattern allows.
fn fits(pattern: &str, to: &str, rest: &[&str]) -> bool {
    let Some((module, types)) = pattern.split_once("::") else {
        return pattern == to;
    };
    // What hangs on a type is judged as the type: `Error::new`, a variant, a constant.
    let Some(item) = rest.iter().find(|name| name.starts_with(char::is_uppercase)) else {
        return false;
    };
    let mut types = types.trim_matches(['{', '}']).split(", ");
    module == to
        && types.any(|pattern| match pattern.split_once('*') {
            Some((start, end)) => item.starts_with(start) && item.ends_with(end),
            None => *item == pattern,
        })
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words after which a path may begin with `::`.
const KEYWORDS: &[&str] =
    &["use", "impl", "for", "as", "dyn", "mut", "in", "return", "match", "where"];

/// `EIO`, `ENOENT`…, and not a type or a function that begins with an `E`.
fn is_errno(name: &str) -> bool {
    name.len() > 2
        && name.starts_with('E')
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
}

// -- reading Rust ------------------------------------------------------------------------------

#[derive(Debug)]
struct Token {
    /// A name, a bracket, `::` or one other character.
    text: String,
    line: usize,
}

/// The tokens of a source file, without comments and literals.
fn tokens(source: &str) -> Vec<Token> {
    let stream = source.parse().expect("Rust that the compiler accepts");
    let mut found = Vec::new();
    flatten(stream, &mut found);
    found
}

fn flatten(stream: TokenStream, found: &mut Vec<Token>) {
    // Whether the token before is a colon that the next one may complete.
    let mut half = false;
    for tree in stream {
        let line = tree.span().start().line;
        let colon = std::mem::take(&mut half);
        let text = match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::None => ("", ""),
                };
                found.push(Token { text: open.to_owned(), line });
                flatten(group.stream(), found);
                close.to_owned()
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => {
                if colon {
                    found.pop();
                    "::".to_owned()
                } else {
                    half = punct.spacing() == Spacing::Joint;
                    ":".to_owned()
                }
            }
            TokenTree::Punct(punct) => punct.as_char().to_string(),
            TokenTree::Ident(name) => name.to_string(),
            TokenTree::Literal(_) => continue,
        };
        found.push(Token { text, line });
    }
}

/// Leaves out every item under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let is = |at: usize, words: &[&str]| {
        words
            .iter()
            .enumerate()
            .all(|(i, word)| tokens.get(at + i).is_some_and(|t| t.text == *word))
    };
    let mut kept = vec![true; tokens.len()];
    let mut at = 0;
    while at < tokens.len() {
        let gated = is(at, &["#", "[", "cfg", "(", "test", ")"])
            || is(at, &["#", "[", "cfg", "(", "all", "(", "test", ","]);
        if gated {
            let end = item_end(&tokens, at);
            kept[at..end].fill(false);
            at = end;
        } else {
            at += 1;
        }
    }
    let mut kept = kept.into_iter();
    tokens.into_iter().filter(|_| kept.next() == Some(true)).collect()
}

/// Where the item that begins with an attribute at `at` ends: after its body or semicolon, or,
/// for a field or an arm, at the comma.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    const ITEMS: &[&str] = &[
        "pub",
        "fn",
        "async",
        "unsafe",
        "extern",
        "const",
        "static",
        "type",
        "struct",
        "enum",
        "union",
        "trait",
        "impl",
        "mod",
        "use",
        "macro_rules",
    ];
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    while text(at) == "#" {
        at = closing(tokens, at + 1);
    }
    let item = ITEMS.contains(&text(at));
    while at < tokens.len() {
        match text(at) {
            ";" => return at + 1,
            "," if !item => return at,
            "}" | ")" | "]" => return at,
            "{" => return closing(tokens, at),
            "(" | "[" => at = closing(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// Just after the bracket that closes the one at `at`.
fn closing(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}
