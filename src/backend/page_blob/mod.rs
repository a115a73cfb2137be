//! Azure page blobs.

use super::{Backend, ConfigError, Scheme, SourceRequest};

/// The row of this backend in the scheme table.
pub const SCHEME: Scheme = Scheme {
    names: &["az", "https", "http"],
    form: "az://ACCOUNT[/CONTAINER[/PREFIX]]",
    summary: "Azure page blobs, read and written in place; block and append blobs read-only",
    options: &[],
    parse,
};

fn parse(request: &SourceRequest<'_>) -> Result<Box<dyn Backend>, ConfigError> {
    Err(ConfigError(format!("{}: no client yet", request.source)))
}
