//! What was typed, read as an account, a place in it, and a credential.
//!
//! Pure but for reading the credentials file. Messages name the thing and the remedy, and never hold
//! a secret.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::auth::{Credential, SharedKey};
use crate::backend::{ConfigError, OptionSpec, SourceRequest};

type Result<T> = std::result::Result<T, ConfigError>;

/// The `-o` words of this backend.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "credentials",
        value: Some("FILE"),
        default: None,
        help: "read NAME=value lines with the names of the environment variables from FILE, which nobody else may read",
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
];

/// The default of `-o connections`: enough to fill a gigabit link to a region 10 ms away, at 60 MiB/s
/// a connection, with 4 MiB requests.
const CONNECTIONS: usize = 24;

const CONNECTION_STRING: &str = "AZURE_STORAGE_CONNECTION_STRING";
const ACCOUNT: &str = "AZURE_STORAGE_ACCOUNT";
const KEY: &str = "AZURE_STORAGE_KEY";
const SAS_TOKEN: &str = "AZURE_STORAGE_SAS_TOKEN";

/// The account that every emulator knows, its public key, and where emulators listen.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const EMULATOR_ENDPOINT: &str = "http://127.0.0.1:10000/devstoreaccount1";

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
    /// The source without secrets.
    pub(super) label: String,
    /// The most requests under way at once.
    pub(super) connections: usize,
    /// Every operation ends within this time.
    pub(super) timeout: Duration,
}

fn error<T>(message: impl Into<String>) -> Result<T> {
    Err(ConfigError(message.into()))
}

