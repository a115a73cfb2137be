//! What is typed and what comes of it, and answers of every kind. Endpoints are asked in
//! `tests/identity.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;

use super::transport::{complaint, local_endpoint, read_grant, words};
use super::{Kind, Platform, Settings, in_usual_order, of_kind};
use crate::client::request::Reply;

const APPLICATION: [(&str, &str); 3] =
    [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "app"), ("AZURE_CLIENT_SECRET", "s3cr3t")];

fn settings(env: &[(&str, &str)]) -> Settings {
    let env: BTreeMap<_, _> = env.iter().copied().collect();
    let lookup = |name: &str| env.get(name).map(|value| (*value).to_owned());
    Settings::read(&lookup, Platform::read(&lookup))
}

fn name(kind: Kind, env: &[(&str, &str)]) -> Result<String, String> {
    of_kind(kind, &settings(env)).map(|identity| identity.name())
}

#[test]
fn the_authority_may_lack_its_scheme_and_must_not_lack_tls() {
    let authority = |text: &str| {
        let env = if text.is_empty() { vec![] } else { vec![("AZURE_AUTHORITY_HOST", text)] };
        settings(&env).authority()
    };
    for (text, expected) in [
        ("", "https://login.microsoftonline.com"),
        ("login.chinacloudapi.cn", "https://login.chinacloudapi.cn"),
        ("https://login.microsoftonline.us/", "https://login.microsoftonline.us"),
        ("http://127.0.0.1:5/", "http://127.0.0.1:5"),
    ] {
        assert_eq!(authority(text).as_deref(), Ok(expected));
    }
    for bad in ["http://login.microsoftonline.com", "ftp://x", "https://", "a b"] {
        assert!(authority(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let secret = Kind::ClientSecret;
    assert_eq!(name(secret, &APPLICATION).unwrap(), "client secret of application app in tenant t");
    for left_out in 0..3 {
        let mut env = APPLICATION.to_vec();
        let (variable, _) = env.remove(left_out);
        let why = name(secret, &env).unwrap_err();
        assert_eq!(why, format!("client secret: {variable} is missing"));
    }
    let odd = [("AZURE_TENANT_ID", "../x"), APPLICATION[1], APPLICATION[2]];
    assert!(name(secret, &odd).unwrap_err().contains("AZURE_TENANT_ID"));
    for (kind, variable) in [
        (Kind::ClientCertificate, "AZURE_CLIENT_CERTIFICATE_PATH"),
        (Kind::WorkloadIdentity, "AZURE_FEDERATED_TOKEN_FILE"),
    ] {
        assert!(name(kind, &APPLICATION).unwrap_err().contains(variable));
        let env = [&APPLICATION[..], &[(variable, "/x")]].concat();
        assert!(name(kind, &env).unwrap().ends_with(" of application app in tenant t"));
    }
}

#[test]
fn the_platform_tells_which_endpoint_gives_the_machines_tokens() {
    let name = |env: &[(&str, &str)]| name(Kind::ManagedIdentity, env);
    let local = ("IDENTITY_ENDPOINT", "http://127.0.0.1:5/x");
    let header = ("IDENTITY_HEADER", "s3cr3t");
    let client = ("AZURE_CLIENT_ID", "app");
    assert_eq!(name(&[]).unwrap(), "managed identity of this machine");
    assert_eq!(name(&[client]).unwrap(), "managed identity app of this machine");
    assert_eq!(name(&[local, header]).unwrap(), "managed identity of this App Service");
    let imds = ("IMDS_ENDPOINT", "http://127.0.0.1:5");
    assert_eq!(name(&[local, imds]).unwrap(), "managed identity of this Azure Arc machine");
    assert!(name(&[local, imds, client]).unwrap_err().contains("AZURE_CLIENT_ID"));
    let fabric = ("IDENTITY_SERVER_THUMBPRINT", "AB");
    assert!(name(&[local, header, fabric]).unwrap_err().contains("Service Fabric"));
    let shell = ("MSI_ENDPOINT", "http://127.0.0.1:5");
    assert!(name(&[shell]).unwrap_err().contains("Cloud Shell"));
    let far = ("IDENTITY_ENDPOINT", "http://tokens.example.org/x");
    assert!(name(&[far, header]).unwrap_err().contains("IDENTITY_ENDPOINT"));
}

#[test]
fn machines_are_asked_on_the_machine_or_over_tls() {
    let ask = |text| local_endpoint("X", text, &[("a", "b c")]).map(String::from);
    assert_eq!(ask("http://169.254.169.254/t").unwrap(), "http://169.254.169.254/t?a=b+c");
    assert_eq!(ask("http://localhost:1/t?x=1").unwrap(), "http://localhost:1/t?x=1&a=b+c");
    assert!(ask("https://tokens.example.org/").is_ok());
    for bad in ["http://10.0.0.1/", "http://example.org/", "file:///etc", "nonsense"] {
        assert!(ask(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_order_may_be_cut_down_to_what_is_wanted() {
    for good in ["prod", "dev", "Prod", "ManagedIdentityCredential", "azureclicredential"] {
        assert!(in_usual_order(&settings(&[("AZURE_TOKEN_CREDENTIALS", good)])).is_ok(), "{good}");
    }
    let why = in_usual_order(&settings(&[("AZURE_TOKEN_CREDENTIALS", "VisualStudio")]));
    assert!(why.unwrap_err().contains("AZURE_TOKEN_CREDENTIALS"));
}

#[test]
fn secrets_are_shown_by_nobody() {
    let env = [
        &APPLICATION[..],
        &[("IDENTITY_HEADER", "s3cr3t"), ("IDENTITY_ENDPOINT", "http://[::1]:5/")],
    ]
    .concat();
    let settings = settings(&env);
    let mut shown = format!("{settings:?}");
    for kind in [Kind::ClientSecret, Kind::ManagedIdentity] {
        shown.push_str(&format!("{:?}", of_kind(kind, &settings).unwrap()));
    }
    shown.push_str(&format!("{:?}", in_usual_order(&settings).unwrap()));
    assert!(!shown.contains("s3cr3t"), "{shown}");
}

#[test]
fn tokens_are_read_in_every_spelling() {
    let seconds = |text: &str| read_grant(text.as_bytes()).map(|grant| grant.lifetime.as_secs());
    assert_eq!(seconds(r#"{"access_token":"t","expires_in":3599}"#), Ok(3599));
    assert_eq!(seconds(r#"{"access_token":"t","expires_in":"86399"}"#), Ok(86399));
    let far =
        seconds(r#"{"access_token":"t","expires_on":"4102444800","expires_in":"5"}"#).unwrap();
    assert!(far > 1_000_000_000, "{far}");
    // Azure Arc leaves one of them empty.
    assert_eq!(seconds(r#"{"access_token":"t","expires_on":"","expires_in":7}"#), Ok(7));
    assert_eq!(seconds(r#"{"access_token":"t","expires_on":"1"}"#), Ok(0));
    let grant = read_grant(br#"{"access_token":"t","expires_in":9,"refresh_in":4}"#).unwrap();
    assert_eq!(grant.refresh_in, Some(Duration::from_secs(4)));
    for bad in [
        "",
        "[]",
        "null",
        "<html>",
        r#"{"access_token":""}"#,
        r#"{"access_token":"t"}"#,
        r#"{"access_token":"t","expires_in":-1}"#,
        r#"{"expires_in":5}"#,
    ] {
        assert!(seconds(bad).is_err(), "{bad}");
    }
}

#[test]
fn complaints_fit_in_a_line() {
    let said = |status: u16, body: &str| {
        complaint(&Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        })
    };
    let body = r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided. Trace ID: 1\r\nCorrelation ID: 2"}"#;
    assert_eq!(said(401, body), "AADSTS7000215: Invalid client secret provided.");
    assert_eq!(said(400, r#"{"statusCode":400,"message":"No identity"}"#), "No identity");
    assert_eq!(said(400, r#"{"error":{"code":"x","message":"no\nsuch"}}"#), "no");
    assert_eq!(said(400, r#"{"error":"invalid_request"}"#), "invalid_request");
    assert_eq!(said(502, "<html>"), "it answered 502 Bad Gateway");
    assert_eq!(words(&format!("\n {}\u{7}", "ü".repeat(400))).chars().count(), 300);
}

proptest! {
    #[test]
    fn answers_of_any_kind_do_no_harm(
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            r#"\{"(access_token|error|expires_in|expires_on)":("[a-z0-9]{0,5}"|-?[0-9]{0,25}|null|\{\}),"error_description":"?[a-z]{0,5}"?\}"#
                .prop_map(String::into_bytes),
        ],
    ) {
        let _ = read_grant(&body);
        let body = Bytes::from(body);
        let _ = complaint(&Reply { status: StatusCode::BAD_REQUEST, headers: HeaderMap::new(), body });
    }
}
