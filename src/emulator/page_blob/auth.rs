//! Who may do what: Shared Key, service and account SAS, bearer tokens, anonymous reads.
//!
//! Written from the protocol, and shares nothing with any client: signatures that agree were arrived
//! at twice. Knows requests and keys, not blobs; public access is looked up by the caller.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, Method};
use parking_lot::RwLock;
use sha2::Sha256;

use super::clock::{Clock, parse_http_date, parse_iso, real_ms};
use super::error::{self, Code, Failure};
use super::operation::Operation;
use super::record::Public;
use super::request::{Query, Target, header};
use crate::emulator::identity::Issuer;

/// How far a request's date may be off: 15 minutes.
const DATE_TOLERANCE_MS: i64 = 15 * 60 * 1000;

/// First version whose SAS names an encryption scope in what is signed.
const SAS_WITH_SCOPE: &str = "2020-12-06";
/// First version whose SAS names resource and snapshot in what is signed; older ones are refused.
const SAS_WITH_RESOURCE: &str = "2018-11-09";

/// What tokens for this service are for, in the two spellings that clients use.
const AUDIENCES: [&str; 2] = ["https://storage.azure.com", "https://storage.azure.com/"];

/// How a caller proved to be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// Holds the account's key.
    SharedKey,
    /// Holds a token.
    Bearer,
    /// Holds a signature, which may allow creating but not replacing.
    Sas {
        /// Put Blob may not replace.
        create_only: bool,
    },
    /// Nobody: only public containers can be read.
    Anonymous,
}

/// The parts of a request that authorisation looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Presented<'a> {
    pub(super) op: Operation,
    pub(super) method: &'a Method,
    /// The path as it came, encoded.
    pub(super) raw_path: &'a str,
    pub(super) target: &'a Target,
    pub(super) query: &'a Query,
    pub(super) headers: &'a HeaderMap,
    /// It came over TLS.
    pub(super) secure: bool,
}

