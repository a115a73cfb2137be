//! What was typed, read as an account, a place in it, and a credential.
//!
//! Pure but for reading the credentials file. Messages name the thing and the remedy, and never hold
//! a secret.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::auth::Credential;
use super::credentials::{
    ACCOUNT, Auth, CONNECTION_STRING, ConnectionString, EMULATOR_ACCOUNT, EMULATOR_ENDPOINT,
    Wanted, check_sas, read_secret, wrong_file,
};
use super::encryption::{self, CustomerKey, Encryption};
use super::in_force::{CredentialsFile, Seen};
use super::lease::{SECONDS, Terms};
use super::verify::Verify;
use crate::backend::{ConfigError, OptionSpec, SourceRequest};
use crate::client::identity::Platform;

pub(super) type Result<T> = std::result::Result<T, ConfigError>;

/// The `-o` words of this backend.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "credentials",
        value: Some("FILE"),
        default: None,
        help: "read NAME=value lines with the names of the environment variables from FILE, which nobody else may read",
    },
    OptionSpec {
        name: "auth",
        value: Some("HOW"),
        default: Some("the first that is there"),
        help: "use this credential and no other: key, sas, entra, client_secret, client_certificate, workload_identity, managed_identity, azure_cli",
    },
    OptionSpec {
        name: "anonymous",
        value: None,
        default: None,
        help: "use a public container without a credential",
    },
    OptionSpec {
        name: "endpoint",
        value: Some("URL"),
        default: Some("https://ACCOUNT.blob.core.windows.net"),
        help: "the Blob service to ask: another cloud, a private endpoint, an emulator",
    },
    OptionSpec {
        name: "connections",
        value: Some("N"),
        default: Some("24"),
        help: "the most requests under way at once",
    },
    OptionSpec {
        name: "lease",
        value: Some("SECONDS"),
        default: Some("60"),
        help: "take the lease of blobs that are written, so that nobody else writes them: for 15 to 60 seconds at a time, infinite, or none",
    },
    OptionSpec {
        name: "verify",
        value: Some("CHECKSUM"),
        default: Some("crc64"),
        help: "send and ask for checksums of what is on its way: crc64, md5 or off",
    },
    OptionSpec {
        name: "show_snapshots",
        value: None,
        default: None,
        help: "list the directories .snapshots and .versions, which are there in any case",
    },
    OptionSpec {
        name: "cpk",
        value: Some("FILE"),
        default: None,
        help: "encrypt blobs with the key in FILE, base64 of 32 bytes, which is sent along and which nobody else may read",
    },
    OptionSpec {
        name: "encryption_scope",
        value: Some("NAME"),
        default: None,
        help: "encrypt blobs that are written under this scope of the account",
    },
];

/// The default of `-o connections`: enough to fill a gigabit link to a region 10 ms away, at 60 MiB/s
/// a connection, with 4 MiB requests.
const CONNECTIONS: usize = 24;

/// The default of `-o lease`, in seconds: the longest that ends by itself, which costs the fewest renewals.
const LEASE: Terms = Terms::Seconds(60);

/// A source, understood.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// The Blob service's URL, without a slash at the end.
    pub(super) endpoint: String,
    /// The account, for messages; a custom domain does not tell it.
    pub(super) account: String,
    /// The container; `None` for all of the account.
    pub(super) container: Option<String>,
    /// What follows the container: a directory or, at last, one blob. Empty for all of it.
    pub(super) path: String,
    /// Who we are.
    pub(super) credential: Credential,
    /// Where the credential came from, if it may change there.
    pub(super) file: Option<Arc<CredentialsFile>>,
    /// The source without secrets.
    pub(super) label: String,
    /// The most requests under way at once.
    pub(super) connections: usize,
    /// Every operation ends within this time.
    pub(super) timeout: Duration,
    /// How long blobs that are written are leased.
    pub(super) lease: Terms,
    /// The checksum of what is on its way.
    pub(super) verify: Verify,
    /// How blobs are encrypted.
    pub(super) encryption: Encryption,
    /// Where the host keeps what makes it one writer; `None` if nothing is to be written.
    pub(super) state_dir: Option<PathBuf>,
    /// Listings show the directory of snapshots.
    pub(super) show_snapshots: bool,
}

