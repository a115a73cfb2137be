//! Who is let in. The forms of signatures are tested beside the code that checks them.

use std::time::{Duration, SystemTime};

use blobdir::emulator::identity;
use blobdir::emulator::page_blob::{Config, WELL_KNOWN_KEY};

use crate::client::{Emulator, FOREVER, VERSION, sas, sign};

#[test]
fn strangers_are_told_as_little_as_possible() {
    let e = Emulator::with_blob(512);
    let ask = |headers: &[(&str, &str)]| e.raw("GET", "/con/b", headers, b"").unwrap();
    assert_eq!(ask(&[]).error(), (404, "ResourceNotFound"));
    let named = ask(&[("x-ms-version", VERSION)]);
    assert_eq!(named.error(), (401, "NoAuthenticationInformation"));
    assert!(named.header("www-authenticate").starts_with("Bearer authorization_uri="));
    let date = httpdate::fmt_http_date(SystemTime::now());
    let own = [("x-ms-version", VERSION), ("x-ms-date", &*date)];
    let wrong = sign("GET", "/con/other", &own, 0);
    let answer = ask(&[own[0], own[1], ("authorization", &wrong)]);
    assert_eq!(answer.error(), (403, "AuthenticationFailed"));
    // What was signed cannot be changed on the way.
    let right = sign("GET", "/con/b", &own, 0);
    let more = [own[0], own[1], ("x-ms-range", "bytes=0-1"), ("authorization", &right)];
    assert_eq!(ask(&more).status, 403);
    assert_eq!(ask(&[own[0], own[1], ("authorization", &right)]).status, 200);
}

#[test]
fn dates_must_be_near() {
    let e = Emulator::with_blob(512);
    let ask = |at: SystemTime| {
        let date = httpdate::fmt_http_date(at);
        e.send("GET", "/con/b", &[("x-ms-date", &date)], b"").status
    };
    let (near, far) = (Duration::from_secs(14 * 60), Duration::from_secs(16 * 60));
    let now = SystemTime::now();
    assert_eq!((ask(now - near), ask(now + near)), (200, 200));
    assert_eq!((ask(now - far), ask(now + far)), (403, 403));
    // Time that passes for leases does not make requests old.
    e.server.advance_clock(far);
    assert_eq!(ask(now), 200);
}

#[test]
fn a_sas_opens_what_it_says_for_as_long_as_it_says() {
    let e = Emulator::with_blob(512);
    let ask = |method: &str, path: &str, sas: &str| {
        let separator = if path.contains('?') { '&' } else { '?' };
        let headers = [
            ("x-ms-version", VERSION),
            ("x-ms-blob-type", "PageBlob"),
            ("x-ms-blob-content-length", "512"),
        ];
        let answer = e.raw(method, &format!("{path}{separator}{sas}"), &headers, b"").unwrap();
        (answer.status, answer.header("x-ms-error-code").to_owned())
    };
    let refused = |status, code: &str| (status, code.to_owned());
    let read = sas("con/b", "b", "r", FOREVER, "");
    assert_eq!(ask("GET", "/con/b", &read).0, 200);
    assert_eq!(ask("GET", "/con/b?comp=pagelist", &read).0, 200);
    assert_eq!(ask("DELETE", "/con/b", &read), refused(403, "AuthorizationPermissionMismatch"));
    let list = "/con?restype=container&comp=list";
    assert_eq!(ask("GET", list, &read), refused(403, "AuthenticationFailed"));
    assert_eq!(ask("GET", list, &sas("con", "c", "l", FOREVER, "")).0, 200);
    let create = sas("con", "c", "c", FOREVER, "");
    assert_eq!(ask("PUT", "/con/new", &create).0, 201);
    assert_eq!(ask("PUT", "/con/new", &create), refused(403, "UnauthorizedBlobOverwrite"));
    assert_eq!(ask("PUT", "/con/new", &sas("con", "c", "cw", FOREVER, "")).0, 201);

    let expired = sas("con/b", "b", "r", "2001-01-01T00:00:00Z", "");
    assert_eq!(ask("GET", "/con/b", &expired), refused(403, "AuthenticationFailed"));
    e.server.advance_clock(Duration::from_secs(100 * 366 * 86_400));
    assert_eq!(ask("GET", "/con/b", &read), refused(403, "AuthenticationFailed"));
}