/// Keys and tokens.
pub(super) struct Authority {
    /// Ready-keyed, so that a request costs no key schedule.
    keys: RwLock<HashMap<String, Hmac<Sha256>>>,
    /// Tokens and when they end.
    tokens: RwLock<HashMap<String, Option<i64>>>,
    /// Whose tokens are good besides.
    issuer: Option<Arc<Issuer>>,
    /// Those of its tokens that were accepted.
    accepted: RwLock<HashSet<String>>,
    check_date: bool,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("accounts", &self.keys.read().keys())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Keys are given in base64. Returns the account whose key is not.
    pub(super) fn new<'a>(
        accounts: impl Iterator<Item = (&'a str, &'a str)>,
        check_date: bool,
        issuer: Option<Arc<Issuer>>,
    ) -> Result<Self, String> {
        let authority = Self {
            issuer,
            check_date,
            keys: RwLock::default(),
            tokens: RwLock::default(),
            accepted: RwLock::default(),
        };
        for (name, key) in accounts {
            authority.set_key(name, key)?;
        }
        Ok(authority)
    }

    /// Gives an account this key, in base64, instead of the one that it had. Returns its name if that
    /// is not base64.
    pub(super) fn set_key(&self, account: &str, key: &str) -> Result<(), String> {
        let key = STANDARD.decode(key).map_err(|_| account.to_owned())?;
        let mac = Hmac::new_from_slice(&key).map_err(|_| account.to_owned())?;
        self.keys.write().insert(account.to_owned(), mac);
        Ok(())
    }

    /// How many tokens of the issuer were accepted, each counted once.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.read().len()
    }

    /// Accepts a bearer token, until `expires_ms` where that is given.
    pub(super) fn add_token(&self, token: String, expires_ms: Option<i64>) {
        self.tokens.write().insert(token, expires_ms);
    }

    /// Every token that was accepted so far is refused from now on.
    pub(super) fn revoke_tokens(&self) {
        self.tokens.write().clear();
    }

    /// Decides who is asking, and whether that one may.
    pub(super) fn authorize(
        &self,
        asked: Presented<'_>,
        clock: &Clock,
        public: impl FnOnce() -> Option<Public>,
    ) -> Result<Identity, Failure> {
        let authorization = header(asked.headers, "authorization")?;
        if !self.keys.read().contains_key(&asked.target.account) {
            return Err(error::RESOURCE_NOT_FOUND.into());
        }
        match authorization {
            Some(value) => {
                let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
                if scheme.eq_ignore_ascii_case("sharedkey") {
                    self.shared_key(asked, rest)
                } else if scheme.eq_ignore_ascii_case("bearer") {
                    if header(asked.headers, "x-ms-version")?.is_none() {
                        return Err(error::missing_header("x-ms-version"));
                    }
                    self.bearer(rest, clock)
                } else {
                    Err(error::AUTHENTICATION_FAILED
                        .with("AuthenticationErrorDetail", "Unsupported authentication scheme"))
                }
            }
            None if asked.query.get("sig").is_some() => self.sas(asked, clock),
            None => self.anonymous(asked, public()),
        }
    }

    fn shared_key(&self, asked: Presented<'_>, rest: &str) -> Result<Identity, Failure> {
        let refuse =
            |detail: &str| error::AUTHENTICATION_FAILED.with("AuthenticationErrorDetail", detail);
        let (account, signature) =
            rest.split_once(':').ok_or_else(|| refuse("Malformed Authorization header"))?;
        if account != asked.target.account {
            return Err(refuse("The account is another than the one in the path"));
        }
        if header(asked.headers, "x-ms-version")?.is_none() {
            return Err(error::missing_header("x-ms-version"));
        }
        let date = header(asked.headers, "x-ms-date")?.or(header(asked.headers, "date")?);
        let date = date.ok_or_else(|| refuse("No date"))?;
        let date =
            parse_http_date(date).ok_or_else(|| refuse("The date is not in RFC 1123 form"))?;
        if self.check_date && (real_ms() - date).abs() > DATE_TOLERANCE_MS {
            return Err(refuse("Request date header too old or in the future"));
        }
        let text = string_to_sign(asked)?;
        self.verify(account, &text, signature).map_err(|()| {
            // What was signed helps to find the mistake and holds no secret.
            log::debug!(target: "emulator", "signature refused for {}", text.escape_debug());
            refuse("The MAC signature found in the HTTP request is not the same as any computed signature")
        })?;
        Ok(Identity::SharedKey)
    }

    fn bearer(&self, token: &str, clock: &Clock) -> Result<Identity, Failure> {
        let expires = self.tokens.read().get(token).copied();
        match expires {
            Some(at) if at.is_none_or(|at| clock.now_ms() < at) => return Ok(Identity::Bearer),
            _ => {}
        }
        let issuer = self.issuer.as_ref().ok_or("Unknown token");
        match issuer.and_then(|issuer| issuer.check(token, &AUDIENCES, clock.now_ms())) {
            Ok(()) => {
                if !self.accepted.read().contains(token) {
                    self.accepted.write().insert(token.to_owned());
                }
                Ok(Identity::Bearer)
            }
            Err(why) => Err(self
                .challenge(error::INVALID_AUTHENTICATION_INFO)
                .with("AuthenticationErrorDetail", why)),
        }
    }

    fn sas(&self, asked: Presented<'_>, clock: &Clock) -> Result<Identity, Failure> {
        let get = |name| asked.query.get(name).unwrap_or("");
        let refuse =
            |detail: &str| error::AUTHENTICATION_FAILED.with("AuthenticationErrorDetail", detail);
        let version = get("sv");
        if version < SAS_WITH_RESOURCE || super::request::known_version(version).is_none() {
            return Err(refuse("sv is not a supported version"));
        }
        if asked.query.get("skoid").is_some() || asked.query.filled("si").is_some() {
            return Err(refuse("User delegation and stored policies are not known here"));
        }
        let of_account = asked.query.get("ss").is_some();
        let text = if of_account { account_sas(asked) } else { service_sas(asked)? };
        self.verify(&asked.target.account, &text, get("sig"))
            .map_err(|()| refuse("Signature did not match"))?;

        let now = clock.now_ms();
        let time = |name| match asked.query.filled(name) {
            None => Ok(None),
            Some(text) => parse_iso(text).map(Some).ok_or_else(|| refuse("Malformed time")),
        };
        if time("st")?.is_some_and(|start| now < start) {
            return Err(refuse("Signature not valid yet"));
        }
        if time("se")?.is_none_or(|end| now >= end) {
            return Err(refuse("Signature not valid in the specified time frame"));
        }
        let scheme = if asked.secure { "https" } else { "http" };
        if asked.query.filled("spr").is_some_and(|spr| !spr.split(',').any(|p| p == scheme)) {
            return Err(error::PROTOCOL_MISMATCH.into());
        }
        if of_account {
            if !get("ss").contains('b') {
                return Err(error::SERVICE_MISMATCH.into());
            }
            let kind = match asked.target {
                Target { container: None, .. } => 's',
                Target { blob: None, .. } if asked.op != Operation::ListBlobs => 'c',
                Target { blob: None, .. } => 'c',
                Target { .. } => 'o',
            };
            if !get("srt").contains(kind) {
                return Err(error::RESOURCE_TYPE_MISMATCH.into());
            }
        } else if asked.target.blob.is_none() && asked.op != Operation::ListBlobs {
            return Err(error::PERMISSION_MISMATCH.into());
        }
        let granted = get("sp");
        if !needed(asked.op).chars().any(|letter| granted.contains(letter)) {
            return Err(error::PERMISSION_MISMATCH.into());
        }
        Ok(Identity::Sas { create_only: !granted.contains('w') })
    }

    fn verify(&self, account: &str, text: &str, signature: &str) -> Result<(), ()> {
        let signature = STANDARD.decode(signature).map_err(drop)?;
        let mut mac = self.keys.read().get(account).ok_or(())?.clone();
        mac.update(text.as_bytes());
        mac.verify_slice(&signature).map_err(drop)
    }

    fn anonymous(&self, asked: Presented<'_>, public: Option<Public>) -> Result<Identity, Failure> {
        let of_blob = asked.target.blob.is_some();
        let allowed = asked.op.is_read()
            && match public {
                None => false,
                Some(Public::Blob) => of_blob,
                Some(Public::Container) => asked.target.container.is_some(),
            };
        if allowed {
            return Ok(Identity::Anonymous);
        }
        // Without a version this is a browser, which is not told that there is something to hide.
        if asked.headers.contains_key("x-ms-version") {
            Err(self.challenge(error::NO_AUTHENTICATION_INFORMATION))
        } else {
            Err(error::RESOURCE_NOT_FOUND.into())
        }
    }

    /// A refusal that says where tokens come from.
    fn challenge(&self, code: Code) -> Failure {
        let nobody = "00000000-0000-0000-0000-000000000000";
        let tenant = self.issuer.as_ref().map_or(nobody, |issuer| issuer.tenant());
        let value = format!(
            "Bearer authorization_uri=\"https://login.microsoftonline.com/{tenant}/oauth2/authorize\" \
             resource_id=\"https://storage.azure.com\""
        );
        Failure::from(code).header("www-authenticate", value)
    }
}

