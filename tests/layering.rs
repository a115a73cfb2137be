//! The import table of the crate, and the test that holds it.
//!
//! How the sources are read, and what the checker refuses, says `support/imports.rs`.

#![allow(clippy::unwrap_used)] // a test that meets an error is to fail

#[path = "support/imports.rs"]
mod imports;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use imports::Rules;

const RULES: Rules = Rules {
    table: TABLE,
    crate_homes: &[("fuser", "src/fuse/"), ("reqwest", "src/client/"), ("clap", "src/cli.rs")],
    // The emulator reads what its own disk answers, and never gives an errno to anybody.
    errno_homes: &["src/fuse/errno.rs", "src/emulator/"],
};

/// What each module may import: a module (`"vfs"`) or, of it, only some types (`"io::*Config"`).
///
/// From the top of the program to the bottom; a module never imports from a row above its own.
const TABLE: &[(&str, &[&str])] = &[
    ("cli", &["config", "logging", "daemon", "control", "backend", "mount", "recover", "emulator"]),
    (
        "mount",
        &[
            "config", "logging", "daemon", "control", "fuse", "vfs", "io", "backend", "client",
            "store",
        ],
    ),
    ("recover", &["io", "store"]),
    ("config", &["fuse::*Config", "vfs::*Config", "io::*Config", "backend", "client::*Config"]),
    ("fuse", &["vfs", STORE_ERRORS]),
    ("vfs", &["io", "store"]),
    ("io", &["store"]),
    ("backend", &["client", "store"]),
    ("client", &[STORE_READS]),
    ("store", &[]),
    ("emulator", &[]),
    ("daemon", &[]),
    ("control", &[]),
    ("logging", &[]),
];

/// The same, and where the bytes of a read go.
const STORE_READS: &str = "store::{Algorithm*, Digest, Error*, Outcome, Result, Retry, Sink}";

/// The part of `store` that says how something failed.
const STORE_ERRORS: &str = "store::{Error*, Outcome, Result, Retry}";

#[test]
fn the_sources_keep_to_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    assert!(!files.is_empty(), "no sources under src/");
    let mut report = String::new();
    for path in files {
        let name = path.strip_prefix(root).expect("below the root").display().to_string();
        let text = std::fs::read_to_string(&path).expect("a readable source file");
        for violation in RULES.check(&name, &text) {
            writeln!(report, "{name}:{}: {}", violation.line, violation.what).unwrap();
        }
    }
    assert!(report.is_empty(), "the layers leak:\n{report}");
}

#[test]
fn every_file_says_what_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "mount-helper/src", "tests", "benches"] {
        rust_files(&root.join(folder), &mut files);
    }
    let mute: Vec<_> = files
        .iter()
        .filter(|path| {
            let text = std::fs::read_to_string(path).expect("a readable source file");
            !text.trim_start().starts_with("//!")
        })
        .collect();
    assert!(mute.is_empty(), "no module doc (//!) at the top of {mute:?}");
}

#[test]
fn the_table_has_no_cycle() {
    for (row, (module, imports)) in TABLE.iter().enumerate() {
        for import in *imports {
            let other = import.split("::").next().unwrap_or_default();
            let below = TABLE.iter().position(|(name, _)| *name == other);
            assert!(
                below.is_some_and(|below| below > row),
                "{module} may import {import}, which has no row below its own"
            );
        }
    }
}

/// Every `.rs` file below `dir`, in order. A folder that is not there has none.
fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

// -- the checker, checked ----------------------------------------------------------------------

/// What the checker says of a file, without the lines.
fn complaints(name: &str, text: &str) -> Vec<String> {
    RULES.check(name, text).into_iter().map(|violation| violation.what).collect()
}

/// A file and what stands in it, a line each.
const ALLOWED: &str = r##"
src/io/span.rs    | use crate::store::{Blob, BlobMut as B, error::{Error, ErrorKind}};
src/io/span.rs    | use super::page_cache::Cache; use self::inner::X; use crate::io::Y;
src/client/mod.rs | use crate::store::{Error, ErrorKind, Result}; use reqwest::Client;
src/config.rs     | struct C { io: crate::io::StackConfig, v: crate::vfs::Config }
src/fuse/errno.rs | use libc::EIO; const X: i32 = libc::ENOENT; use fuser::Errno;
src/vfs/mod.rs    | fn f() { let fuser = 1; x.fuser::<u8>(); libc::getuid(); }
src/vfs/mod.rs    | /* crate::cli::Y */ const S: &str = "crate::cli::X"; // use crate::fuse::X;
src/vfs/mod.rs    | //! Not [`crate::fuse`], nor `use crate::fuse::X`.
src/vfs/mod.rs    | pub(crate) fn f() -> std::io::Result<()> {}
src/vfs/mod.rs    | #[cfg(test)] #[allow(x)] mod tests { use crate::cli::X; use fuser::Y; }
src/vfs/mod.rs    | #[cfg(all(test, unix))] use crate::fuse::{A, B}; use crate::io::C;
src/vfs/tests.rs  | use crate::fuse::Session;
src/lib.rs        | pub mod store; pub use crate::store::Error;
src/main.rs       | fn main() { blobdir::cli::main() }
"##;

