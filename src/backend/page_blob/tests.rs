//! What is typed and what comes of it; and that parsers take any bytes. Servers are asked in
//! `tests/contract.rs` and `tests/page_blob.rs`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;

use super::auth::Credential;
use super::config::Config;
use super::length::Mark;
use super::wire::{self, BlobType, Item};
use crate::backend::{ConfigError, SourceRequest, scheme_of};

/// Base64 of nothing in particular.
const KEY: &str = "c2VjcmV0c2VjcmV0";

const DEVELOPMENT: &str = "UseDevelopmentStorage=true";

fn parse(
    source: &str,
    options: &[(&str, &str)],
    env: &[(&str, &str)],
) -> Result<Config, ConfigError> {
    let options: BTreeMap<String, Option<String>> = options
        .iter()
        .map(|(name, value)| {
            let value = Some((*value).to_owned()).filter(|value| !value.is_empty());
            ((*name).to_owned(), value)
        })
        .collect();
    let lookup = |name: &str| {
        let found = env.iter().find(|(key, _)| *key == name)?;
        Some(found.1.to_owned())
    };
    Config::parse(&SourceRequest {
        source,
        options: &options,
        env: &lookup,
        timeout: Duration::from_secs(60),
        state_dir: None,
    })
}

fn complaint(source: &str, options: &[(&str, &str)], env: &[(&str, &str)]) -> String {
    let error = parse(source, options, env).expect_err("this makes no sense").0;
    assert!(!error.contains(KEY) && !error.contains("s3cr3t"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

const WITH_KEY: &[(&str, &str)] = &[("AZURE_STORAGE_KEY", KEY)];

#[test]
fn an_account_a_container_and_a_directory() {
    let config = parse("az://acct/disks/vm one/", &[], WITH_KEY).unwrap();
    assert_eq!(config.endpoint, "https://acct.blob.core.windows.net");
    assert_eq!(config.account, "acct");
    assert_eq!(config.container.as_deref(), Some("disks"));
    assert_eq!(config.path, "vm one");
    assert_eq!(config.label, "az://acct/disks/vm one");
    assert_eq!(config.connections, 24);
    assert!(matches!(config.credential, Credential::SharedKey(_)));

    let all = parse("az://acct", &[], WITH_KEY).unwrap();
    assert_eq!((all.container, &*all.label), (None, "az://acct"));
}

#[test]
fn urls_of_the_service_and_of_emulators() {
    let source = "https://acct.blob.core.windows.net/disks/a%20b/c?sv=1&sig=s3cr3t%3D";
    let config = parse(source, &[], &[]).unwrap();
    assert_eq!(config.endpoint, "https://acct.blob.core.windows.net");
    assert_eq!(config.container.as_deref(), Some("disks"));
    assert_eq!(config.path, "a b/c");
    assert_eq!(config.label, "https://acct.blob.core.windows.net/disks/a b/c");
    assert!(matches!(&config.credential, Credential::Sas(sas) if &**sas == "sv=1&sig=s3cr3t%3D"));
    let shown = format!("{config:?}");
    assert!(!shown.contains("s3cr3t"), "{shown}");

    let config = parse("http://127.0.0.1:10000/devstoreaccount1/disks", &[], &[]).unwrap();
    assert_eq!(config.endpoint, "http://127.0.0.1:10000/devstoreaccount1");
    assert_eq!(config.account, "devstoreaccount1");
    assert_eq!(config.container.as_deref(), Some("disks"));
    assert!(matches!(config.credential, Credential::SharedKey(_)));

    let config = parse("https://acct-secondary.blob.core.windows.net/disks", &[], WITH_KEY);
    assert_eq!(config.unwrap().account, "acct");
}

#[test]
fn connection_strings() {
    let with = |text: &'static str| [("AZURE_STORAGE_CONNECTION_STRING", text)];
    let config = parse("az://devstoreaccount1/disks", &[], &with(DEVELOPMENT)).unwrap();
    assert_eq!(config.endpoint, "http://127.0.0.1:10000/devstoreaccount1");

    let text = "defaultendpointsprotocol=http;ACCOUNTNAME=acct;AccountKey=c2VjcmV0c2VjcmV0==;\
                EndpointSuffix=core.chinacloudapi.cn;;";
    let config = parse("az://acct/disks", &[], &with(text));
    assert!(config.unwrap_err().0.contains("not base64"));
    let text = "DefaultEndpointsProtocol=http;AccountName=acct;AccountKey=c2VjcmV0c2VjcmV0;\
                EndpointSuffix=core.chinacloudapi.cn;QueueEndpoint=https://q/?x=y";
    let config = parse("az://acct/disks", &[], &with(text)).unwrap();
    assert_eq!(config.endpoint, "http://acct.blob.core.chinacloudapi.cn");

    let text =
        "BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature=?sv=1&sig=s3cr3t";
    let config = parse("az://acct/disks", &[], &with(text)).unwrap();
    assert_eq!(config.endpoint, "https://acct.blob.core.windows.net");
    assert!(matches!(&config.credential, Credential::Sas(sas) if &**sas == "sv=1&sig=s3cr3t"));

    let other = complaint("az://other/disks", &[], &with(text));
    assert!(other.contains("other") && other.contains("acct"), "{other}");
    for damaged in ["nonsense", "AccountKey=c2VjcmV0c2VjcmV0", "BlobEndpoint=https://h/?sig=s3cr3t"]
    {
        let why = complaint("az://acct/disks", &[], &with(damaged));
        assert!(why.contains("AZURE_STORAGE_CONNECTION_STRING"), "{why}");
    }
    // Not when the source brings its own.
    let source = "https://acct.blob.core.windows.net/disks?sig=s3cr3t";
    assert!(parse(source, &[], &with("nonsense")).is_ok());
    assert!(parse("az://acct/disks", &[("anonymous", "")], &with("nonsense")).is_ok());
}

#[test]
fn options() {
    let endpoint = |url| parse("az://acct/disks", &[("endpoint", url)], WITH_KEY);
    for (url, wanted) in [
        ("https://acct.blob.core.chinacloudapi.cn/", "https://acct.blob.core.chinacloudapi.cn"),
        ("http://127.0.0.1:10000", "http://127.0.0.1:10000/acct"),
        ("http://localhost:1/acct/", "http://localhost:1/acct"),
        ("https://storage.example.org/acct", "https://storage.example.org/acct"),
    ] {
        assert_eq!(endpoint(url).unwrap().endpoint, wanted);
    }
    for bad in ["acct.blob.core.windows.net", "ftp://x", "https://h/other", "https://h/?sig=s3cr3t"]
    {
        let why = complaint("az://acct/disks", &[("endpoint", bad)], WITH_KEY);
        assert!(why.contains("-o endpoint"), "{why}");
    }
    let config = parse("az://acct/disks", &[("anonymous", "")], &[]).unwrap();
    assert!(matches!(config.credential, Credential::Anonymous));
    let config = parse("az://acct/disks", &[("connections", "4")], WITH_KEY).unwrap();
    assert_eq!(config.connections, 4);
    for bad in ["0", "many", "-1", "100000"] {
        let why = complaint("az://acct/disks", &[("connections", bad)], WITH_KEY);
        assert!(why.contains("connections"), "{why}");
    }
}

#[test]
fn what_makes_no_sense_is_named() {
    for (source, word) in [
        ("az://", "account"),
        ("az://Acct/disks", "lower-case"),
        ("az://ac/disks", "3 to 24"),
        ("az://acct/Disks", "container"),
        ("az://acct/a--b", "container"),
        ("az://acct//x", "container"),
        ("az://acct/disks/a//b", "path"),
        ("az://acct/disks/../x", "path"),
        ("https://acct.blob.core.windows.net/disks?snapshot=1", "sig="),
        ("https://user:s3cr3t@acct.blob.core.windows.net/disks", "user name"),
        ("http://127.0.0.1:10000", "ACCOUNT"),
        ("http://[bad/disks", "source"),
    ] {
        let why = complaint(source, &[], WITH_KEY);
        assert!(why.contains(word), "{source}: {why}");
    }
    // Where no token may go there is nothing left to try.
    let why = complaint("az://acct/disks", &[("endpoint", "http://storage.example.org")], &[]);
    for name in
        ["AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY", "credentials=", "anonymous"]
    {
        assert!(why.contains(name), "{why}");
    }
    let why = complaint("az://acct/disks", &[], &[("AZURE_STORAGE_KEY", "s3cr3t!")]);
    assert!(why.contains("base64"), "{why}");
    let env = [("AZURE_STORAGE_KEY", KEY), ("AZURE_STORAGE_ACCOUNT", "other")];
    let why = complaint("az://acct/disks", &[], &env);
    assert!(why.contains("other") && why.contains("acct"), "{why}");
    let why = complaint("az://acct/disks", &[], &[("AZURE_STORAGE_SAS_TOKEN", "s3cr3t")]);
    assert!(why.contains("AZURE_STORAGE_SAS_TOKEN"), "{why}");
}

#[test]
fn a_credentials_file_is_for_its_owner_alone() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "# ours\n\nexport AZURE_STORAGE_KEY=\"{KEY}\"").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let options = [("credentials", &*path)];
    let env = [("AZURE_STORAGE_KEY", "not base64, and not looked at")];
    let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o600);
    let config = parse("az://acct/disks", &options, &env).unwrap();
    assert!(matches!(config.credential, Credential::SharedKey(_)));
    for open in [0o640, 0o604, 0o620] {
        mode(open);
        let why = complaint("az://acct/disks", &options, &env);
        assert!(why.contains("chmod 600"), "{why}");
    }
    mode(0o600);
    writeln!(file, "SOMETHING=s3cr3t").unwrap();
    let why = complaint("az://acct/disks", &options, &env);
    assert!(why.contains("line 4"), "{why}");
    let why = complaint("az://acct/disks", &[("credentials", "/no/such")], &env);
    assert!(why.contains("/no/such"), "{why}");
}