/// The permissions of a SAS of which one is enough.
fn needed(op: Operation) -> &'static str {
    match op {
        Operation::GetBlob
        | Operation::GetBlobProperties
        | Operation::GetBlobMetadata
        | Operation::GetPageRanges
        | Operation::GetBlockList
        | Operation::GetContainerProperties
        | Operation::GetContainerAcl
        | Operation::GetServiceProperties => "r",
        Operation::GetAccountInformation => "racwdl",
        Operation::ListBlobs | Operation::ListContainers => "l",
        Operation::PutBlob
        | Operation::CopyBlob
        | Operation::SnapshotBlob
        | Operation::PutBlock
        | Operation::PutBlockList
        | Operation::CreateContainer => "cw",
        Operation::AppendBlock => "aw",
        Operation::DeleteBlob | Operation::DeleteContainer => "d",
        Operation::LeaseBlob | Operation::LeaseContainer => "wd",
        Operation::PutPage
        | Operation::ClearPages
        | Operation::PutPageFromUrl
        | Operation::SetBlobProperties
        | Operation::SetBlobMetadata
        | Operation::AbortCopyBlob
        | Operation::UndeleteBlob
        | Operation::SetContainerMetadata
        | Operation::SetContainerAcl => "w",
    }
}

fn string_to_sign(asked: Presented<'_>) -> Result<String, Failure> {
    let get = |name: &'static str| Ok::<_, Failure>(header(asked.headers, name)?.unwrap_or(""));
    let has_ms_date = asked.headers.contains_key("x-ms-date");
    let mut text = String::with_capacity(512);
    text.push_str(asked.method.as_str());
    for name in [
        "content-encoding",
        "content-language",
        "content-length",
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ] {
        text.push('\n');
        match (name, get(name)?) {
            ("content-length", "0") => {}
            ("date", _) if has_ms_date => {}
            (_, value) => text.push_str(value),
        }
    }
    text.push('\n');

    let mut names: Vec<&HeaderName> =
        asked.headers.keys().filter(|name| name.as_str().starts_with("x-ms-")).collect();
    names.sort_by(|a, b| collate(a.as_str(), b.as_str()));
    for name in names {
        let mut values = asked.headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str());
        let (Some(Ok(value)), None) = (value, values.next()) else {
            return Err(error::INVALID_HEADER_VALUE.with("HeaderName", name.as_str()));
        };
        text.push_str(name.as_str());
        text.push(':');
        text.push_str(value.trim());
        text.push('\n');
    }

    text.push('/');
    text.push_str(&asked.target.account);
    text.push_str(asked.raw_path);
    let mut pairs: Vec<_> = asked.query.pairs.iter().collect();
    pairs.sort();
    let mut last = None;
    for (name, value) in pairs {
        if last == Some(name) {
            text.push(',');
        } else {
            text.push('\n');
            text.push_str(name);
            text.push(':');
        }
        text.push_str(value);
        last = Some(name);
    }
    Ok(text)
}

