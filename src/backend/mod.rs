//! The remote systems, one folder each, and the table that says which source each one serves.
//!
//! The CLI's help, the check of `-o` words and the list of contract tests are all read from
//! [`SCHEMES`], so a new backend is a new folder and one row.

pub mod page_blob;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::store::{Error, ErrorKind, Result, Store};

/// One `-o` word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionSpec {
    /// The word, as typed before `=`.
    pub name: &'static str,
    /// What stands after `=`, for the help (`SIZE`, `FILE`); `None` for a flag.
    pub value: Option<&'static str>,
    /// The value without the option, for the help.
    pub default: Option<&'static str>,
    /// What it does, one sentence without a full stop.
    pub help: &'static str,
}

/// One kind of source.
#[derive(Clone, Copy, Debug)]
pub struct Scheme {
    /// What may stand before `://`.
    pub names: &'static [&'static str],
    /// How the source is written, for the help.
    pub form: &'static str,
    /// What it is, one line.
    pub summary: &'static str,
    /// The `-o` words that only this kind takes.
    pub options: &'static [OptionSpec],
    /// Makes sense of what was typed. Does no input or output but reading the files it was told of.
    pub parse: fn(&SourceRequest<'_>) -> std::result::Result<Box<dyn Backend>, ConfigError>,
}

/// Every kind of source.
pub const SCHEMES: &[Scheme] = &[page_blob::SCHEME];

/// The row of [`SCHEMES`] that serves `source`.
///
/// Errors: no `://` in it, or a scheme that no row has; the message lists those there are.
pub fn scheme_of(source: &str) -> std::result::Result<&'static Scheme, ConfigError> {
    let forms = || SCHEMES.iter().map(|scheme| scheme.form).collect::<Vec<_>>().join(", ");
    let Some((name, _)) = source.split_once("://") else {
        return Err(ConfigError(format!("source {source:?} has no scheme; write {}", forms())));
    };
    SCHEMES
        .iter()
        .find(|scheme| scheme.names.contains(&name))
        .ok_or_else(|| ConfigError(format!("unknown scheme {name:?} in source; write {}", forms())))
}

/// What was typed about one source, and where its credentials may be.
pub struct SourceRequest<'a> {
    /// The source, `scheme://…`; may hold a SAS.
    pub source: &'a str,
    /// The `-o` words of this scheme that were given.
    pub options: &'a BTreeMap<String, Option<String>>,
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Every operation ends within this time, retries included.
    pub timeout: Duration,
    /// Where a host keeps what must outlive the process; `None` if nothing will be written.
    pub state_dir: Option<&'a Path>,
}

/// Shows neither the source, which may hold a SAS, nor the values of options.
impl fmt::Debug for SourceRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceRequest")
            .field("options", &self.options.keys().collect::<Vec<_>>())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A source that has been understood, credentials included, and not yet contacted.
pub trait Backend: fmt::Debug + Send + Sync {
    /// The source as it may be shown in `/proc/mounts` and logs: no secret in it.
    fn label(&self) -> String;

    /// How many requests may be in flight together for one kind of work.
    fn connections(&self) -> usize;

    /// Opens it: builds the client and asks the service once whether the source is there and may be
    /// used. Must run inside a tokio runtime.
    ///
    /// Errors: any kind; the message names the source and the remedy.
    fn connect(&self) -> crate::store::BoxFuture<'_, Result<Arc<dyn Store>>>;

    /// Takes away the right to write the blob at `path` from whoever has it, so that this host can have
    /// it. Says what it was. What that writer has not written yet is lost to it.
    ///
    /// Errors: `Unsupported` where there is no such right, `NotFound` if nobody has it; as the service
    /// says.
    fn break_lease<'a>(&'a self, path: &'a str) -> crate::store::BoxFuture<'a, Result<String>> {
        let why = "sources of this kind have no leases";
        let error = Error::new(ErrorKind::Unsupported, "break lease", path, why);
        Box::pin(async move { Err(error) })
    }
}

/// Something typed or configured that makes no sense: one line that names it and the remedy. Holds
/// no secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}
