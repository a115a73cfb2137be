//! One reference model of a small tree of files, and random operations done to it and to the real thing:
//! to the tree over the memory store, and to a real mount over the emulator.
//!
//! A part of the cases is the same in every run, a part is made up anew; `MODEL_CASES=N` asks for N of
//! the latter. A case that fails is shrunk and printed as Rust; it belongs into [`found`] then, under
//! the name of what was wrong.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod found;
mod mounted;
mod op;
mod reference;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod tree;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use blobdir::emulator::page_blob::{Action, Operation, Rule};
use mounted::Mounted;
use op::ops;
use run::System;
use support::{cannot_mount, skip};
use tree::Tree;

/// Longest case, in operations.
const MOST_OPS: usize = 50;

/// Runs `cases` that are always the same and `more` that never are.
fn explore<S: System>(cases: u32, more: u32, system: impl Fn() -> S) {
    let fixed = TestRng::from_seed(RngAlgorithm::ChaCha, b"the same operations in every run");
    let asked = std::env::var("MODEL_CASES").ok().and_then(|count| count.parse().ok());
    let more = asked.unwrap_or(more);
    let config = |cases| Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let always = TestRunner::new_with_rng(config(cases), fixed);
    for mut runner in [always, TestRunner::new(config(more))] {
        let result = runner.run(&ops(MOST_OPS), |ops| {
            run::check(&mut system(), &ops).map_err(TestCaseError::fail)
        });
        match result {
            Ok(()) => {}
            Err(TestError::Fail(why, ops)) => panic!("{why}\n{ops:?}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn the_tree_behaves_as_the_reference() {
    explore(200, 40, Tree::new);
}

#[test]
fn a_mount_behaves_as_the_reference() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    explore(25, 5, || Mounted::new(&[]));
}

/// Nothing of what a service does now and then is to be seen.
#[test]
fn a_mount_over_a_moody_service_behaves_as_the_reference() {
    if let Some(reason) = cannot_mount() {
        return skip(reason);
    }
    let any = |fault| Rule { operation: None, ..Rule::new(Operation::GetBlob, fault) };
    let busy = |status| Action::Status { status, code: None, apply: false, retry_after: None };
    let moods = [
        any(busy(503)).with_probability(0.02),
        any(busy(429)).with_probability(0.01),
        Rule::new(Operation::GetBlob, Action::Truncate { bytes: 700 }).with_probability(0.1),
        Rule::new(Operation::GetBlob, Action::ShortBody { bytes: 100 }).with_probability(0.1),
        Rule::new(Operation::GetBlob, Action::WrongContentRange { shift: 512 })
            .with_probability(0.05),
        Rule::new(Operation::GetBlob, Action::Reset { apply: false }).with_probability(0.05),
        Rule::new(Operation::SetBlobProperties, Action::Reset { apply: true })
            .with_probability(0.05),
        Rule::new(Operation::SetBlobMetadata, Action::Reset { apply: false })
            .with_probability(0.05),
    ];
    explore(12, 3, || Mounted::new(&moods));
}
