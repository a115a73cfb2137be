//! ETag and time conditions, over the wire.

use crate::client::Emulator;

#[test]
fn etags_change_with_every_write_but_not_with_leases() {
    let e = Emulator::with_blob(8192);
    let mut seen = vec![e.head("/con/b").etag()];
    let mut changed = |expected: bool| {
        let now = e.head("/con/b").etag();
        assert!(now.starts_with("\"0x") && now.ends_with('"'), "{now}");
        assert_eq!(!seen.contains(&now), expected, "{now}");
        seen.push(now);
    };
    e.write("/con/b", 0, &[1; 512], &[]).expect(201);
    changed(true);
    e.clear("/con/b", 0, 512, &[]).expect(201);
    changed(true);
    e.put("/con/b?comp=metadata", &[("x-ms-meta-a", "1")], b"").expect(200);
    changed(true);
    e.put("/con/b?comp=properties", &[("x-ms-blob-content-length", "4096")], b"").expect(200);
    changed(true);
    let id = e.lease("/con/b", "acquire", &[("x-ms-lease-duration", "15")]).expect(201);
    changed(false);
    let id = id.header("x-ms-lease-id").to_owned();
    e.lease("/con/b", "renew", &[("x-ms-lease-id", &id)]).expect(200);
    e.lease("/con/b", "release", &[("x-ms-lease-id", &id)]).expect(200);
    changed(false);
    e.snapshot("/con/b");
    changed(false);
}

#[test]
fn unmet_conditions_change_nothing() {
    let e = Emulator::with_blob(8192);
    let old = e.head("/con/b").etag();
    let new = e.write("/con/b", 0, &[1; 512], &[("if-match", &old)]).expect(201).etag();
    let unmet = (412, "ConditionNotMet");
    let stale = ("if-match", old.as_str());
    assert_eq!(e.write("/con/b", 0, &[2; 512], &[stale]).error(), unmet);
    assert_eq!(e.clear("/con/b", 0, 512, &[stale]).error(), unmet);
    assert_eq!(e.write("/con/b", 0, &[2; 512], &[("if-none-match", "*")]).error(), unmet);
    assert_eq!(e.write("/con/b", 0, &[2; 512], &[("if-none-match", &new)]).error(), unmet);
    let resize = [("x-ms-blob-content-length", "512"), stale];
    assert_eq!(e.put("/con/b?comp=properties", &resize, b"").error(), unmet);
    assert_eq!(e.put("/con/b?comp=metadata", &[stale], b"").error(), unmet);
    assert_eq!(e.put("/con/b?comp=snapshot", &[stale], b"").error(), unmet);
    assert_eq!(
        e.lease("/con/b", "acquire", &[("x-ms-lease-duration", "15"), stale]).error(),
        unmet
    );
    assert_eq!(e.delete("/con/b", &[stale]).error(), unmet);
    assert_eq!(e.head("/con/b").etag(), new);
    assert_eq!(e.read("/con/b", 0, 512), [1; 512]);

    let two = [("if-match", new.as_str()), ("if-none-match", old.as_str())];
    let refused = (400, "MultipleConditionHeadersNotSupported");
    assert_eq!(e.write("/con/b", 0, &[2; 512], &two).error(), refused);
    e.get("/con/b", &two).expect(200);
}

#[test]
fn reads_answer_304_without_a_body() {
    let e = Emulator::with_blob(512);
    let head = e.head("/con/b");
    let etag = head.etag();
    let same = e.get("/con/b", &[("if-none-match", &etag)]);
    assert_eq!(same.error(), (304, "ConditionNotMet"));
    assert_eq!(same.body, b"");
    let later =
        httpdate::fmt_http_date(std::time::SystemTime::now() + std::time::Duration::from_secs(60));
    assert_eq!(e.get("/con/b", &[("if-modified-since", &later)]).status, 304);
    assert_eq!(e.get("/con/b", &[("if-match", "\"0x1\"")]).error(), (412, "ConditionNotMet"));
    let modified = head.header("last-modified").to_owned();
    e.get("/con/b", &[("if-unmodified-since", &modified)]).expect(200);
    assert_eq!(e.get("/con/b?comp=pagelist", &[("if-match", "\"0x1\"")]).status, 412);
    assert_eq!(
        e.send("HEAD", "/con/b", &[("if-match", "\"0x1\"")], b"").error(),
        (412, "ConditionNotMet")
    );
}

#[test]
fn creation_can_be_exclusive() {
    let e = Emulator::with_container();
    let create = |more: &[(&str, &str)]| {
        let mut headers = vec![("x-ms-blob-type", "PageBlob"), ("x-ms-blob-content-length", "512")];
        headers.extend(more);
        e.put("/con/b", &headers, b"")
    };
    assert_eq!(create(&[("if-match", "*")]).error(), (412, "ConditionNotMet"));
    create(&[("if-none-match", "*"), ("x-ms-blob-sequence-number", "9")]).expect(201);
    assert_eq!(create(&[("if-none-match", "*")]).error(), (409, "BlobAlreadyExists"));
    assert_eq!(e.head("/con/b").header("x-ms-blob-sequence-number"), "9");
    e.write("/con/b", 0, &[1; 512], &[]).expect(201);
    // Replacing leaves nothing of what was there.
    create(&[]).expect(201);
    assert_eq!(e.ranges("/con/b?comp=pagelist"), [""; 0]);
    assert_eq!(e.read("/con/b", 0, 512), [0; 512]);
    assert_eq!(e.head("/con/b").header("x-ms-blob-sequence-number"), "0");
}