#[test]
fn labels_and_debug_hold_no_secret() {
    let source = "https://acct.blob.core.windows.net/disks?sv=1&sig=s3cr3t";
    let scheme = scheme_of(source).unwrap();
    let backend = (scheme.parse)(&SourceRequest {
        source,
        options: &BTreeMap::new(),
        env: &|_| None,
        timeout: Duration::from_secs(60),
        state_dir: None,
    })
    .unwrap();
    assert_eq!(backend.label(), "https://acct.blob.core.windows.net/disks");
    assert!(!format!("{backend:?}").contains("s3cr3t"));
}

/// A page as the service writes it: byte order mark, unquoted ETag, encoded name, and prefixes after
/// blobs as some servers give them.
const LISTING: &str = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\
    <EnumerationResults ServiceEndpoint=\"https://a/\" ContainerName=\"c\"><Prefix>x</Prefix>\
    <Delimiter>/</Delimiter><Blobs>\
    <Blob><Name>x&amp;y &#x263A;</Name><Properties><Last-Modified>Fri, 20 Nov 2026 07:00:00 GMT\
    </Last-Modified><Etag>0x8D</Etag><Content-Length>1024</Content-Length>\
    <BlobType>PageBlob</BlobType><LeaseState>available</LeaseState><Content-Encoding />\
    </Properties><Metadata><BlobDirLength>1000</BlobDirLength><other>v</other></Metadata></Blob>\
    <Blob><Name Encoded=\"true\">x%EF%BF%BE</Name><Properties><Etag>\"0x9\"</Etag>\
    <Content-Length>5</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>\
    <BlobPrefix><Name>x-/</Name></BlobPrefix></Blobs><NextMarker>2!a&lt;b</NextMarker>\
    </EnumerationResults>";