/// A message as an error.
pub(super) fn error<T>(message: impl Into<String>) -> Result<T> {
    Err(ConfigError(message.into()))
}

impl Config {
    /// Makes sense of a request.
    pub(super) fn parse(request: &SourceRequest<'_>) -> Result<Config> {
        let option = |name: &str| request.options.get(name).and_then(|value| value.as_deref());
        let file = option("credentials").map(Seen::read).transpose()?;
        let env = |name: &str| (request.env)(name).filter(|value| !value.is_empty());
        let lookup = |name: &str| match &file {
            Some(seen) => seen.get(name),
            None => env(name),
        };
        let anonymous = request.options.contains_key("anonymous");
        // A source that brings its own authorization is not to be disturbed by the environment.
        let known = if anonymous || request.source.contains("sig=") {
            None
        } else {
            lookup(CONNECTION_STRING).map(|text| ConnectionString::parse(&text)).transpose()?
        };

        let place = if let Some(rest) = request.source.strip_prefix("az://") {
            Place::of_account(rest, option("endpoint"), known.as_ref())?
        } else if option("endpoint").is_some() {
            return error(
                "-o endpoint: an http(s) source names its endpoint already; drop the option",
            );
        } else {
            Place::of_url(request.source)?
        };
        if let Some(container) = &place.container
            && !is_container_name(container)
        {
            return error(format!(
                "container {container:?} in the source: a container name has 3 to 63 lower-case letters, \
                 digits and single hyphens"
            ));
        }

        let account = place
            .account
            .clone()
            .or_else(|| known.as_ref().and_then(|known| known.account.clone()))
            .or_else(|| lookup(ACCOUNT));
        let auth = option("auth").map(Auth::parse).transpose()?;
        let given = match &place.sas {
            Some(sas) => Some(Credential::Sas(check_sas(sas, "the source")?)),
            None => anonymous.then_some(Credential::Anonymous),
        };
        if given.is_some() && auth.is_some() {
            return error("-o auth: the source or -o anonymous says already how; drop the option");
        }
        let wanted = Wanted {
            account: account.clone(),
            auth,
            endpoint: place.endpoint.clone(),
            file: option("credentials").map(str::to_owned),
            platform: Platform::read(request.env),
        };
        let (credential, file) = match (given, file) {
            (Some(credential), _) => (credential, None),
            (None, None) => (wanted.choose(&env)?, None),
            (None, Some(seen)) => {
                let path = option("credentials").unwrap_or_default();
                let find = move |seen: &Seen| wanted.choose(&|name| seen.get(name));
                let (file, credential) = CredentialsFile::new(path, seen, Box::new(find))?;
                (credential, Some(file))
            }
        };
        let connections = match option("connections") {
            None => CONNECTIONS,
            Some(text) => match text.parse() {
                Ok(count @ 1..=1024) => count,
                _ => {
                    return error(format!("-o connections={text}: write a number from 1 to 1024"));
                }
            },
        };
        let lease = match option("lease") {
            None => LEASE,
            Some("infinite") => Terms::Infinite,
            Some("none") => Terms::None,
            Some(text) => match text.parse() {
                Ok(seconds) if SECONDS.contains(&seconds) => Terms::Seconds(seconds),
                _ => {
                    return error(format!(
                        "-o lease={text}: write a number of seconds from 15 to 60, infinite or none"
                    ));
                }
            },
        };
        let verify = match option("verify").map(|text| (text, Verify::parse(text))) {
            None => Verify::Crc64,
            Some((_, Some(verify))) => verify,
            Some((text, None)) => {
                return error(format!("-o verify={text}: write crc64, md5 or off"));
            }
        };
        let encryption =
            read_encryption(option("cpk"), option("encryption_scope"), &place.endpoint)?;
        Ok(Config {
            endpoint: place.endpoint,
            account: account.unwrap_or_else(|| "(unknown)".to_owned()),
            container: place.container,
            path: place.path,
            credential,
            file,
            label: place.label,
            connections,
            timeout: request.timeout,
            lease,
            verify,
            encryption,
            state_dir: request.state_dir.map(Path::to_owned),
            show_snapshots: request.options.contains_key("show_snapshots"),
        })
    }
}

