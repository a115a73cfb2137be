//! Where credentials come from: a connection string, single variables, or a file of them; and which one is
//! taken where there are several.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use url::Url;

use super::auth::Credential;
use super::config::{Result, account_of_host, error, is_path_style};
use super::entra;
use super::shared_key::SharedKey;
use crate::backend::ConfigError;
use crate::client::identity::{Kind, Platform, Settings};

pub(super) const CONNECTION_STRING: &str = "AZURE_STORAGE_CONNECTION_STRING";
pub(super) const ACCOUNT: &str = "AZURE_STORAGE_ACCOUNT";
pub(super) const KEY: &str = "AZURE_STORAGE_KEY";
pub(super) const SAS_TOKEN: &str = "AZURE_STORAGE_SAS_TOKEN";

/// The account that every emulator knows, its public key, and where emulators listen.
pub(super) const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
pub(super) const EMULATOR_ENDPOINT: &str = "http://127.0.0.1:10000/devstoreaccount1";

/// The tokens of a shared access signature, without `?`.
pub(super) fn check_sas(text: &str, from: &str) -> Result<Arc<str>> {
    let text = text.trim().trim_start_matches('?');
    let sound = text.contains("sig=") && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !sound {
        return error(format!(
            "the shared access signature in {from} is damaged: it must have a sig= and no spaces; copy it again"
        ));
    }
    Ok(Arc::from(text))
}

/// What `-o auth=` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Auth {
    /// An account key.
    Key,
    /// A shared access signature.
    Sas,
    /// An Entra identity, the first that is there.
    Entra,
    /// This Entra identity.
    Identity(Kind),
}

impl Auth {
    /// Reads a word of `-o auth=`.
    pub(super) fn parse(word: &str) -> Result<Auth> {
        let known = [("key", Auth::Key), ("sas", Auth::Sas), ("entra", Auth::Entra)];
        let identities = Kind::ALL.map(|kind| (kind.word(), Auth::Identity(kind)));
        let all = || known.iter().chain(&identities);
        match all().find(|(name, _)| *name == word) {
            Some((_, auth)) => Ok(*auth),
            None => {
                let names: Vec<&str> = all().map(|(name, _)| *name).collect();
                error(format!("-o auth={word}: write one of {}", names.join(", ")))
            }
        }
    }
}

/// All that decides about the credential but the values of variables, which may change.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The account, where the source or a variable names it.
    pub(super) account: Option<String>,
    /// What the user asks for.
    pub(super) auth: Option<Auth>,
    /// The service's URL.
    pub(super) endpoint: String,
    /// The values are those of a file; its path.
    pub(super) file: Option<String>,
    /// What the machine says of itself.
    pub(super) platform: Platform,
}

impl Wanted {
    /// The credential that the variables give.
    ///
    /// Errors: there is none, it is damaged or of another account.
    pub(super) fn choose(&self, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Credential> {
        let settings = || Settings::read(lookup, self.platform.clone());
        let is = |auth| self.auth.is_none_or(|wanted| wanted == auth);
        match self.auth {
            Some(Auth::Identity(kind)) => return entra::of_kind(kind, &settings(), &self.endpoint),
            Some(Auth::Entra) => {
                let hint = "no Entra identity is here".to_owned();
                return entra::in_usual_order(&settings(), &self.endpoint, hint);
            }
            None | Some(Auth::Key | Auth::Sas) => {}
        }
        let account = self.account.as_deref();
        if let Some(text) = lookup(CONNECTION_STRING)
            && let Some(found) =
                ConnectionString::parse(&text)?.credential(account, self.from(), is(Auth::Key))?
            && is(match found {
                Credential::SharedKey(_) => Auth::Key,
                _ => Auth::Sas,
            })
        {
            return Ok(found);
        }
        if is(Auth::Key)
            && let Some(key) = lookup(KEY)
        {
            return self.key(&key, lookup(ACCOUNT));
        }
        if is(Auth::Sas)
            && let Some(sas) = lookup(SAS_TOKEN)
        {
            return Ok(Credential::Sas(check_sas(&sas, SAS_TOKEN)?));
        }
        if is(Auth::Key) && account == Some(EMULATOR_ACCOUNT) {
            return shared_key(EMULATOR_ACCOUNT, EMULATOR_KEY, "the emulators' account");
        }
        let hint = self.hint();
        // What a file does not name is not looked for elsewhere.
        let settings = settings();
        let is_possible = self.auth.is_none()
            && entra::may_go_to(&self.endpoint)
            && (self.file.is_none() || settings.names_an_application());
        if !is_possible {
            return error(hint);
        }
        let hint = format!("{hint}; and no Entra identity is here");
        entra::in_usual_order(&settings, &self.endpoint, hint)
    }

    fn from(&self) -> &'static str {
        if self.file.is_some() { "the credentials file" } else { "the environment" }
    }

