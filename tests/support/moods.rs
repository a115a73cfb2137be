//! Everything that an answer can suffer on its way, as rules for the built-in server.

use blobdir::emulator::page_blob::{Action, LateAnswer, Operation, Rule};

/// The part of the failures that are wrong bodies, where there are bodies: what is wrong five times in a row
/// counts as wrong for good.
const OF_BODIES: f64 = 0.3;
/// Answers whose bodies can be wrong.
const WITH_BODY: [Operation; 2] = [Operation::GetBlob, Operation::ListBlobs];

fn status(status: u16, apply: bool) -> Action {
    Action::Status { status, code: None, apply, retry_after: None }
}

/// What any request can meet and nobody is to see: refused for now, lost before and after it was applied,
/// slow, or applied when newer ones have been. (What is refused for good, with 403 or 412, is to be seen.)
fn of_any() -> Vec<Action> {
    vec![
        status(408, false),
        status(429, false),
        Action::Status { status: 429, code: None, apply: false, retry_after: Some(1) },
        status(500, false),
        status(500, true),
        status(502, true),
        status(503, false),
        status(504, false),
        Action::Reset { apply: false },
        Action::Reset { apply: true },
        Action::Delay { ms: 30 },
        Action::Delay { ms: 1000 },
        Action::ApplyLate { ms: Some(200), answer: LateAnswer::Reset },
        Action::ApplyLate { ms: Some(2000), answer: LateAnswer::TimedOut },
    ]
}

/// What a body can be besides. Only what is read of a blob has a checksum.
fn of_bodies() -> Vec<Action> {
    vec![
        Action::Truncate { bytes: 100 },
        Action::ShortBody { bytes: 1 },
        Action::LongBody { bytes: 512 },
        Action::WrongContentRange { shift: 512 },
        Action::Corrupt,
    ]
}

/// Rules by which this share of all answers fails, in each of those ways equally often.
pub(crate) fn every_kind(share: f64) -> Vec<Rule> {
    let mut rules = Vec::new();
    for operation in WITH_BODY {
        let mut kinds = of_bodies();
        if operation != Operation::GetBlob {
            kinds.retain(|kind| *kind != Action::Corrupt);
        }
        rules.extend(
            equally(share, &kinds).map(|(fault, probability)| {
                Rule::new(operation, fault).with_probability(probability)
            }),
        );
    }
    rules.push(
        Rule::new(Operation::PutPage, Action::CorruptRequest).with_probability(share * OF_BODIES),
    );
    let kinds = of_any();
    rules.extend(equally(share, &kinds).map(|(fault, probability)| Rule {
        operation: None,
        ..Rule::new(Operation::GetBlob, fault).with_probability(probability)
    }));
    rules
}

/// A request that is never answered, applied all the same, and a body of which nothing more comes. Each
/// takes as long as nothing else does: once.
pub(crate) fn silence(after: u64) -> Vec<Rule> {
    vec![
        Rule::new(Operation::PutPage, Action::Stall { apply: true }).after(after).times(1),
        Rule::new(Operation::GetBlob, Action::StallBody { bytes: 100 }).after(after / 10).times(1),
    ]
}

/// Each fault with its probability, given that those before it were not played.
fn equally(share: f64, kinds: &[Action]) -> impl Iterator<Item = (Action, f64)> {
    let each = share / kinds.len() as f64;
    let taken = move |index: usize| index as f64 * each;
    kinds
        .iter()
        .cloned()
        .enumerate()
        .map(move |(index, fault)| (fault, each / (1.0 - taken(index))))
}