/// Reads the key, or checks the name of the scope.
fn read_encryption(
    key_file: Option<&str>,
    scope: Option<&str>,
    endpoint: &str,
) -> Result<Encryption> {
    match (key_file, scope) {
        (None, None) => Ok(Encryption::Default),
        (Some(_), Some(_)) => {
            error("-o cpk and -o encryption_scope are both given; the service takes one of them")
        }
        (None, Some(name)) => encryption::scope(name).map(Encryption::Scope).ok_or_else(|| {
            ConfigError(format!(
                "-o encryption_scope={name}: a scope's name has 3 to 63 letters, digits and hyphens"
            ))
        }),
        (Some(_), None) if !endpoint.starts_with("https://") => {
            error(format!("-o cpk: a key is sent over HTTPS alone, and the endpoint is {endpoint}"))
        }
        (Some(path), None) => {
            let text = read_secret("cpk", path)?;
            let why =
                "it does not hold the base64 of 32 bytes; make one with openssl rand -base64 32";
            let key = CustomerKey::new(&text).ok_or_else(|| wrong_file("cpk", path, &why))?;
            Ok(Encryption::Key(key))
        }
    }
}

/// What a source says by itself.
struct Place {
    endpoint: String,
    account: Option<String>,
    container: Option<String>,
    path: String,
    sas: Option<String>,
    label: String,
}

impl Place {
    /// `ACCOUNT[/CONTAINER[/PATH]][?SAS]`, what follows `az://`.
    fn of_account(
        rest: &str,
        endpoint: Option<&str>,
        known: Option<&ConnectionString>,
    ) -> Result<Place> {
        // A blob's name may hold a question mark, so only a signature makes a query.
        let (rest, sas) = match rest.rsplit_once('?') {
            Some((rest, query)) if query.contains("sig=") => (rest, Some(query.to_owned())),
            _ => (rest, None),
        };
        let (account, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let sound = (3..=24).contains(&account.len())
            && account.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !sound {
            return error(format!(
                "account {account:?} in the source: an account name has 3 to 24 lower-case letters and digits"
            ));
        }
        if let Some(theirs) = known.and_then(|known| known.account.as_deref())
            && theirs != account
        {
            return error(format!(
                "the source names account {account}, but {CONNECTION_STRING} is for account {theirs}; \
                 mount az://{theirs}/… or give the right connection string"
            ));
        }
        let endpoint = match (endpoint, known.and_then(ConnectionString::endpoint)) {
            (Some(url), _) => option_endpoint(url, account)?,
            (None, Some(url)) => url,
            (None, None) if account == EMULATOR_ACCOUNT => EMULATOR_ENDPOINT.to_owned(),
            (None, None) => format!("https://{account}.blob.core.windows.net"),
        };
        let (container, path) = split_path(rest)?;
        Ok(Place {
            label: join("az://", &[account, container.as_deref().unwrap_or(""), &path]),
            endpoint,
            account: Some(account.to_owned()),
            container,
            path,
            sas,
        })
    }

    /// `https://HOST[:PORT][/ACCOUNT]/CONTAINER[/PATH][?SAS]`
    fn of_url(source: &str) -> Result<Place> {
        let without_query = source.split('?').next().unwrap_or_default();
        let url = Url::parse(source)
            .map_err(|why| ConfigError(format!("source {without_query:?}: {why}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return error(
                "the source holds a user name or password, which the Blob service does not use; \
                 give a key by AZURE_STORAGE_KEY",
            );
        }
        let host =
            url.host_str().ok_or_else(|| ConfigError("the source has no host name".to_owned()))?;
        let decode = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| ConfigError("the path of the source is not UTF-8".to_owned()))
        };
        let mut rest = decode(url.path().trim_start_matches('/'))?;
        let origin = url.origin().ascii_serialization();
        let (account, endpoint) = if is_path_style(&url) {
            let (account, tail) = rest.split_once('/').unwrap_or((&rest, ""));
            let (account, tail) = (account.to_owned(), tail.to_owned());
            if account.is_empty() {
                return error(format!(
                    "source {without_query:?}: with a host like this the account comes first; \
                     write {origin}/ACCOUNT/CONTAINER"
                ));
            }
            rest = tail;
            let endpoint = format!("{origin}/{account}");
            (Some(account), endpoint)
        } else {
            (account_of_host(host), origin.clone())
        };
        let (container, path) = split_path(&rest)?;
        let sas = url.query().filter(|query| !query.is_empty());
        if let Some(query) = sas
            && !query.contains("sig=")
        {
            return error(
                "the query of the source is no shared access signature (there is no sig= in it); \
                 put the URL in quotes so that the shell does not cut it at &",
            );
        }
        Ok(Place {
            label: join(&format!("{endpoint}/"), &[container.as_deref().unwrap_or(""), &path]),
            endpoint,
            account,
            container,
            path,
            sas: sas.map(str::to_owned),
        })
    }
}