#[test]
fn reads_listings() {
    let page = wire::parse_blobs(LISTING.as_bytes(), true).unwrap();
    assert_eq!(page.next.as_deref(), Some("2!a<b"));
    let names: Vec<_> = page.items.iter().map(Item::name).collect();
    assert_eq!(names, ["x&y ☺", "x-/", "x\u{FFFE}"]);
    let Item::Blob(_, first) = &page.items[0] else {
        panic!("a blob");
    };
    assert_eq!((first.blob_type, first.size), (BlobType::Page, 1024));
    assert_eq!(&*first.etag, "\"0x8D\"");
    assert_eq!(first.extent().mark, Mark::Exact(1000));
    assert!(first.modified.is_some());
    let shown: BTreeMap<_, _> = first.attributes.iter().cloned().collect();
    assert_eq!(shown["lease_state"], "available");
    assert_eq!(shown["etag"], "\"0x8D\"");
    assert!(!shown.contains_key("content_encoding"));
    assert!(matches!(&page.items[2], Item::Blob(_, block) if block.blob_type == BlobType::Block));
}

#[test]
fn a_listing_that_was_cut_off_is_none() {
    for end in (1..LISTING.len() - 1).filter(|end| LISTING.is_char_boundary(*end)) {
        assert!(wire::parse_blobs(&LISTING.as_bytes()[..end], true).is_err(), "{end}");
    }
}