/// The order that the service sorts header names in: dashes count only between names that are equal
/// without them, underscores come before digits and digits before letters.
fn collate(a: &str, b: &str) -> std::cmp::Ordering {
    let weights = |name: &str| {
        let bytes: Vec<u8> = name.bytes().collect();
        bytes.into_iter().filter(|byte| *byte != b'-').map(|byte| match byte {
            b'_' => 0,
            other => other,
        })
    };
    weights(a).cmp(weights(b)).then_with(|| a.cmp(b))
}

fn service_sas(asked: Presented<'_>) -> Result<String, Failure> {
    let get = |name| asked.query.get(name).unwrap_or("");
    let refuse =
        |detail: &str| error::AUTHENTICATION_FAILED.with("AuthenticationErrorDetail", detail);
    let container = asked.target.container.as_deref().unwrap_or_default();
    let mut resource = format!("/blob/{}/{container}", asked.target.account);
    match (get("sr"), &asked.target.blob, asked.query.filled("snapshot")) {
        ("c", _, _) => {}
        ("b", Some(blob), None) | ("bs", Some(blob), Some(_)) => {
            resource.push('/');
            resource.push_str(blob);
        }
        ("b" | "bs", _, _) => return Err(refuse("The signature is for another resource")),
        _ => return Err(refuse("sr is not a supported resource")),
    }
    let snapshot = if get("sr") == "bs" { get("snapshot") } else { "" };
    let mut fields = vec![
        get("sp"),
        get("st"),
        get("se"),
        &resource,
        get("si"),
        get("sip"),
        get("spr"),
        get("sv"),
        get("sr"),
        snapshot,
    ];
    if get("sv") >= SAS_WITH_SCOPE {
        fields.push(get("ses"));
    }
    fields.extend(["rscc", "rscd", "rsce", "rscl", "rsct"].map(get));
    Ok(fields.join("\n"))
}

