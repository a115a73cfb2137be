//! Faults, limits and delays on order.

use std::time::{Duration, Instant};

use blobdir::emulator::registry::{Action, Config, Operation, Redirect, Rule, Throttle};

use crate::client::{Registry, code, json, noise, send_to};

fn with_blob(config: Config) -> (Registry, Vec<u8>, String) {
    let registry = Registry::with(config);
    let bytes = noise(10_000);
    let digest = registry.server.push_blob("a", &bytes).unwrap();
    (registry, bytes, format!("/v2/a/blobs/{digest}"))
}

fn inject(registry: &Registry, op: Operation, fault: Action) {
    registry.server.clear_faults();
    registry.server.inject(Rule::new(op, fault).times(1)).unwrap();
}

#[test]
fn bodies_go_wrong_as_asked() {
    let (registry, bytes, path) = with_blob(Config::default());
    let range = [("range", "bytes=100-199")];
    let get = |fault: Action| {
        inject(&registry, Operation::GetBlob, fault);
        registry.try_send("GET", &path, &range, b"")
    };
    let ignored = get(Action::IgnoreRange).unwrap().expect(200);
    assert!(ignored.body == bytes && !ignored.has("content-range"));
    let corrupt = get(Action::Corrupt).unwrap().expect(206);
    let wrong = corrupt.body.iter().zip(&bytes[100..200]).filter(|(a, b)| a != b).count();
    assert_eq!((corrupt.body.len(), wrong), (100, 1));
    let shifted = get(Action::WrongContentRange { shift: 7 }).unwrap().expect(206);
    assert_eq!(shifted.header("content-range"), "bytes 107-206/10000");
    assert_eq!(get(Action::ShortBody { bytes: 3 }).unwrap().expect(206).body.len(), 97);
    assert_eq!(get(Action::LongBody { bytes: 3 }).unwrap().expect(206).body.len(), 103);
    assert!(get(Action::Truncate { bytes: 10 }).is_err());
    assert!(get(Action::Reset { apply: false }).is_err());
    // The fault is used up.
    assert_eq!(registry.get(&path, &range).expect(206).body, &bytes[100..200]);
    assert_eq!(registry.server.faults()[0].injected, 1);
}

#[test]
fn any_status_and_any_text_can_be_had() {
    let (registry, _, path) = with_blob(Config::default());
    let status =
        |status, retry_after| Action::Status { status, code: None, apply: false, retry_after };
    inject(&registry, Operation::GetBlob, status(429, Some(7)));
    let busy = registry.get(&path, &[]).expect(429);
    assert_eq!((code(&busy).as_str(), busy.header("retry-after")), ("TOOMANYREQUESTS", "7"));
    inject(&registry, Operation::GetBlob, status(429, None));
    assert!(!registry.get(&path, &[]).expect(429).has("retry-after"));
    let page = Action::Answer {
        status: 429,
        body: "<html>slow down</html>".to_owned(),
        headers: vec![("retry-after".to_owned(), "1".to_owned())],
    };
    inject(&registry, Operation::ListTags, page);
    registry.server.push_image("a", "v1", &[]).unwrap();
    let answer = registry.get("/v2/a/tags/list", &[]).expect(429);
    assert_eq!((answer.text(), answer.header("retry-after")), ("<html>slow down</html>", "1"));
    let lie = Action::Answer {
        status: 416,
        body: String::new(),
        headers: vec![("content-range".to_owned(), "bytes */5".to_owned())],
    };
    inject(&registry, Operation::GetBlob, lie);
    let lied = registry.get(&path, &[("range", "bytes=0-1")]).expect(416);
    assert_eq!(lied.header("content-range"), "bytes */5");
}

#[test]
fn rules_are_for_what_they_name() {
    let (registry, _, path) = with_blob(Config::default());
    registry.server.push_image("b", "v1", &[]).unwrap();
    let gone = |name: &str| {
        let fault = Action::Status { status: 503, code: None, apply: false, retry_after: None };
        registry.server.inject(Rule::new("*", fault).on(name)).unwrap();
    };
    gone("b:v1");
    assert_eq!(registry.manifest("b", "v1").status, 503);
    registry.get("/v2/b/tags/list", &[]).expect(200);
    registry.get(&path, &[]).expect(200);
    gone("a@sha256:*");
    registry.get(&path, &[]).expect(503);
    let rule = Rule::new("Nonsense", Action::Corrupt);
    assert!(registry.server.inject(rule).unwrap_err().contains("no operation"));
    let body = br#"[{"operation": "Ping", "fault": {"answer": {"status": 418, "body": "tea"}}}]"#;
    registry.send("PUT", "/_faults", &[], body).expect(200);
    assert_eq!(registry.get("/v2/", &[]).expect(418).text(), "tea");
    registry.get(&path, &[]).expect(200);
    registry.send("DELETE", "/_faults", &[], b"").expect(200);
    registry.get("/v2/", &[]).expect(200);
}

#[test]
fn the_second_port_has_faults_of_its_own() {
    let redirect = Some(Redirect::default());
    let (registry, bytes, path) = with_blob(Config { redirect, ..Config::default() });
    inject(&registry, Operation::GetBlobData, Action::Corrupt);
    let location = registry.get(&path, &[]).expect(307).header("location").to_owned();
    let addr = registry.server.data_addr().unwrap();
    let at = location.strip_prefix(&format!("http://{addr}")).unwrap();
    let wrong = send_to(addr, "GET", at, &[], b"").unwrap().expect(200);
    assert!(wrong.body != bytes && wrong.body.len() == bytes.len());
    assert!(send_to(addr, "GET", at, &[], b"").unwrap().body == bytes);
}

#[test]
fn limits_and_latency_hold() {
    let throttle = Some(Throttle { requests: 5.0, bytes: f64::INFINITY });
    let latency = Duration::from_millis(30);
    let (registry, _, path) = with_blob(Config { throttle, latency, ..Config::default() });
    let start = Instant::now();
    let statuses: Vec<u16> = (0..4).map(|_| registry.get(&path, &[]).status).collect();
    assert!(start.elapsed() >= latency * 4);
    // The first is admitted; a fifth of a second later at the earliest, the next.
    assert_eq!(statuses[0], 200);
    assert!(statuses.contains(&429), "{statuses:?}");
    let refused = statuses.iter().filter(|status| **status == 429).count() as u64;
    assert_eq!(registry.server.throttled(), refused);
}

#[test]
fn what_happened_is_counted() {
    let (registry, _, path) = with_blob(Config::default());
    for _ in 0..3 {
        registry.get(&path, &[]).expect(200);
    }
    registry.head(&path, &[]).expect(200);
    let server = &registry.server;
    assert_eq!(server.requests(Operation::GetBlob), 3);
    assert_eq!((server.total_requests(), server.connections()), (4, 4));
    assert!(server.bytes_out() > 30_000 && server.bytes_in() > 100);
    let stats = json(&registry.get("/_stats", &[]));
    assert_eq!(stats["requests"]["GetBlob"], 3);
    assert_eq!(stats["requests"]["HeadBlob"], 1);
    registry.send("POST", "/_clock?advance=60s", &[], b"").expect(200);
    registry.send("POST", "/_nonsense", &[], b"").expect(400);
}