#[test]
fn tokens_expire_and_are_revoked() {
    let e = Emulator::with_blob(512);
    e.server.add_token("short", Some(Duration::from_secs(60)));
    e.server.add_token("long", None);
    let ask = |token: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [("x-ms-version", VERSION), ("authorization", &*authorization)];
        e.raw("GET", "/con/b", &headers, b"").unwrap()
    };
    assert_eq!((ask("short").status, ask("long").status), (200, 200));
    e.server.advance_clock(Duration::from_secs(61));
    let late = ask("short");
    assert_eq!(late.error(), (401, "InvalidAuthenticationInfo"));
    assert!(late.header("www-authenticate").contains("resource_id=\"https://storage.azure.com\""));
    assert_eq!(ask("long").status, 200);
    e.server.revoke_tokens();
    assert_eq!(ask("long").status, 401);
}

#[test]
fn tokens_of_the_trusted_issuer_are_checked() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let start = || runtime.block_on(identity::start(identity::Config::default())).unwrap();
    let (trusted, stranger) = (start(), start());
    let config = Config { issuer: Some(trusted.issuer()), ..Config::default() };
    let e = Emulator::with(config);
    e.container("con");
    let ask = |token: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [("x-ms-version", VERSION), ("authorization", &*authorization)];
        e.raw("GET", "/con?restype=container&comp=list", &headers, b"").unwrap()
    };
    let storage = ["https://storage.azure.com", "https://storage.azure.com/"];
    let good = token_of(&trusted, storage[0]);
    assert_eq!(ask(&good).status, 200);
    assert_eq!(ask(&token_of(&trusted, storage[1])).status, 200);
    let without_version = [("authorization", &*format!("Bearer {good}"))];
    let answer = e.raw("GET", "/con?restype=container&comp=list", &without_version, b"").unwrap();
    assert_eq!(answer.error(), (400, "MissingRequiredHeader"));

    let refused = |token: &str| {
        let answer = ask(token);
        assert_eq!(answer.error(), (401, "InvalidAuthenticationInfo"));
        let expected = format!("login.microsoftonline.com/{}/oauth2", trusted.issuer().tenant());
        assert!(answer.header("www-authenticate").contains(&expected));
        answer.elements("AuthenticationErrorDetail").concat()
    };
    assert_eq!(
        refused(&token_of(&trusted, "https://vault.azure.net")),
        "Audience validation failed"
    );
    assert_eq!(refused(&token_of(&stranger, storage[0])), "Signature validation failed");
    let (head, signature) = good.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{head}.{other}{}", &signature[1..]);
    assert_eq!(refused(&forged), "Signature validation failed");
    assert_eq!(refused("no.token"), "Malformed token");
    e.server.advance_clock(Duration::from_secs(3601));
    assert!(refused(&good).contains("The token is expired"));
}

/// A token for this service, as the machine is given it.
fn token_of(server: &identity::Server, resource: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(server.addr()).unwrap();
    let path = "/metadata/identity/oauth2/token?api-version=2018-02-01";
    write!(
        stream,
        "GET {path}&resource={resource} HTTP/1.1\r\nHost: imds\r\nMetadata: true\r\n\
         Connection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, rest) = answer.split_once("\"access_token\":\"").unwrap_or_else(|| panic!("{answer}"));
    rest.split('"').next().unwrap().to_owned()
}

#[test]
fn an_account_key_can_be_exchanged() {
    let e = Emulator::with_blob(512);
    assert_eq!(e.get("/con/b", &[]).status, 200);
    let other = "b3RoZXIga2V5";
    e.server.set_key("devstoreaccount1", other).unwrap();
    assert_eq!(e.get("/con/b", &[]).error(), (403, "AuthenticationFailed"));
    assert!(e.server.set_key("devstoreaccount1", "not base64!").is_err());
    e.server.set_key("devstoreaccount1", WELL_KNOWN_KEY).unwrap();
    assert_eq!(e.get("/con/b", &[]).status, 200);
}

#[test]
fn public_containers_can_be_read_by_anyone() {
    let e = Emulator::new();
    for (name, access) in [("blobs", "blob"), ("all", "container")] {
        let headers = [("x-ms-blob-public-access", access)];
        e.put(&format!("/{name}?restype=container"), &headers, b"").expect(201);
        e.create(&format!("/{name}/b"), 512);
    }
    let ask = |method: &str, path: &str| e.raw(method, path, &[], b"").unwrap().status;
    assert_eq!((ask("GET", "/blobs/b"), ask("HEAD", "/all/b")), (200, 200));
    assert_eq!(ask("GET", "/blobs?restype=container&comp=list"), 404);
    assert_eq!(ask("GET", "/all?restype=container&comp=list"), 200);
    assert_eq!(ask("DELETE", "/all/b"), 404);
}
