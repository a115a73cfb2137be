//! `blobdir recover`: what needs somebody's decision after a writer has gone.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::{Failure, credentials};
use crate::config::{MountConfig, MountRequest};
use crate::daemon;
use crate::mount::KEPT;
use crate::recover::{self, Recovery, Span};

/// Differing ranges that are shown; more are counted.
const SHOWN: usize = 20;

/// Lists the recovery files of this host.
pub(super) fn list(options: Vec<String>) -> Result<u8, Failure> {
    // Any source would do: only the state directory is of interest.
    let config = configured("http://127.0.0.1/devstoreaccount1", &options)?;
    let dir = config.state_dir.join(KEPT);
    let files = recover::list(&dir)
        .map_err(|error| Failure::other(format!("{}: {error}", dir.display())))?;
    if files.is_empty() {
        super::print(&format!("nothing is kept in {}\n", dir.display()));
    }
    for file in files {
        let line = match Recovery::load(&file) {
            Ok(kept) => format!("{}\n    {}\n", file.display(), describe(&kept)),
            Err(error) => format!("{}\n    cannot be used: {error}\n", file.display()),
        };
        super::print(&line);
    }
    Ok(0)
}

/// Shows what of a recovery file differs from its blob today and writes it, if that is wanted.
pub(super) fn apply(file: &Path, yes: bool, options: Vec<String>) -> Result<u8, Failure> {
    let broken = |error: io::Error| Failure::other(format!("{}: {error}", file.display()));
    let kept = Recovery::load(file).map_err(broken)?;
    let config = configured(&kept.origin.source, &options)?;
    let runtime = runtime()?;
    let store = runtime.block_on(config.backend.connect()).map_err(Failure::other)?;
    super::print(&format!("{}\n", describe(&kept)));
    let differ = runtime.block_on(recover::differences(&kept, &*store)).map_err(Failure::other)?;
    if differ.is_empty() {
        super::print("the blob holds all of it already; the file can be removed\n");
        return Ok(0);
    }
    let bytes: u64 = differ.iter().map(|span| span.len()).sum();
    super::print(&format!("{bytes} bytes differ from the blob today:\n"));
    for Span { start, end } in differ.iter().take(SHOWN) {
        super::print(&format!("    {start} to {end}\n"));
    }
    if differ.len() > SHOWN {
        super::print(&format!("    and {} more ranges\n", differ.len() - SHOWN));
    }
    if !yes && !asked("Write them into the blob?").map_err(broken)? {
        return Ok(1);
    }
    let io = recover::Config {
        cache_size: config.cache_size,
        dirty_limit: config.dirty_limit,
        connections: config.backend.connections(),
        timeout: config.timeout,
    };
    runtime.block_on(recover::apply(&kept, &*store, &io)).map_err(Failure::other)?;
    // What is in the service need not be kept.
    std::fs::remove_file(file).map_err(broken)?;
    super::print(&format!("{}: written\n", kept.origin.path));
    Ok(0)
}

fn describe(kept: &Recovery) -> String {
    let origin = &kept.origin;
    let bytes = kept.bytes();
    format!("{} {}: {bytes} bytes not written: {}", origin.source, origin.path, origin.reason)
}

/// Whether somebody at a terminal says yes. Nobody there is a no.
fn asked(question: &str) -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        super::print("give --yes to write them\n");
        return Ok(false);
    }
    super::print(&format!("{question} [y/N] "));
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start: {error}")))
}

fn configured(source: &str, options: &[String]) -> Result<MountConfig, Failure> {
    MountConfig::new(MountRequest {
        source: &credentials::rejoin(source),
        mount_point: PathBuf::new(),
        options,
        env: &|name| std::env::var(name).ok(),
        caller: daemon::caller(),
    })
    .map_err(Failure::usage)
}

/// Breaks the lease of a blob and says what it was.
pub(super) fn break_lease(
    source: &str,
    path: &str,
    mut options: Vec<String>,
) -> Result<u8, Failure> {
    // Nothing is written, and nothing of this host is needed.
    options.push("ro".to_owned());
    let config = configured(source, &options)?;
    let runtime = runtime()?;
    let was = runtime.block_on(config.backend.break_lease(path)).map_err(Failure::other)?;
    super::print(&format!("{path}: the lease is broken; it was: {was}\n"));
    Ok(0)
}
