//! Leases over the wire. The table of states is tested beside the state machine.

use std::time::Duration;

use crate::client::Emulator;

const A: &str = "00000000-0000-0000-0000-00000000000a";
const B: &str = "00000000-0000-0000-0000-00000000000b";

fn acquire(e: &Emulator, id: &str, seconds: &str) -> u16 {
    let headers = [("x-ms-proposed-lease-id", id), ("x-ms-lease-duration", seconds)];
    e.lease("/con/b", "acquire", &headers).status
}

#[test]
fn a_lease_keeps_others_out_and_readers_in() {
    let e = Emulator::with_blob(8192);
    assert_eq!(acquire(&e, A, "60"), 201);
    assert_eq!(acquire(&e, A, "60"), 201);
    assert_eq!(acquire(&e, B, "60"), 409);
    let (own, other) = (("x-ms-lease-id", A), ("x-ms-lease-id", B));
    let missing = (412, "LeaseIdMissing");
    let mismatch = (412, "LeaseIdMismatchWithBlobOperation");
    assert_eq!(e.write("/con/b", 0, &[1; 512], &[]).error(), missing);
    assert_eq!(e.write("/con/b", 0, &[1; 512], &[other]).error(), mismatch);
    e.write("/con/b", 0, &[1; 512], &[own]).expect(201);
    assert_eq!(e.clear("/con/b", 0, 512, &[]).error(), missing);
    assert_eq!(e.put("/con/b?comp=metadata", &[], b"").error(), missing);
    let resize = ("x-ms-blob-content-length", "512");
    assert_eq!(e.put("/con/b?comp=properties", &[resize], b"").error(), missing);
    e.put("/con/b?comp=properties", &[resize, own], b"").expect(200);
    assert_eq!(e.delete("/con/b", &[]).error(), missing);
    let create = [("x-ms-blob-type", "PageBlob"), ("x-ms-blob-content-length", "512")];
    assert_eq!(e.put("/con/b", &create, b"").error(), missing);
    // Reads and snapshots need no id, but may not carry a wrong one.
    e.get("/con/b", &[]).expect(200);
    e.get("/con/b", &[own]).expect(200);
    assert_eq!(e.get("/con/b", &[other]).error(), mismatch);
    e.snapshot("/con/b");
    let head = e.head("/con/b");
    assert_eq!(head.header("x-ms-lease-state"), "leased");
    assert_eq!(head.header("x-ms-lease-status"), "locked");
    assert_eq!(head.header("x-ms-lease-duration"), "fixed");
    e.delete("/con/b", &[own, ("x-ms-delete-snapshots", "include")]).expect(202);
}

#[test]
fn a_changed_lease_fences_its_old_id() {
    let e = Emulator::with_blob(8192);
    acquire(&e, A, "-1");
    let change = [("x-ms-lease-id", A), ("x-ms-proposed-lease-id", B)];
    e.lease("/con/b", "change", &change).expect(200);
    e.lease("/con/b", "change", &change).expect(200);
    let old = e.write("/con/b", 0, &[1; 512], &[("x-ms-lease-id", A)]);
    assert_eq!(old.error(), (412, "LeaseIdMismatchWithBlobOperation"));
    e.write("/con/b", 0, &[1; 512], &[("x-ms-lease-id", B)]).expect(201);
    assert_eq!(e.head("/con/b").header("x-ms-lease-duration"), "infinite");
    let broken = e.lease("/con/b", "break", &[]).expect(202);
    assert_eq!(broken.header("x-ms-lease-time"), "0");
    assert_eq!(e.head("/con/b").header("x-ms-lease-state"), "broken");
}

