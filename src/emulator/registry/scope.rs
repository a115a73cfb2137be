//! Rights: what is asked for, what somebody has, and what a token says.
//!
//! Knows `type:name:action,action`, not tokens.

use serde_json::{Value, json};

use super::super::faults::matches_glob;

/// Rights on one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    /// `repository` or `registry`.
    pub(super) kind: String,
    /// The name; of a grant, with `*` for any run of characters.
    pub(super) name: String,
    /// The actions; `*` for all.
    pub(super) actions: Vec<String>,
}

impl Scope {
    pub(super) fn repository(name: &str, actions: &[&str]) -> Self {
        let actions = actions.iter().map(|action| (*action).to_owned()).collect();
        Self { kind: "repository".to_owned(), name: name.to_owned(), actions }
    }

    pub(super) fn catalog() -> Self {
        Self { kind: "registry".into(), name: "catalog".into(), actions: vec!["*".into()] }
    }

    /// Reads one. A name may hold colons.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let actions = actions.split(',').filter(|action| !action.is_empty());
        Some(Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions.map(str::to_owned).collect(),
        })
    }

    /// Reads those in a list, separated by spaces.
    pub(super) fn parse_all(text: &str) -> Vec<Self> {
        text.split_whitespace().filter_map(Self::parse).collect()
    }

    /// As it is written.
    pub(super) fn text(&self) -> String {
        format!("{}:{}:{}", self.kind, self.name, self.actions.join(","))
    }

    /// As a token says it.
    pub(super) fn claim(&self) -> Value {
        json!({ "type": self.kind, "name": self.name, "actions": self.actions })
    }

    /// Reads what a token says.
    pub(super) fn from_claim(claim: &Value) -> Option<Self> {
        let text = |name: &str| claim[name].as_str().map(str::to_owned);
        let actions = claim["actions"].as_array()?.iter();
        Some(Self {
            kind: text("type")?,
            name: text("name")?,
            actions: actions.filter_map(|action| action.as_str().map(str::to_owned)).collect(),
        })
    }

    /// Whether these rights, as a grant, include an action on a thing.
    fn includes(&self, kind: &str, name: &str, action: &str) -> bool {
        self.kind == kind
            && matches_glob(&self.name, name)
            && self.actions.iter().any(|own| own == "*" || own == action)
    }

    /// Whether all of it is included in these grants.
    pub(super) fn is_granted_by(&self, grants: &[Self]) -> bool {
        self.granted_by(grants).actions.len() == self.actions.len()
    }

    /// What of it is included in these grants; perhaps nothing.
    pub(super) fn granted_by(&self, grants: &[Self]) -> Self {
        let granted = |action: &&String| {
            grants.iter().any(|grant| grant.includes(&self.kind, &self.name, action))
        };
        let actions = self.actions.iter().filter(granted).cloned().collect();
        Self { actions, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_granted_is_given() {
        let grants = Scope::parse_all("repository:team/*:pull,metadata_read registry:catalog:*");
        let asked = |text: &str| Scope::parse(text).unwrap();
        assert!(asked("repository:team/a:pull").is_granted_by(&grants));
        assert!(asked("registry:catalog:*").is_granted_by(&grants));
        assert!(!asked("repository:other:pull").is_granted_by(&grants));
        let both = asked("repository:team/a:pull,push");
        assert!(!both.is_granted_by(&grants));
        assert_eq!(both.granted_by(&grants).text(), "repository:team/a:pull");
        assert_eq!(asked("repository:host:5000/a:pull").name, "host:5000/a");
        assert_eq!(Scope::from_claim(&both.claim()), Some(both));
        assert_eq!(Scope::parse("repository"), None);
    }
}
