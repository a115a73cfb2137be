//! What writing costs at a real mount, in requests that the service counts.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blobdir::emulator::page_blob::{Action, Operation, Rule};
use tempfile::TempDir;

use support::service::Service;
use support::{Mount, cannot_mount, output_within, skip};

const MIB: usize = 1 << 20;
/// For a program that writes a GiB; it takes some seconds.
const LIMIT: Duration = Duration::from_secs(300);

/// One test at a time: a process that another one starts closes a copy of each of our files, which flushes
/// them.
static ALONE: Mutex<()> = Mutex::new(());

/// Requests by operation.
type Counts = BTreeMap<&'static str, u64>;

fn counts(service: &Service) -> Counts {
    let server = service.server();
    Operation::ALL.iter().map(|op| (op.name(), server.requests(*op))).collect()
}

/// What was asked for since.
fn since(service: &Service, before: &Counts) -> Counts {
    let mut now = counts(service);
    now.iter_mut().for_each(|(op, count)| *count -= before[op]);
    now.retain(|_, count| *count > 0);
    now
}

fn of(counts: &Counts, op: Operation) -> u64 {
    counts.get(op.name()).copied().unwrap_or(0)
}

/// A service and a mount of it; nothing where that cannot be.
fn start(options: &[&str]) -> Option<(MutexGuard<'static, ()>, Mount, Service)> {
    if let Some(reason) = cannot_mount() {
        skip(reason);
        return None;
    }
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let service = Service::start();
    Some((alone, service.mount(options), service))
}

/// Runs a program and waits until the kernel has told of its last close, which it does when the program is
/// told that it has closed, or later.
fn run(service: &Service, program: &str, arguments: &[&str]) -> Counts {
    let before = counts(service);
    let mut command = Command::new(program);
    command.args(arguments);
    let output = output_within(LIMIT, command);
    assert!(output.success, "{program}: {}", output.text);
    since(service, &before)
}

#[test]
fn a_small_file_costs_five_requests() {
    const FILES: u64 = 20;
    let Some((_alone, mount, service)) = start(&[]) else { return };
    let data = [7; 4096];
    let before = counts(&service);
    for n in 0..FILES {
        let mut file = File::create(mount.path().join(format!("f{n}"))).unwrap();
        file.write_all(&data).unwrap();
    }
    let cost = since(&service, &before);
    // Four: is it there, make it, make room, write. More where the machine stood still meanwhile and a
    // lease was taken.
    assert!(cost.values().sum::<u64>() <= 5 * FILES, "{cost:?}");

    let from = TempDir::new().unwrap();
    let (even, odd) = (from.path().join("even"), from.path().join("odd"));
    fs::write(&even, data).unwrap();
    fs::write(&odd, &data[..4000]).unwrap();
    // cp asks twice whether it is there; an odd length stands in the metadata.
    for (source, most) in [(&even, 5), (&odd, 6)] {
        let costs = (0..5).map(|n| {
            let target = mount.path().join(format!("copy{most}{n}"));
            let arguments = [source.to_str().unwrap(), target.to_str().unwrap()];
            run(&service, "cp", &arguments).values().sum::<u64>()
        });
        let costs: Vec<u64> = costs.collect();
        assert!(costs.iter().min() <= Some(&most), "{costs:?}");
    }
    for n in 0..FILES {
        assert_eq!(fs::read(mount.path().join(format!("f{n}"))).unwrap(), data);
    }
    mount.unmount();
}

#[test]
fn a_stream_costs_little_beside_its_bytes() {
    const LEN: usize = 1 << 30;
    // Renewing takes requests too, by the clock.
    let Some((_alone, mount, service)) = start(&["lease=infinite"]) else { return };
    // 0xFF: zeros would not be sent.
    let piece = vec![0xFF; MIB];
    let path = mount.path().join("big");
    let before = counts(&service);
    let mut file = File::create(&path).unwrap();
    for _ in 0..LEN / MIB {
        file.write_all(&piece).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    // Handing the lease back is what comes last, after close has returned.
    mount.unmount();
    let cost = since(&service, &before);
    let pages = of(&cost, Operation::PutPage);
    assert!(pages <= 260, "{cost:?}");
    // Beside the page that unmounting takes: nothing.
    assert!(cost.values().sum::<u64>() - pages <= 12, "{cost:?}");
    let mount = service.mount(&[]);
    assert_eq!(fs::metadata(mount.path().join("big")).unwrap().len(), LEN as u64);
    mount.unmount();
}

#[test]
fn a_lost_answer_among_a_thousand_writes_costs_a_raise_and_the_updates_again() {
    const WRITES: u64 = 1000;
    let Some((_alone, mount, service)) = start(&["lease=infinite"]) else { return };
    let path = mount.path().join("f");
    fs::write(&path, vec![1; WRITES as usize * 512]).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for fault in [
        Action::Reset { apply: true },
        Action::Reset { apply: false },
        Action::Status { status: 500, code: None, apply: true, retry_after: None },
    ] {
        let before = counts(&service);
        let rule = Rule::new(Operation::PutPage, fault.clone()).after(WRITES / 2).times(1);
        service.server().inject(rule).unwrap();
        for n in 0..WRITES {
            // Apart, so that each is an update of its own.
            file.write_all_at(&[(n % 255) as u8 + 1; 512], n * 1024 % (WRITES * 512)).unwrap();
            file.sync_data().unwrap();
        }
        let cost = since(&service, &before);
        service.server().clear_faults();
        let expected = Counts::from([("PutPage", WRITES + 1), ("SetBlobProperties", 1)]);
        assert_eq!(cost, expected, "{fault:?}");
    }
    drop(file);
    mount.unmount();
}
