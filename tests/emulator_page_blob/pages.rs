//! Page writes, reads and page lists.

use crate::client::{Emulator, ranges_of};

#[test]
fn what_is_written_is_read_and_listed_exactly() {
    let e = Emulator::with_blob(1 << 20);
    assert_eq!(e.ranges("/con/b?comp=pagelist"), [""; 0]);
    let answer = e.write("/con/b", 1024, &[7; 1024], &[]).expect(201);
    assert_eq!(answer.header("x-ms-blob-sequence-number"), "0");
    assert!(answer.has("x-ms-content-crc64") && !answer.has("content-md5"));
    assert_eq!(answer.header("x-ms-request-server-encrypted"), "true");
    e.write("/con/b", 2048, &[0; 512], &[]).expect(201);
    // Zeros that were written are pages, and neighbours are one range.
    assert_eq!(e.ranges("/con/b?comp=pagelist"), ["1024-2559"]);
    assert_eq!(e.read("/con/b", 512, 2048), [vec![0; 512], vec![7; 1024]].concat());
    let cleared = e.clear("/con/b", 1536, 2048, &[]).expect(201);
    assert!(!cleared.has("x-ms-content-crc64") && !cleared.has("content-md5"));
    assert_eq!(e.ranges("/con/b?comp=pagelist"), ["1024-1535", "2048-2559"]);
    assert_eq!(e.read("/con/b", 1024, 2048), [vec![7; 512], vec![0; 512]].concat());
    // A clear may reach over the whole blob.
    e.clear("/con/b", 0, 1 << 20, &[]).expect(201);
    assert_eq!(e.ranges("/con/b?comp=pagelist"), [""; 0]);
}

#[test]
fn page_ranges_must_be_whole_pages_inside_the_blob() {
    let e = Emulator::with_blob(8192);
    let put = |range: &str, len: usize| {
        let headers = [("x-ms-page-write", "update"), ("x-ms-range", range)];
        let answer = e.put("/con/b?comp=page", &headers, &vec![1; len]);
        (answer.status, answer.header("x-ms-error-code").to_owned())
    };
    let refused = |status, code: &str| (status, code.to_owned());
    assert_eq!(put("bytes=1-512", 512), refused(416, "InvalidPageRange"));
    assert_eq!(put("bytes=0-99", 100), refused(416, "InvalidPageRange"));
    assert_eq!(put("bytes=7680-8703", 1024), refused(416, "InvalidPageRange"));
    assert_eq!(put("bytes=8192-8703", 512), refused(416, "InvalidPageRange"));
    assert_eq!(put("bytes=1024-511", 512), refused(416, "InvalidPageRange"));
    assert_eq!(put("bytes=0-511", 1024), refused(400, "InvalidHeaderValue"));
    assert_eq!(put("bytes=0-", 8192), refused(400, "InvalidHeaderValue"));
    assert_eq!(put("pages=0-1", 512), refused(400, "InvalidHeaderValue"));
    assert_eq!(e.clear("/con/b", 4096, 16384, &[]).error(), (416, "InvalidPageRange"));
    let no_range = e.put("/con/b?comp=page", &[("x-ms-page-write", "update")], &[0; 512]);
    assert_eq!(no_range.error(), (400, "MissingRequiredHeader"));
    let with_body = [("x-ms-page-write", "clear"), ("x-ms-range", "bytes=0-511")];
    assert_eq!(
        e.put("/con/b?comp=page", &with_body, &[0; 512]).error(),
        (400, "InvalidHeaderValue")
    );
    assert_eq!(e.ranges("/con/b?comp=pagelist"), [""; 0]);
    // The plain header does as well, and gives way to the other.
    let headers = [("x-ms-page-write", "update"), ("range", "bytes=0-511")];
    e.put("/con/b?comp=page", &headers, &[1; 512]).expect(201);
    let headers = [headers[0], headers[1], ("x-ms-range", "bytes=1024-1535")];
    e.put("/con/b?comp=page", &headers, &[1; 512]).expect(201);
    assert_eq!(e.ranges("/con/b?comp=pagelist"), ["0-511", "1024-1535"]);
}

#[test]
fn four_mebibytes_are_the_most() {
    let e = Emulator::with_blob(16 << 20);
    e.write("/con/b", 0, &vec![3; 4 << 20], &[]).expect(201);
    let more = e.write("/con/b", 0, &vec![4; (4 << 20) + 512], &[]);
    assert_eq!(more.error(), (413, "RequestBodyTooLarge"));
    assert_eq!(e.read("/con/b", 0, 4 << 20), vec![3; 4 << 20]);
    // More than that is read in one answer all the same.
    assert_eq!(e.get("/con/b", &[]).expect(200).body.len(), 16 << 20);
}

