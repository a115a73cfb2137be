//! Paths inside a store.

use std::fmt;
use std::sync::Arc;

/// A path relative to the root of a store: components joined by `/`, no leading or trailing slash,
/// empty for the root. Components are never empty, `.` or `..` and hold no NUL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RemotePath(Arc<str>);

impl RemotePath {
    /// The root.
    pub fn root() -> RemotePath {
        RemotePath(Arc::from(""))
    }

    /// A path from text; `None` if a component could not be a file name.
    pub fn new(text: &str) -> Option<RemotePath> {
        if text.is_empty() {
            return Some(RemotePath::root());
        }
        text.split('/').all(is_component).then(|| RemotePath(Arc::from(text)))
    }

    /// The path of `name` inside this directory; `None` if `name` could not be a file name.
    pub fn join(&self, name: &str) -> Option<RemotePath> {
        if !is_component(name) || name.contains('/') {
            return None;
        }
        Some(RemotePath(if self.is_root() {
            Arc::from(name)
        } else {
            Arc::from(format!("{}/{name}", self.0))
        }))
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or("")
    }

    /// The directory that holds this path; the root for the root.
    pub fn parent(&self) -> RemotePath {
        match self.0.rsplit_once('/') {
            Some((parent, _)) => RemotePath(Arc::from(parent)),
            None => RemotePath::root(),
        }
    }
}

/// Whether `text` can be shown as one file name.
fn is_component(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains('\0')
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "/" } else { &self.0 })
    }
}

impl fmt::Debug for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::RemotePath;

    #[test]
    fn joins_and_splits() {
        let dir = RemotePath::new("a/b").unwrap();
        let file = dir.join("c d").unwrap();
        assert_eq!(file.as_str(), "a/b/c d");
        assert_eq!(file.name(), "c d");
        assert_eq!(file.parent(), dir);
        assert_eq!(RemotePath::root().join("x").unwrap().parent(), RemotePath::root());
    }

    #[test]
    fn refuses_what_cannot_be_a_file_name() {
        for bad in ["a//b", "/a", "a/", ".", "a/../b", "nul\0"] {
            assert!(RemotePath::new(bad).is_none(), "{bad:?}");
        }
        for bad in ["", ".", "..", "a/b"] {
            assert!(RemotePath::root().join(bad).is_none(), "{bad:?}");
        }
    }
}
