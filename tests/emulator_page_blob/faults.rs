//! Faults, over the wire.

use std::time::{Duration, Instant};

use blobdir::emulator::page_blob::{Action, LateAnswer, Operation, Rule};

use crate::client::Emulator;

fn inject(e: &Emulator, op: Operation, fault: Action) {
    e.server.inject(Rule::new(op, fault).times(1)).unwrap();
}

fn status(status: u16, apply: bool) -> Action {
    Action::Status { status, code: None, apply, retry_after: None }
}

#[test]
fn a_status_comes_with_or_without_effect() {
    let e = Emulator::with_blob(8192);
    let write = |byte: u8| e.write("/con/b", 0, &[byte; 512], &[]);
    for (code, name) in [
        (500, "InternalError"),
        (503, "ServerBusy"),
        (403, "AuthenticationFailed"),
        (412, "ConditionNotMet"),
        (429, "TooManyRequests"),
    ] {
        inject(&e, Operation::PutPage, status(code, false));
        assert_eq!(write(1).error(), (code, name));
        assert_eq!(e.read("/con/b", 0, 512), [0; 512]);
    }
    inject(&e, Operation::PutPage, status(500, true));
    assert_eq!(write(2).error(), (500, "InternalError"));
    assert_eq!(e.read("/con/b", 0, 512), [2; 512]);
    write(3).expect(201);
    let busy = Action::Status {
        status: 503,
        code: Some("OperationTimedOut".into()),
        apply: false,
        retry_after: Some(7),
    };
    inject(&e, Operation::GetBlob, busy);
    let answer = e.get("/con/b", &[]);
    assert_eq!((answer.error(), answer.header("retry-after")), ((503, "OperationTimedOut"), "7"));
}

#[test]
fn a_reset_comes_before_or_after_the_effect() {
    let e = Emulator::with_blob(8192);
    for apply in [false, true] {
        inject(&e, Operation::PutPage, Action::Reset { apply });
        let headers = [("x-ms-page-write", "update"), ("x-ms-range", "bytes=0-511")];
        let answer = e.try_send("PUT", "/con/b?comp=page", &headers, &[1; 512]);
        let kind = answer.map(|answer| answer.status).unwrap_err().kind();
        assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
        assert_eq!(e.read("/con/b", 0, 512), [u8::from(apply); 512]);
    }
}

#[test]
fn bodies_break_off_or_lie() {
    let e = Emulator::with_blob(16 << 20);
    let get = |range: &str| e.try_send("GET", "/con/b", &[("x-ms-range", range)], b"");
    for range in ["bytes=0-1048575", "bytes=0-8388607"] {
        inject(&e, Operation::GetBlob, Action::Truncate { bytes: 1000 });
        let before = e.server.bytes_out();
        assert!(get(range).is_err(), "{range}");
        let sent = e.server.bytes_out() - before;
        assert!((1000..3000).contains(&sent), "{sent} bytes of {range}");
    }
    inject(&e, Operation::GetBlob, Action::ShortBody { bytes: 12 });
    assert_eq!(get("bytes=0-511").unwrap().expect(206).body.len(), 500);
    inject(&e, Operation::GetBlob, Action::LongBody { bytes: 12 });
    assert_eq!(get("bytes=0-511").unwrap().expect(206).body.len(), 524);
    inject(&e, Operation::GetBlob, Action::WrongContentRange { shift: 512 });
    let answer = get("bytes=0-511").unwrap().expect(206);
    assert_eq!(answer.header("content-range"), "bytes 512-1023/16777216");
    inject(&e, Operation::GetBlob, Action::Corrupt);
    assert_ne!(get("bytes=0-511").unwrap().body, [0; 512]);
    assert_eq!(get("bytes=0-511").unwrap().body, [0; 512]);
}