#[test]
fn time_ends_leases() {
    let e = Emulator::with_blob(8192);
    acquire(&e, A, "15");
    let (own, other) = (("x-ms-lease-id", A), ("x-ms-lease-id", B));
    e.server.advance_clock(Duration::from_secs(14));
    e.write("/con/b", 0, &[1; 512], &[own]).expect(201);
    e.server.advance_clock(Duration::from_secs(2));
    assert_eq!(e.head("/con/b").header("x-ms-lease-state"), "expired");
    assert_eq!(e.write("/con/b", 0, &[1; 512], &[own]).error(), (412, "LeaseLost"));
    let never_had = e.write("/con/b", 0, &[1; 512], &[other]);
    assert_eq!(never_had.error(), (412, "LeaseNotPresentWithBlobOperation"));
    // Nobody wrote meanwhile, so it can be renewed.
    e.lease("/con/b", "renew", &[own]).expect(200);
    e.write("/con/b", 0, &[1; 512], &[own]).expect(201);
    e.server.advance_clock(Duration::from_secs(20));
    e.write("/con/b", 0, &[1; 512], &[]).expect(201);
    let renew = e.lease("/con/b", "renew", &[own]);
    assert_eq!(renew.error(), (409, "LeaseIdMismatchWithLeaseOperation"));
    assert_eq!(e.head("/con/b").header("x-ms-lease-state"), "available");

    acquire(&e, A, "60");
    let breaking = e.lease("/con/b", "break", &[("x-ms-lease-break-period", "10")]).expect(202);
    assert_eq!(breaking.header("x-ms-lease-time"), "10");
    assert_eq!(e.head("/con/b").header("x-ms-lease-state"), "breaking");
    e.write("/con/b", 0, &[1; 512], &[own]).expect(201);
    e.server.advance_clock(Duration::from_secs(11));
    assert_eq!(e.write("/con/b", 0, &[1; 512], &[own]).error(), (412, "LeaseLost"));
    assert_eq!(acquire(&e, B, "15"), 201);
}

#[test]
fn lease_requests_are_checked() {
    let e = Emulator::with_blob(8192);
    let lease = |action: &str, more: &[(&str, &str)]| {
        let answer = e.lease("/con/b", action, more);
        (answer.status, answer.header("x-ms-error-code").to_owned())
    };
    let refused = |status, code: &str| (status, code.to_owned());
    assert_eq!(lease("acquire", &[]), refused(400, "MissingRequiredHeader"));
    for seconds in ["0", "14", "61", "-2", "x"] {
        let given = lease("acquire", &[("x-ms-lease-duration", seconds)]);
        assert_eq!(given, refused(400, "InvalidHeaderValue"), "{seconds}");
    }
    let duration = ("x-ms-lease-duration", "15");
    let odd = lease("acquire", &[duration, ("x-ms-proposed-lease-id", "mine")]);
    assert_eq!(odd, refused(400, "InvalidHeaderValue"));
    assert_eq!(lease("renew", &[]), refused(400, "MissingRequiredHeader"));
    assert_eq!(lease("change", &[("x-ms-lease-id", A)]), refused(400, "MissingRequiredHeader"));
    assert_eq!(lease("take", &[]), refused(400, "InvalidHeaderValue"));
    assert_eq!(lease("break", &[]), refused(409, "LeaseNotPresentWithLeaseOperation"));
    let period = lease("break", &[("x-ms-lease-break-period", "61")]);
    assert_eq!(period, refused(400, "InvalidHeaderValue"));
    let none = e.write("/con/b", 0, &[1; 512], &[("x-ms-lease-id", A)]);
    assert_eq!(none.error(), (412, "LeaseNotPresentWithBlobOperation"));
    let none = e.put(
        "/con/new",
        &[
            ("x-ms-blob-type", "PageBlob"),
            ("x-ms-blob-content-length", "512"),
            ("x-ms-lease-id", A),
        ],
        b"",
    );
    assert_eq!(none.error(), (412, "LeaseNotPresentWithBlobOperation"));
    let snapshot = e.snapshot("/con/b");
    let on_snapshot = e.lease(&format!("/con/b?snapshot={snapshot}"), "acquire", &[duration]);
    assert_eq!(on_snapshot.status, 400);
    assert_eq!(e.lease("/con/none", "acquire", &[duration]).error(), (404, "BlobNotFound"));
    // A lease that nobody proposed an id for gets one.
    let answer = e.lease("/con/b", "acquire", &[duration]).expect(201);
    assert_eq!(answer.header("x-ms-lease-id").len(), 36);
}