/// `first` and the parts that are not empty, with slashes between.
fn join(first: &str, parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    let text = format!("{first}{}", parts.join("/"));
    text.trim_end_matches('/').to_owned()
}

/// `CONTAINER[/PATH]` in two.
fn split_path(text: &str) -> Result<(Option<String>, String)> {
    let (container, path) = text.split_once('/').unwrap_or((text, ""));
    let path = path.trim_end_matches('/');
    if container.is_empty() && !path.is_empty() {
        return error("the source has an empty container name; write ACCOUNT/CONTAINER/PATH");
    }
    if crate::store::RemotePath::new(path).is_none() {
        return error(format!("path {path:?} in the source holds an empty name, . or .."));
    }
    Ok((Some(container.to_owned()).filter(|name| !name.is_empty()), path.to_owned()))
}

/// Whether the account is the first part of the path and not of the host.
pub(super) fn is_path_style(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        Some(Host::Domain(name)) => !name.contains('.') || name.ends_with(".localhost"),
        None => false,
    }
}

/// The account that a host like `ACCOUNT.blob.core.windows.net` names.
pub(super) fn account_of_host(host: &str) -> Option<String> {
    let (account, rest) = host.split_once('.')?;
    // DNS zones of the service put more labels before `blob`.
    if !(rest.starts_with("blob.") || rest.contains(".blob.")) {
        return None;
    }
    let account = account.strip_suffix("-secondary").unwrap_or(account);
    Some(account.to_owned())
}

/// The endpoint of `-o endpoint=URL` for `account`.
fn option_endpoint(text: &str, account: &str) -> Result<String> {
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        _ => {
            return error(
                "-o endpoint: write a URL such as https://ACCOUNT.blob.core.chinacloudapi.cn",
            );
        }
    };
    if url.query().is_some() {
        return error(
            "-o endpoint: the URL has a query; give a shared access signature by AZURE_STORAGE_SAS_TOKEN",
        );
    }
    let path = url.path().trim_matches('/');
    let origin = url.origin().ascii_serialization();
    match path {
        "" if is_path_style(&url) => Ok(format!("{origin}/{account}")),
        "" => Ok(origin),
        path if path == account => Ok(format!("{origin}/{account}")),
        _ => error(format!(
            "-o endpoint: its path is /{path}, but only the account, /{account}, can stand there"
        )),
    }
}

/// Whether a container may be named so ("Naming and referencing containers").
pub(super) fn is_container_name(name: &str) -> bool {
    let special = ["$root", "$web", "$logs", "$blobchangefeed"];
    let sound = (3..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    sound || special.contains(&name)
}