#[test]
fn bodies_are_checked_against_their_hashes() {
    let e = Emulator::with_blob(8192);
    let md5 = "v2GerAzfP2jUluqTRBN+iw==";
    let crc64 = "6YKnaCgO5h0=";
    let zeros = [0; 512];
    let answer = e.write("/con/b", 0, &zeros, &[("content-md5", md5)]).expect(201);
    assert_eq!(answer.header("content-md5"), md5);
    assert!(!answer.has("x-ms-content-crc64"));
    let answer = e.write("/con/b", 0, &zeros, &[("x-ms-content-crc64", crc64)]).expect(201);
    assert_eq!(answer.header("x-ms-content-crc64"), crc64);
    let ones = [1; 512];
    assert_eq!(e.write("/con/b", 0, &ones, &[("content-md5", md5)]).error(), (400, "Md5Mismatch"));
    let crc = e.write("/con/b", 0, &ones, &[("x-ms-content-crc64", crc64)]);
    assert_eq!(crc.error(), (400, "Crc64Mismatch"));
    assert_eq!(
        e.write("/con/b", 0, &zeros, &[("content-md5", "AAAA")]).error(),
        (400, "InvalidMd5")
    );
    let both = [("content-md5", md5), ("x-ms-content-crc64", crc64)];
    assert_eq!(e.write("/con/b", 0, &zeros, &both).status, 400);
    assert_eq!(e.read("/con/b", 0, 512), zeros);

    let get = |more: &[(&str, &str)]| e.get("/con/b", more);
    let range = ("x-ms-range", "bytes=0-511");
    let (want_md5, want_crc) =
        (("x-ms-range-get-content-md5", "true"), ("x-ms-range-get-content-crc64", "true"));
    assert_eq!(get(&[range, want_md5]).header("content-md5"), md5);
    assert_eq!(get(&[range, want_crc]).header("x-ms-content-crc64"), crc64);
    assert_eq!(get(&[range, want_crc, want_md5]).status, 400);
    assert_eq!(get(&[want_md5]).status, 400);
    e.create("/con/large", 8 << 20);
    let range = ("x-ms-range", "bytes=0-4194304");
    assert_eq!(e.get("/con/large", &[range, want_md5]).status, 400);
}

#[test]
fn reads_are_clipped_or_refused_at_the_end() {
    let e = Emulator::with_blob(1024);
    let get = |range: &str| e.get("/con/b", &[("x-ms-range", range)]);
    let clipped = get("bytes=512-4095").expect(206);
    assert_eq!(clipped.header("content-range"), "bytes 512-1023/1024");
    assert_eq!(clipped.body.len(), 512);
    assert_eq!(get("bytes=1000-").expect(206).body.len(), 24);
    let behind = get("bytes=1024-1535");
    assert_eq!(behind.error(), (416, "InvalidRange"));
    assert_eq!(behind.header("content-range"), "bytes */1024");
    assert_eq!(get("bytes=-512").status, 400);
    assert_eq!(get("bytes=0-1,3-4").status, 400);
    e.create("/con/empty", 0);
    assert_eq!(
        e.get("/con/empty", &[("x-ms-range", "bytes=0-511")]).error(),
        (416, "InvalidRange")
    );
    assert_eq!(e.get("/con/empty", &[]).expect(200).body, b"");
}

#[test]
fn sequence_numbers_fence_to_the_last_bit() {
    let e = Emulator::with_blob(8192);
    let set = |headers: &[(&str, &str)]| e.put("/con/b?comp=properties", headers, b"");
    let act = |action: &str, number: &str| {
        let answer =
            set(&[("x-ms-sequence-number-action", action), ("x-ms-blob-sequence-number", number)]);
        answer.expect(200).header("x-ms-blob-sequence-number").to_owned()
    };
    assert_eq!(act("max", "7"), "7");
    assert_eq!(act("max", "3"), "7");
    assert_eq!(act("update", "3"), "3");
    let increment = ("x-ms-sequence-number-action", "increment");
    assert_eq!(set(&[increment]).expect(200).header("x-ms-blob-sequence-number"), "4");
    assert_eq!(set(&[increment, ("x-ms-blob-sequence-number", "1")]).status, 400);
    assert_eq!(set(&[("x-ms-sequence-number-action", "max")]).status, 400);

    let write = |name: &str, number: &str| e.write("/con/b", 0, &[1; 512], &[(name, number)]);
    let (lt, le, eq) =
        ("x-ms-if-sequence-number-lt", "x-ms-if-sequence-number-le", "x-ms-if-sequence-number-eq");
    let fenced = (412, "SequenceNumberConditionNotMet");
    assert_eq!(write(lt, "4").error(), fenced);
    write(lt, "5").expect(201);
    write(le, "4").expect(201);
    assert_eq!(write(le, "3").error(), fenced);
    write(eq, "4").expect(201);
    assert_eq!(write(eq, "5").error(), fenced);
    assert_eq!(e.clear("/con/b", 0, 512, &[(lt, "4")]).error(), fenced);
    assert_eq!(write(lt, "9223372036854775808").status, 400);

    // Numbers that a double cannot tell apart.
    assert_eq!(act("update", "9007199254740993"), "9007199254740993");
    assert_eq!(write(eq, "9007199254740992").error(), fenced);
    assert_eq!(act("max", "9223372036854775807"), "9223372036854775807");
    assert_eq!(set(&[increment]).error(), (409, "SequenceNumberIncrementTooLarge"));
    assert_eq!(e.head("/con/b").header("x-ms-blob-sequence-number"), "9223372036854775807");
}