#[test]
fn bodies_arrive_damaged() {
    let e = Emulator::with_blob(16 << 20);
    let md5 = ("content-md5", "v2GerAzfP2jUluqTRBN+iw==");
    let crc64 = ("x-ms-content-crc64", "6YKnaCgO5h0=");
    for (hash, code) in [(md5, "Md5Mismatch"), (crc64, "Crc64Mismatch")] {
        inject(&e, Operation::PutPage, Action::CorruptRequest);
        assert_eq!(e.write("/con/b", 0, &[0; 512], &[hash]).error(), (400, code));
        e.write("/con/b", 0, &[0; 512], &[hash]).expect(201);
    }
    // Nobody notices without a hash.
    inject(&e, Operation::PutPage, Action::CorruptRequest);
    e.write("/con/b", 0, &[0; 512], &[]).expect(201);
    assert_eq!(e.read("/con/b", 0, 512).iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    inject(&e, Operation::PutBlob, Action::CorruptRequest);
    e.put("/con/block", &[("x-ms-blob-type", "BlockBlob")], &[0; 9]).expect(201);
    assert_eq!(e.get("/con/block", &[]).body, [0, 0, 0, 0, 1, 0, 0, 0, 0]);

    // The hash of an answer is that of what was sent, not of what arrives; so of long ones too.
    e.clear("/con/b", 0, 16 << 20, &[]).expect(201);
    let get =
        |range| e.get("/con/b", &[("x-ms-range", range), ("x-ms-range-get-content-crc64", "true")]);
    inject(&e, Operation::GetBlob, Action::Corrupt);
    let answer = get("bytes=0-511").expect(206);
    assert_eq!(answer.header("x-ms-content-crc64"), crc64.1);
    assert_ne!(answer.body, [0; 512]);
    inject(&e, Operation::GetBlob, Action::Corrupt);
    let answer = e.get("/con/b", &[("x-ms-range", "bytes=0-8388607")]).expect(206);
    assert_eq!(answer.body.iter().filter(|byte| **byte != 0).count(), 1);
}

#[test]
fn answers_are_late_or_never_come() {
    let e = Emulator::with_blob(8192);
    inject(&e, Operation::GetBlobProperties, Action::Delay { ms: 100 });
    let begun = Instant::now();
    e.head("/con/b").expect(200);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    inject(&e, Operation::PutPage, Action::Stall { apply: true });
    std::thread::scope(|scope| {
        let e = &e;
        scope.spawn(|| {
            let headers = [("x-ms-page-write", "update"), ("x-ms-range", "bytes=0-511")];
            // The server goes first.
            assert!(e.try_send("PUT", "/con/b?comp=page", &headers, &[1; 512]).is_err());
        });
        while e.server.faults().iter().all(|rule| rule.injected == 0 || rule.matched == 0)
            || e.read("/con/b", 0, 512) != [1; 512]
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        e.shutdown();
    });
}

/// The story for which page blobs have sequence numbers: X is lost, repeated, overwritten by Y, and
/// the lost X comes in last.
#[test]
fn a_late_write_undoes_later_ones_unless_it_is_fenced() {
    let e = Emulator::with_blob(8192);
    let (x, y) = ([b'X'; 512], [b'Y'; 512]);
    let late = Action::ApplyLate { ms: None, answer: LateAnswer::Reset };
    let lose = |condition: (&str, &str)| {
        inject(&e, Operation::PutPage, late.clone());
        let headers = [("x-ms-page-write", "update"), ("x-ms-range", "bytes=0-511"), condition];
        assert!(e.try_send("PUT", "/con/b?comp=page", &headers, &x).is_err());
    };
    let below = |number| ("x-ms-if-sequence-number-lt", number);
    let release = || e.runtime.block_on(e.server.release_held());

    lose(below("1"));
    e.write("/con/b", 0, &x, &[below("1")]).expect(201);
    e.write("/con/b", 0, &y, &[below("1")]).expect(201);
    assert_eq!(release(), 1);
    assert_eq!(e.read("/con/b", 0, 512), x);

    lose(below("1"));
    let raise = [("x-ms-sequence-number-action", "max"), ("x-ms-blob-sequence-number", "1")];
    e.put("/con/b?comp=properties", &raise, b"").expect(200);
    e.write("/con/b", 0, &x, &[below("2")]).expect(201);
    e.write("/con/b", 0, &y, &[below("2")]).expect(201);
    assert_eq!(release(), 1);
    assert_eq!(e.read("/con/b", 0, 512), y);
}

#[test]
fn late_writes_come_by_themselves() {
    let e = Emulator::with_blob(8192);
    let late = Action::ApplyLate { ms: Some(150), answer: LateAnswer::TimedOut };
    inject(&e, Operation::PutPage, late);
    let answer = e.write("/con/b", 0, &[1; 512], &[]);
    assert_eq!(answer.error(), (500, "OperationTimedOut"));
    e.write("/con/b", 0, &[2; 512], &[]).expect(201);
    assert_eq!(e.read("/con/b", 0, 512), [2; 512]);
    let begun = Instant::now();
    while e.read("/con/b", 0, 512) != [1; 512] {
        assert!(begun.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn rules_can_be_set_from_outside() {
    let e = Emulator::with_blob(8192);
    let rules = r#"{"seed": 1, "rules": [
        {"operation": "GetBlob", "blob": "con/*", "skip": 1, "count": 1, "fault": {"status": {"status": 500}}}]}"#;
    assert_eq!(e.control("PUT", "/_faults", rules).trim(), r#"{"rules":1}"#);
    let statuses = [0; 3].map(|_| e.get("/con/b", &[]).status);
    assert_eq!(statuses, [200, 500, 200]);
    let state = e.control("GET", "/_faults", "");
    assert!(state.contains("\"injected\":1") && state.contains("\"matched\":3"), "{state}");
    assert!(e.control("PUT", "/_faults", "[{}]").contains("error"));
    e.control("DELETE", "/_faults", "");
    assert!(e.server.faults().is_empty());
    let acquire = [("x-ms-lease-duration", "15")];
    e.lease("/con/b", "acquire", &acquire).expect(201);
    e.control("POST", "/_clock?advance=16s", "");
    assert_eq!(e.head("/con/b").header("x-ms-lease-state"), "expired");
}