#[test]
fn reads_page_ranges() {
    let body = "\u{feff}<?xml version=\"1.0\"?><PageList><PageRange><Start>0</Start><End>511</End>\
        </PageRange>\n<PageRange><Start>1024</Start><End>2047</End></PageRange>\
        <NextMarker/></PageList>";
    let page = wire::parse_ranges(body.as_bytes()).unwrap();
    assert_eq!(page.ranges, [0..512, 1024..2048]);
    assert_eq!(page.next, None);
    let backwards = body.replace("2047", "3");
    assert!(wire::parse_ranges(backwards.as_bytes()).is_err());
}

#[test]
fn reads_containers() {
    let body = "<EnumerationResults><Containers><Container><Name>one</Name><Properties>\
        <Last-Modified>Fri, 20 Nov 2026 07:00:00 GMT</Last-Modified></Properties></Container>\
        <Container><Name>two</Name></Container></Containers><NextMarker>m</NextMarker>\
        </EnumerationResults>";
    let page = wire::parse_containers(body.as_bytes()).unwrap();
    assert_eq!(page.containers.len(), 2);
    assert!(page.containers[0].1.is_some() && page.containers[1].1.is_none());
    assert_eq!(page.next.as_deref(), Some("m"));
}

proptest! {
    #[test]
    fn parsers_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = wire::parse_blobs(&bytes, true);
        let _ = wire::parse_ranges(&bytes);
        let _ = wire::parse_containers(&bytes);
        let _ = wire::parse_error(&bytes);
    }

    #[test]
    fn parsers_take_any_document(
        parts in prop::collection::vec(
            prop_oneof![
                Just("<Blobs>".to_owned()), Just("</Blobs>".to_owned()), Just("<Blob>".to_owned()),
                Just("</Blob>".to_owned()), Just("<Name Encoded=\"true\">".to_owned()),
                Just("</Name>".to_owned()), Just("<PageRange><Start>".to_owned()),
                Just("&#xD800;".to_owned()), Just("&lt;".to_owned()), Just("%ff".to_owned()),
                Just("<![CDATA[x".to_owned()), "[a-z0-9<>/&;]{0,6}"
            ],
            0..30,
        ),
        close in any::<bool>(),
    ) {
        let mut text = format!("<R>{}", parts.concat());
        if close {
            text.push_str("</R>");
        }
        let _ = wire::parse_blobs(text.as_bytes(), true);
        let _ = wire::parse_ranges(text.as_bytes());
        let _ = wire::parse_containers(text.as_bytes());
        let _ = wire::parse_error(text.as_bytes());
    }
}