#[test]
fn differences_to_a_snapshot() {
    let e = Emulator::with_blob(1 << 20);
    e.write("/con/b", 0, &[1; 8192], &[]).expect(201);
    let first = e.snapshot("/con/b");
    e.clear("/con/b", 4096, 5120, &[]).expect(201);
    let diff = |previous: &str| format!("/con/b?comp=pagelist&prevsnapshot={previous}");
    assert_eq!(e.ranges(&diff(&first)), ["!4096-5119"]);
    e.write("/con/b", 16384, &[2; 512], &[]).expect(201);
    let second = e.snapshot("/con/b");
    assert_eq!(e.ranges(&diff(&second)), [""; 0]);
    e.write("/con/b", 512, &[2; 512], &[]).expect(201);
    assert_eq!(e.ranges(&diff(&second)), ["512-1023"]);
    assert_eq!(e.ranges(&diff(&first)), ["512-1023", "!4096-5119", "16384-16895"]);
    assert_eq!(
        e.ranges(&format!("{}&snapshot={second}", diff(&first))),
        ["!4096-5119", "16384-16895"]
    );
    let error = |path: String| {
        let answer = e.get(&path, &[]);
        (answer.status, answer.header("x-ms-error-code").to_owned())
    };
    let refused = |status, code: &str| (status, code.to_owned());
    assert_eq!(
        error(format!("{}&snapshot={first}", diff(&second))),
        refused(400, "PreviousSnapshotCannotBeNewer")
    );
    let never = "2020-01-01T00:00:00.0000000Z";
    assert_eq!(error(diff(never)), refused(409, "PreviousSnapshotNotFound"));
    e.create("/con/b", 1 << 20);
    assert_eq!(error(diff(&first)), refused(409, "BlobOverwritten"));
}

#[test]
fn ten_thousand_ranges_come_at_once_at_most() {
    const RANGES: u64 = 10_001;
    let e = Emulator::with_blob(RANGES * 1024);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let e = &e;
            scope.spawn(move || {
                for page in (writer..RANGES).step_by(4) {
                    e.write("/con/b", page * 1024, &[1; 512], &[]).expect(201);
                }
            });
        }
    });
    let ask = |query: &str, more: &[(&str, &str)]| {
        let answer = e.get(&format!("/con/b?comp=pagelist{query}"), more).expect(200);
        (ranges_of(&answer), answer.elements("NextMarker").concat())
    };
    let (first, marker) = ask("", &[]);
    assert_eq!((first.len(), marker.is_empty()), (10_000, false));
    // To ask for more changes nothing.
    assert_eq!(ask("&maxresults=20000", &[]), (first, marker.clone()));
    let rest = ask(&format!("&marker={marker}"), &[]);
    let last = RANGES * 1024 - 1024;
    assert_eq!(rest, (vec![format!("{last}-{}", last + 511)], String::new()));
    // Before they had pages, lists had no limit.
    let (all, marker) = ask("", &[("x-ms-version", "2019-12-12")]);
    assert_eq!((all.len() as u64, marker.as_str()), (RANGES, ""));
    // A difference has the same limit.
    let time = e.snapshot("/con/b");
    e.clear("/con/b", 0, RANGES * 1024, &[]).expect(201);
    let (first, marker) = ask(&format!("&prevsnapshot={time}"), &[]);
    assert_eq!((first.len(), first[0].as_str()), (10_000, "!0-511"));
    assert_eq!(ask(&format!("&prevsnapshot={time}&marker={marker}"), &[]).0.len(), 1);
    for bad in ["maxresults=0", "maxresults=x", "marker=what"] {
        assert_eq!(e.get(&format!("/con/b?comp=pagelist&{bad}"), &[]).status, 400, "{bad}");
    }
}