/// A file, what stands in it and what the checker says of that, a line each.
const PLANTED: &str = r##"
src/store/mod.rs  | use crate::io::Span;                          | `store` may not import `io::Span`
src/io/mod.rs     | use crate::{store::Blob, vfs::Inode};         | `io` may not import `vfs::Inode`
src/io/a.rs       | use super::super::vfs::Inode;                 | `io` may not import `vfs::Inode`
src/io/mod.rs     | use super::vfs;                               | `io` may not import `vfs`
src/io/a.rs       | mod b { mod c { use super::super::super::super::fuse::X; } } | `io` may not import `fuse::X`
src/io/mod.rs     | fn f(x: &crate::vfs::Inode) {}                | `io` may not import `vfs::Inode`
src/io/mod.rs     | fn f() { log::warn!("{}", crate::vfs::NAME) } | `io` may not import `vfs::NAME`
src/io/mod.rs     | macro_rules! m { () => { $crate::vfs::f() } } | `io` may not import `vfs::f`
src/io/mod.rs     | pub use blobdir::vfs::Inode;                  | `io` may not import `vfs::Inode`
src/emulator/a.rs | use crate::store::Error;                      | `emulator` may not import `store::Error`
src/control.rs    | use crate::daemon::run;                       | `control` may not import `daemon::run`
src/mount.rs      | use crate::cli::Arguments;                    | `mount` may not import `cli::Arguments`
src/client/mod.rs | use crate::store::Blob;                       | `client` may not import `store::Blob`
src/fuse/mod.rs   | use crate::store;                             | `fuse` may not import `store`
src/fuse/mod.rs   | use crate::store::*;                          | `fuse` may not import `store::*`
src/config.rs     | use crate::io::{Config, stack};               | `config` may not import `io::stack`
src/io/mod.rs     | use crate::none::X;                           | `none` is not a module of the table in tests/layering.rs
src/extra.rs      |                                               | module `extra` has no row in the table of tests/layering.rs
src/io/mod.rs     | use super::*;                                 | the crate's root is imported by a glob
src/io/mod.rs     | use crate::{*};                               | the crate's root is imported by a glob
src/io/mod.rs     | use crate as root;                            | the crate's root is renamed
src/io/mod.rs     | use crate::{self as root};                    | the crate's root is renamed
src/vfs/mod.rs    | use fuser::Session;                           | `fuser` may be named only in src/fuse/
src/vfs/mod.rs    | use {std::fmt, fuser as f};                   | `fuser` may be named only in src/fuse/
src/vfs/mod.rs    | use ::fuser::Session;                         | `fuser` may be named only in src/fuse/
src/lib.rs        | extern crate fuser;                           | `fuser` may be named only in src/fuse/
src/backend/x.rs  | fn f() { reqwest::get(u) }                    | `reqwest` may be named only in src/client/
src/mount.rs      | #[derive(clap::Args)] struct A;               | `clap` may be named only in src/cli.rs
src/fuse/mod.rs   | reply.error(libc::EIO)                        | errno `libc::EIO` may be named only in src/fuse/errno.rs
src/fuse/mod.rs   | use libc::{c_int, ENOENT};                    | errno `libc::ENOENT` may be named only in src/fuse/errno.rs
src/fuse/mod.rs   | use fuser::Errno; const E: Errno = Errno::EIO; | errno `Errno::EIO` may be named only in src/fuse/errno.rs
src/vfs/mod.rs    | #[cfg(test)] mod tests; use crate::fuse::X;   | `vfs` may not import `fuse::X`
src/vfs/mod.rs    | #[cfg(test)] use crate::a::{b, c}; use crate::fuse::X; | `vfs` may not import `fuse::X`
src/vfs/mod.rs    | struct S { #[cfg(test)] n: u64, x: crate::fuse::X } | `vfs` may not import `fuse::X`
src/vfs/mod.rs    | #[cfg(not(test))] use crate::fuse::X;         | `vfs` may not import `fuse::X`
"##;

#[test]
fn allowed_imports_pass() {
    for line in ALLOWED.trim().lines() {
        let (name, text) = line.split_once('|').expect("two columns");
        assert_eq!(complaints(name.trim(), text), Vec::<String>::new(), "{line}");
    }
}

#[test]
fn planted_violations_are_found() {
    for line in PLANTED.trim().lines() {
        let columns: Vec<_> = line.split('|').map(str::trim).collect();
        let [name, text, expected] = columns[..] else {
            panic!("not three columns: {line}");
        };
        assert_eq!(complaints(name, text), [expected], "{line}");
    }
}

#[test]
fn a_violation_names_its_line() {
    let found = RULES.check("src/io/mod.rs", "//! Spans.\n\n/* a\nb */ use crate::vfs::X;\n");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].line, 4);
}