fn account_sas(asked: Presented<'_>) -> String {
    let get = |name| asked.query.get(name).unwrap_or("");
    let mut fields = vec![asked.target.account.as_str()];
    fields.extend(["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"].map(get));
    if get("sv") >= SAS_WITH_SCOPE {
        fields.push(get("ses"));
    }
    fields.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "devstoreaccount1";
    const KEY: &str = super::super::WELL_KNOWN_KEY;

    fn authority(check_date: bool) -> Authority {
        let authority = Authority::new([(ACCOUNT, KEY)].into_iter(), check_date, None).unwrap();
        authority.add_token("good".into(), None);
        authority.add_token("old".into(), Some(0));
        authority
    }

    fn ask(
        authority: &Authority,
        method: Method,
        uri: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Identity, String> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let query = Query::parse(query);
        let target = Target::parse(path, &query).unwrap();
        let headers: HeaderMap =
            headers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        let op = Operation::of(&method, &target, &query, &headers).unwrap();
        let asked = Presented {
            op,
            method: &method,
            raw_path: path,
            target: &target,
            query: &query,
            headers: &headers,
            secure: false,
        };
        let public = || match target.container.as_deref() {
            Some("pub") => Some(Public::Blob),
            Some("open") => Some(Public::Container),
            _ => None,
        };
        authority.authorize(asked, &Clock::default(), public).map_err(|failure| failure.code.into())
    }

    const DATE: (&str, &str) = ("x-ms-date", "Fri, 20 Nov 2026 07:00:00 GMT");
    const VERSION: (&str, &str) = ("x-ms-version", "2021-12-02");

    fn signed(
        method: Method,
        uri: &str,
        headers: &[(&'static str, &str)],
        signature: &str,
    ) -> Result<Identity, String> {
        let authorization = format!("SharedKey {ACCOUNT}:{signature}");
        let mut all = vec![DATE, VERSION, ("authorization", authorization.as_str())];
        all.extend(headers);
        ask(&authority(false), method, uri, &all)
    }

    /// Four requests whose signatures an independent server has accepted.
    #[test]
    fn shared_key_vectors() {
        let page = [
            ("content-length", "512"),
            ("content-md5", "v2GerAzfP2jUluqTRBN+iw=="),
            ("content-type", "application/octet-stream"),
            ("x-ms-page-write", "update"),
            ("x-ms-range", "bytes=0-511"),
            ("x-ms-if-sequence-number-lt", "1"),
            ("x-ms-client-request-id", "00000000-0000-0000-0000-000000000001"),
        ];
        let uri = "/devstoreaccount1/vectors/disk%20one.img";
        let put = "LiyPAFGaYrsWVucwog522yXv/NVTdkpLFPaVLF46u1o=";
        let page_uri = format!("{uri}?comp=page&timeout=30");
        assert_eq!(signed(Method::PUT, &page_uri, &page, put), Ok(Identity::SharedKey));
        assert_eq!(
            signed(Method::PUT, &page_uri, &page[1..], put),
            Err("AuthenticationFailed".into())
        );
        let get = [("x-ms-range", "bytes=0-511"), ("if-match", "*")];
        let found = signed(Method::GET, uri, &get, "XV6aKFWVCBG/AMpS91G6Si1cvvwFVTv2OYg5umk4f0I=");
        assert_eq!(found, Ok(Identity::SharedKey));
        let list = "/devstoreaccount1/vectors?restype=container&comp=list&prefix=disk%20one\
                    &delimiter=%2F&include=metadata%2Csnapshots&maxresults=10";
        let found = signed(Method::GET, list, &[], "6IVHqYmXUNHxcPJsej/mN3Y/7xQwusUpx/sXHElS9Hk=");
        assert_eq!(found, Ok(Identity::SharedKey));
        let clear =
            [("content-length", "0"), ("x-ms-page-write", "clear"), ("x-ms-range", "bytes=0-4095")];
        let found = signed(
            Method::PUT,
            &format!("{uri}?comp=page"),
            &clear,
            "0R2yp0Imc/yWVHH7h1FY5tw4E341w0fq1wupueGs1/0=",
        );
        assert_eq!(found, Ok(Identity::SharedKey));
    }

    #[test]
    fn a_date_that_is_off_is_refused() {
        let headers = [
            ("x-ms-date", "Sat, 01 Jan 2000 00:00:00 GMT"),
            VERSION,
            ("authorization", "SharedKey devstoreaccount1:AAAA"),
        ];
        let found = ask(&authority(true), Method::GET, "/devstoreaccount1/c/b", &headers);
        assert_eq!(found, Err("AuthenticationFailed".into()));
    }

    #[test]
    fn service_sas_vector() {
        let sas = "sp=r&se=2099-01-01T00:00:00Z&spr=https,http&sv=2021-12-02&sr=b\
                   &sig=5K5HfImFun48Ggq82aVTvyOnbXJb5p48S6CfCiHz5Xk%3D";
        let blob = "/devstoreaccount1/vectors/disk%20one.img";
        let ask = |method, uri: String, headers: &[(&'static str, &str)]| {
            ask(&authority(true), method, &uri, headers)
        };
        let yes = Ok(Identity::Sas { create_only: true });
        assert_eq!(ask(Method::GET, format!("{blob}?{sas}"), &[]), yes);
        assert_eq!(ask(Method::HEAD, format!("{blob}?{sas}"), &[]), yes);
        assert_eq!(ask(Method::GET, format!("{blob}?comp=pagelist&{sas}"), &[]), yes);
        let no = |code: &str| Err(code.to_owned());
        assert_eq!(
            ask(Method::DELETE, format!("{blob}?{sas}"), &[]),
            no("AuthorizationPermissionMismatch")
        );
        assert_eq!(ask(Method::GET, format!("{blob}2?{sas}"), &[]), no("AuthenticationFailed"));
        assert_eq!(
            ask(Method::GET, format!("{blob}?snapshot=2020-01-01T00:00:00.0000000Z&{sas}"), &[]),
            no("AuthenticationFailed")
        );
        let later = sas.replace("2099", "2098");
        assert_eq!(ask(Method::GET, format!("{blob}?{later}"), &[]), no("AuthenticationFailed"));
    }

    #[test]
    fn sas_limits_are_checked_after_the_signature() {
        let authority = authority(true);
        let sign = |fields: &str| {
            let query = Query::parse(fields);
            let target = Target::parse("/devstoreaccount1/c/b", &query).unwrap();
            let headers = HeaderMap::new();
            let asked = Presented {
                op: Operation::GetBlob,
                method: &Method::GET,
                raw_path: "",
                target: &target,
                query: &query,
                headers: &headers,
                secure: false,
            };
            let mut mac = authority.keys.read()[ACCOUNT].clone();
            mac.update(service_sas(asked).unwrap().as_bytes());
            let signature = STANDARD.encode(mac.finalize().into_bytes());
            let signature = signature.replace('+', "%2B").replace('=', "%3D");
            let uri = format!("/devstoreaccount1/c/b?{fields}&sig={signature}");
            ask(&authority, Method::GET, &uri, &[])
        };
        let no = |code: &str| Err(code.to_owned());
        assert!(sign("sp=rw&se=2099-01-01&sv=2020-02-10&sr=c").is_ok());
        assert_eq!(sign("sp=r&se=2001-01-01&sv=2021-12-02&sr=b"), no("AuthenticationFailed"));
        assert_eq!(
            sign("sp=r&st=2098-01-01&se=2099-01-01&sv=2021-12-02&sr=b"),
            no("AuthenticationFailed")
        );
        assert_eq!(sign("sp=r&sv=2021-12-02&sr=b"), no("AuthenticationFailed"));
        assert_eq!(
            sign("sp=r&se=2099-01-01&spr=https&sv=2021-12-02&sr=b"),
            no("AuthorizationProtocolMismatch")
        );
        assert_eq!(
            sign("sp=l&se=2099-01-01&sv=2021-12-02&sr=c"),
            no("AuthorizationPermissionMismatch")
        );
        assert_eq!(sign("sp=r&se=2099-01-01&sv=2015-04-05&sr=b"), no("AuthenticationFailed"));
    }

    #[test]
    fn tokens_and_public_containers() {
        let ask = |uri: &str, headers: &[(&'static str, &str)]| {
            ask(&authority(true), Method::GET, uri, headers)
        };
        let bearer = |token| [("authorization", token), VERSION];
        let blob = "/devstoreaccount1/c/b";
        assert_eq!(ask(blob, &bearer("Bearer good")), Ok(Identity::Bearer));
        assert_eq!(ask(blob, &bearer("Bearer old")), Err("InvalidAuthenticationInfo".into()));
        assert_eq!(ask(blob, &bearer("Bearer other")), Err("InvalidAuthenticationInfo".into()));
        assert_eq!(ask(blob, &bearer("Basic x")), Err("AuthenticationFailed".into()));
        assert_eq!(ask(blob, &[]), Err("ResourceNotFound".into()));
        assert_eq!(ask(blob, &[VERSION]), Err("NoAuthenticationInformation".into()));
        let list = |name: &str| format!("/devstoreaccount1/{name}?restype=container&comp=list");
        assert_eq!(ask("/devstoreaccount1/pub/b", &[]), Ok(Identity::Anonymous));
        assert_eq!(ask(&list("pub"), &[]), Err("ResourceNotFound".into()));
        assert_eq!(ask(&list("open"), &[]), Ok(Identity::Anonymous));
        assert_eq!(ask("/nobody/pub/b", &[]), Err("ResourceNotFound".into()));
    }

    #[test]
    fn names_sort_as_the_service_sorts_them() {
        use std::cmp::Ordering::Less;
        assert_eq!(collate("x-ms-meta-a_b", "x-ms-meta-a1b"), Less);
        assert_eq!(collate("x-ms-meta-a1", "x-ms-meta-ab"), Less);
        assert_eq!(collate("x-ms-copy-source", "x-ms-copy-source-authorization"), Less);
    }
}