#[test]
fn page_lists_come_in_pages() {
    let e = Emulator::with_blob(1 << 20);
    for page in 0..25 {
        e.write("/con/b", page * 1024, &[1; 512], &[]).expect(201);
    }
    let mut found = Vec::new();
    let mut marker = String::new();
    loop {
        let path = format!("/con/b?comp=pagelist&maxresults=10{marker}");
        let answer = e.get(&path, &[]).expect(200);
        let ranges = ranges_of(&answer);
        assert!(ranges.len() <= 10);
        found.extend(ranges);
        match answer.elements("NextMarker").as_slice() {
            [next] if !next.is_empty() => marker = format!("&marker={next}"),
            _ => break,
        }
    }
    assert_eq!(found, e.ranges("/con/b?comp=pagelist"));
    assert_eq!(found.len(), 25);
    let within = e.get("/con/b?comp=pagelist", &[("x-ms-range", "bytes=1024-3071")]);
    assert_eq!(ranges_of(&within), ["1024-1535", "2048-2559"]);
    assert_eq!(within.header("x-ms-blob-content-length"), "1048576");
    for bad in ["maxresults=0", "maxresults=x", "marker=nonsense"] {
        assert_eq!(e.get(&format!("/con/b?comp=pagelist&{bad}"), &[]).status, 400, "{bad}");
    }
}

#[test]
fn resize_clears_what_it_cuts_off() {
    let e = Emulator::with_blob(16384);
    e.write("/con/b", 0, &[9; 16384], &[]).expect(201);
    let resize = |size: &str, more: &[(&str, &str)]| {
        let mut headers = vec![("x-ms-blob-content-length", size)];
        headers.extend(more);
        e.put("/con/b?comp=properties", &headers, b"")
    };
    // Both in one request, and the other properties stay.
    e.put("/con/b?comp=properties", &[("x-ms-blob-content-type", "a/b")], b"").expect(200);
    let both = [("x-ms-sequence-number-action", "max"), ("x-ms-blob-sequence-number", "5")];
    let answer = resize("512", &both).expect(200);
    assert_eq!(answer.header("x-ms-blob-sequence-number"), "5");
    let head = e.head("/con/b");
    assert_eq!((head.header("content-length"), head.header("content-type")), ("512", "a/b"));
    resize("16384", &[]).expect(200);
    assert_eq!(e.ranges("/con/b?comp=pagelist"), ["0-511"]);
    assert_eq!(e.read("/con/b", 0, 1024), [vec![9; 512], vec![0; 512]].concat());
    assert_eq!(resize("1000", &[]).error(), (400, "InvalidHeaderValue"));
    assert_eq!(resize("8796093022720", &[]).status, 400);
    resize("8796093022208", &[]).expect(200);
    e.write("/con/b", 8_796_093_021_696, &[5; 512], &[]).expect(201);
    assert_eq!(e.read("/con/b", 8_796_093_021_696, 8_796_093_022_208), [5; 512]);
    // A content header clears those that are not given.
    e.put("/con/b?comp=properties", &[("x-ms-blob-cache-control", "no-cache")], b"").expect(200);
    let head = e.head("/con/b");
    assert_eq!(head.header("content-type"), "application/octet-stream");
    assert_eq!(head.header("cache-control"), "no-cache");
    assert_eq!(head.header("content-length"), "8796093022208");
}

#[test]
fn concurrent_writers_lose_nothing_and_one_wins_each_condition() {
    let e = Emulator::with_blob(1 << 20);
    std::thread::scope(|scope| {
        for writer in 0..8u64 {
            let e = &e;
            scope.spawn(move || {
                for step in 0..16 {
                    let at = (step * 8 + writer) * 512;
                    e.write("/con/b", at, &[writer as u8 + 1; 512], &[]).expect(201);
                }
            });
        }
    });
    let whole = e.read("/con/b", 0, 128 * 512);
    for (page, bytes) in whole.chunks(512).enumerate() {
        assert_eq!(bytes, [page as u8 % 8 + 1; 512]);
    }
    let etag = e.head("/con/b").etag();
    let wins: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let (e, etag) = (&e, &etag);
                scope.spawn(move || e.write("/con/b", 0, &[1; 512], &[("if-match", etag)]).status)
            })
            .collect();
        writers.into_iter().map(|w| usize::from(w.join().unwrap() == 201)).sum()
    });
    assert_eq!(wins, 1);
}