    fn key(&self, key: &str, theirs: Option<String>) -> Result<Credential> {
        let Some(account) = self.account.as_deref() else {
            return error(format!("{KEY} is given, but not for which account; set {ACCOUNT}"));
        };
        if let Some(theirs) = theirs
            && theirs != account
        {
            return error(format!(
                "the source names account {account}, but {ACCOUNT} says that {KEY} is for account {theirs}; \
                 give the key of {account}"
            ));
        }
        shared_key(account, key, &format!("{KEY} in {}", self.from()))
    }

    /// That there is nothing, and what to do.
    fn hint(&self) -> String {
        format!(
            "no credential for account {} in {}: set {CONNECTION_STRING}, or {KEY}, or {SAS_TOKEN}, or the \
             variables of an Entra identity; or name a file that holds one by -o credentials=FILE; or give \
             -o anonymous for a public container",
            self.account.as_deref().unwrap_or("(unknown)"),
            self.from()
        )
    }
}

fn shared_key(account: &str, key: &str, what: &str) -> Result<Credential> {
    SharedKey::new(account, key).map_or_else(
        || error(format!("{what} is not base64; copy the whole key, = signs included")),
        |key| Ok(Credential::SharedKey(key)),
    )
}

/// A connection string, as far as it concerns blobs.
pub(super) struct ConnectionString {
    /// The account that it is for, where it says.
    pub(super) account: Option<String>,
    key: Option<String>,
    sas: Option<String>,
    blob_endpoint: Option<String>,
    protocol: String,
    suffix: String,
}

impl ConnectionString {
    /// Reads one.
    pub(super) fn parse(text: &str) -> Result<ConnectionString> {
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
        let blob_endpoint = match take("blobendpoint").map(|text| Url::parse(&text)) {
            None => None,
            Some(Ok(url)) if url.has_host() && url.query().is_none() => {
                let text = format!("{}{}", url.origin().ascii_serialization(), url.path());
                Some(text.trim_end_matches('/').to_owned())
            }
            Some(_) => {
                return error(format!(
                    "{CONNECTION_STRING}: BlobEndpoint is no plain URL; write \
                     BlobEndpoint=https://HOST and put a signature in SharedAccessSignature"
                ));
            }
        };
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

    /// The Blob service that it names.
    pub(super) fn endpoint(&self) -> Option<String> {
        match (&self.blob_endpoint, &self.account) {
            (Some(endpoint), _) => Some(endpoint.clone()),
            (None, Some(account)) => {
                Some(format!("{}://{account}.blob.{}", self.protocol, self.suffix))
            }
            (None, None) => None,
        }
    }

    /// Its credential, which must be for `account`: its key if that will do. `None` if it has none.
    pub(super) fn credential(
        self,
        account: Option<&str>,
        from: &str,
        by_key: bool,
    ) -> Result<Option<Credential>> {
        if let (Some(wanted), Some(theirs)) = (account, &self.account)
            && wanted != theirs
        {
            return error(format!(
                "the source names account {wanted}, but {CONNECTION_STRING} is for account {theirs}; \
                 give the right connection string"
            ));
        }
        match (self.account.as_deref().or(account), self.key, self.sas) {
            (Some(account), Some(key), _) if by_key => {
                let what = format!("AccountKey of {CONNECTION_STRING} in {from}");
                shared_key(account, &key, &what).map(Some)
            }
            (_, _, Some(sas)) => Ok(Some(Credential::Sas(check_sas(&sas, CONNECTION_STRING)?))),
            (_, _, None) => Ok(None),
        }
    }
}

/// The longest file of secrets, in bytes: a few lines.
const LONGEST_FILE: u64 = 64 << 10;

/// The text of a file that was named by an option, and that nobody else may read.
pub(super) fn read_secret(option: &str, path: &str) -> Result<String> {
    let whats_wrong = |why: &dyn std::fmt::Display| wrong_file(option, path, why);
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
    Ok(text)
}

/// What is wrong with a file that was named by an option.
pub(super) fn wrong_file(option: &str, path: &str, why: &dyn std::fmt::Display) -> ConfigError {
    ConfigError(format!("-o {option}={path}: {why}"))
}

/// Reads `NAME=value` lines. Empty lines and lines that begin with `#` count for nothing; quotes
/// around a value are taken off.
pub(super) fn read_credentials(path: &str) -> Result<BTreeMap<String, String>> {
    let whats_wrong = |why: &dyn std::fmt::Display| wrong_file("credentials", path, why);
    let text = read_secret("credentials", path)?;
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
        let of_storage = [CONNECTION_STRING, ACCOUNT, KEY, SAS_TOKEN];
        if !of_storage.iter().chain(&Settings::NAMES).any(|known| *known == name) {
            return Err(whats_wrong(&format!(
                "line {} is for none of {}, nor of an Entra application",
                number + 1,
                of_storage.join(", ")
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