impl Config {
    /// Makes sense of a request.
    pub(super) fn parse(request: &SourceRequest<'_>) -> Result<Config> {
        let option = |name: &str| request.options.get(name).and_then(|value| value.as_deref());
        let file = option("credentials").map(read_credentials).transpose()?;
        let lookup = |name: &str| {
            match &file {
                Some(values) => values.get(name).cloned(),
                None => (request.env)(name),
            }
            .filter(|value| !value.is_empty())
        };
        let from = match &file {
            Some(_) => "the credentials file",
            None => "the environment",
        };
        let known =
            lookup(CONNECTION_STRING).map(|text| ConnectionString::parse(&text)).transpose()?;
        let anonymous = request.options.contains_key("anonymous");

        let place = if let Some(rest) = request.source.strip_prefix("az://") {
            Place::of_account(rest, option("endpoint"), known.as_ref())?
        } else if option("endpoint").is_some() {
            return error(
                "-o endpoint: an http(s) source names its endpoint already; drop the option",
            );
        } else {
            Place::of_url(request.source)?
        };
        if let Some(container) = &place.container {
            check_container(container)?;
        }

        let account = place
            .account
            .clone()
            .or_else(|| known.as_ref().and_then(|known| known.account.clone()))
            .or_else(|| lookup(ACCOUNT));
        let credential = if anonymous {
            Credential::Anonymous
        } else if let Some(sas) = &place.sas {
            Credential::Sas(check_sas(sas, "the source")?)
        } else {
            match known {
                Some(known) => known.credential(account.as_deref(), from)?,
                None => None,
            }
            .map_or_else(|| find_credential(account.as_deref(), &lookup, from), Ok)?
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
        Ok(Config {
            endpoint: place.endpoint,
            account: account.unwrap_or_else(|| "(unknown)".to_owned()),
            container: place.container,
            path: place.path,
            credential,
            label: place.label,
            connections,
            timeout: request.timeout,
        })
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
fn is_path_style(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        Some(Host::Domain(name)) => !name.contains('.') || name.ends_with(".localhost"),
        None => false,
    }
}

/// The account that a host like `ACCOUNT.blob.core.windows.net` names.
fn account_of_host(host: &str) -> Option<String> {
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
fn check_container(name: &str) -> Result<()> {
    let special = ["$root", "$web", "$logs", "$blobchangefeed"];
    let sound = (3..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if sound || special.contains(&name) {
        return Ok(());
    }
    error(format!(
        "container {name:?} in the source: a container name has 3 to 63 lower-case letters, digits and single hyphens"
    ))
}

/// The tokens of a shared access signature, without `?`.
fn check_sas(text: &str, from: &str) -> Result<Arc<str>> {
    let text = text.trim().trim_start_matches('?');
    let sound = text.contains("sig=") && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !sound {
        return error(format!(
            "the shared access signature in {from} is damaged: it must have a sig= and no spaces; copy it again"
        ));
    }
    Ok(Arc::from(text))
}

/// A credential by the other variables.
fn find_credential(
    account: Option<&str>,
    lookup: &dyn Fn(&str) -> Option<String>,
    from: &str,
) -> Result<Credential> {
    if let Some(key) = lookup(KEY) {
        let Some(account) = account else {
            return error(format!("{KEY} is given, but not for which account; set {ACCOUNT}"));
        };
        if let Some(theirs) = lookup(ACCOUNT)
            && theirs != account
        {
            return error(format!(
                "the source names account {account}, but {ACCOUNT} says that {KEY} is for account {theirs}; \
                 give the key of {account}"
            ));
        }
        return shared_key(account, &key, &format!("{KEY} in {from}"));
    }
    if let Some(sas) = lookup(SAS_TOKEN) {
        return Ok(Credential::Sas(check_sas(&sas, SAS_TOKEN)?));
    }
    if account == Some(EMULATOR_ACCOUNT) {
        return shared_key(EMULATOR_ACCOUNT, EMULATOR_KEY, "the emulators' account");
    }
    error(format!(
        "no credential for account {} in {from}: set {CONNECTION_STRING}, or {KEY}, or {SAS_TOKEN}; \
         or name a file that holds one by -o credentials=FILE; or give -o anonymous for a public container",
        account.unwrap_or("(unknown)")
    ))
}

fn shared_key(account: &str, key: &str, what: &str) -> Result<Credential> {
    SharedKey::new(account, key).map_or_else(
        || error(format!("{what} is not base64; copy the whole key, = signs included")),
        |key| Ok(Credential::SharedKey(key)),
    )
}

/// A connection string, as far as it concerns blobs.
struct ConnectionString {
    account: Option<String>,
    key: Option<String>,
    sas: Option<String>,
    blob_endpoint: Option<String>,
    protocol: String,
    suffix: String,
}

impl ConnectionString {
    fn parse(text: &str) -> Result<ConnectionString> {
        let mut values = BTreeMap::new();
        for pair in text.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return error(format!(
                    "{CONNECTION_STRING} is damaged: between semicolons there must be Name=Value; \
                     copy it again, in quotes"
                ));
            };
            values.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut take = |name: &str| values.remove(name).filter(|value| !value.is_empty());
        if take("usedevelopmentstorage").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(ConnectionString {
                account: Some(EMULATOR_ACCOUNT.to_owned()),
                key: Some(EMULATOR_KEY.to_owned()),
                sas: None,
                blob_endpoint: Some(EMULATOR_ENDPOINT.to_owned()),
                protocol: String::new(),
                suffix: String::new(),
            });
        }
        let blob_endpoint = take("blobendpoint");
        let from_endpoint = || {
            let url = Url::parse(blob_endpoint.as_deref()?).ok()?;
            if is_path_style(&url) {
                let path = url.path().trim_matches('/');
                return Some(path.to_owned()).filter(|path| !path.is_empty());
            }
            account_of_host(url.host_str()?)
        };
        let account = take("accountname").or_else(from_endpoint);
        let found = ConnectionString {
            account,
            key: take("accountkey"),
            sas: take("sharedaccesssignature"),
            protocol: take("defaultendpointsprotocol").unwrap_or_else(|| "https".to_owned()),
            suffix: take("endpointsuffix").unwrap_or_else(|| "core.windows.net".to_owned()),
            blob_endpoint,
        };
        if found.account.is_none() && found.blob_endpoint.is_none() {
            return error(format!(
                "{CONNECTION_STRING} has neither AccountName nor BlobEndpoint; copy it again, in quotes"
            ));
        }
        if !matches!(&*found.protocol, "http" | "https") {
            return error(format!(
                "{CONNECTION_STRING}: DefaultEndpointsProtocol is neither http nor https"
            ));
        }
        Ok(found)
    }

    fn endpoint(&self) -> Option<String> {
        let made = || {
            let account = self.account.as_ref()?;
            Some(format!("{}://{account}.blob.{}", self.protocol, self.suffix))
        };
        let endpoint = self.blob_endpoint.clone().or_else(made)?;
        Some(endpoint.trim_end_matches('/').to_owned())
    }

    /// Its credential, which must be for `account`; `None` if it has none.
    fn credential(self, account: Option<&str>, from: &str) -> Result<Option<Credential>> {
        if let (Some(wanted), Some(theirs)) = (account, &self.account)
            && wanted != theirs
        {
            return error(format!(
                "the source names account {wanted}, but {CONNECTION_STRING} is for account {theirs}; \
                 give the right connection string"
            ));
        }
        match (self.account.as_deref().or(account), self.key, self.sas) {
            (Some(account), Some(key), _) => {
                let what = format!("AccountKey of {CONNECTION_STRING} in {from}");
                shared_key(account, &key, &what).map(Some)
            }
            (_, _, Some(sas)) => Ok(Some(Credential::Sas(check_sas(&sas, CONNECTION_STRING)?))),
            (_, _, None) => Ok(None),
        }
    }
}

/// The longest credentials file, in bytes: a few lines.
const LONGEST_FILE: u64 = 64 << 10;

/// Reads `NAME=value` lines. Empty lines and lines that begin with `#` count for nothing; quotes
/// around a value are taken off.
fn read_credentials(path: &str) -> Result<BTreeMap<String, String>> {
    let whats_wrong =
        |why: &dyn std::fmt::Display| ConfigError(format!("-o credentials={path}: {why}"));
    let mut file = File::open(path).map_err(|why| whats_wrong(&why))?;
    let meta = file.metadata().map_err(|why| whats_wrong(&why))?;
    if !meta.is_file() {
        return Err(whats_wrong(&"it is not a regular file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(whats_wrong(&format!(
            "others can read it (mode {:03o}); run chmod 600 {path}",
            meta.mode() & 0o777
        )));
    }
    let mut text = String::new();
    file.by_ref().take(LONGEST_FILE).read_to_string(&mut text).map_err(|why| whats_wrong(&why))?;
    let mut values = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.strip_prefix("export ").unwrap_or(line).split_once('=');
        let Some((name, value)) = pair else {
            return Err(whats_wrong(&format!("line {} is not NAME=value", number + 1)));
        };
        let (name, value) = (name.trim(), value.trim());
        if ![CONNECTION_STRING, ACCOUNT, KEY, SAS_TOKEN].contains(&name) {
            return Err(whats_wrong(&format!(
                "line {} is for none of {CONNECTION_STRING}, {ACCOUNT}, {KEY}, {SAS_TOKEN}",
                number + 1
            )));
        }
        let bare = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
            .unwrap_or(value);
        values.insert(name.to_owned(), bare.to_owned());
    }
    Ok(values)
}
