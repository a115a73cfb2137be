//! Does the same to the reference and to a system, and compares after every step.

use super::op::{Op, SLOTS};
use super::reference::{Contents, Model, Outcome, Value};

/// Something that should behave as the reference does.
pub(crate) trait System {
    /// Does it. Slots that it uses are open.
    fn apply(&mut self, op: &Op) -> Outcome;

    /// Everything there is, looked at anew.
    fn contents(&mut self) -> Contents;

    /// The bytes of a file as another client of the service reads them.
    fn elsewhere(&mut self, name: &str) -> Option<Vec<u8>>;
}

/// Runs `ops` on both, then closes everything and compares what is there, before and after a remount.
///
/// The error says which step went wrong and how.
pub(crate) fn check(system: &mut dyn System, ops: &[Op]) -> Result<(), String> {
    let mut model = Model::default();
    let closing = (0..SLOTS).map(|slot| Op::Close { slot });
    let all = ops.iter().copied().chain(closing);
    for (index, op) in all.enumerate() {
        if matches!(op, Op::Remount) {
            for slot in model.open_slots() {
                step(&mut model, system, &Op::Close { slot })
                    .map_err(|error| format!("at step {index}, {op:?}: close: {error}"))?;
            }
        }
        step(&mut model, system, &op)
            .map_err(|error| format!("at step {index}, {op:?}: {error}"))?;
    }
    compare_contents(&model.contents(), &system.contents())?;
    system.apply(&Op::Remount).map_err(|errno| format!("the last remount failed: {errno}"))?;
    compare_contents(&model.contents(), &system.contents())
        .map_err(|error| format!("after a remount: {error}"))
}

fn step(model: &mut Model, system: &mut dyn System, op: &Op) -> Result<(), String> {
    let Some((expected, next)) = model.after(op) else {
        return Ok(());
    };
    let got = system.apply(op);
    if expected.or_stale && got == Err(libc::ESTALE) {
        return Ok(());
    }
    compare(&expected.outcome, &got)?;
    *model = next;
    if let Some(name) = expected.published.filter(|_| got.is_ok()) {
        let ours = model.bytes(name).unwrap_or_default();
        match system.elsewhere(name) {
            None => return Err(format!("{name} is not in the service")),
            Some(theirs) => {
                compare_bytes(ours, &theirs)
                    .map_err(|error| format!("{name} elsewhere: {error}"))?;
            }
        }
    }
    Ok(())
}

fn compare(expected: &Outcome, got: &Outcome) -> Result<(), String> {
    match (expected, got) {
        (Ok(Value::Bytes(expected)), Ok(Value::Bytes(got))) => compare_bytes(expected, got),
        _ if expected == got => Ok(()),
        _ => Err(format!("expected {}, got {}", show(expected), show(got))),
    }
}

fn show(outcome: &Outcome) -> String {
    match outcome {
        Ok(value) => format!("{value:?}"),
        Err(errno) => std::io::Error::from_raw_os_error(*errno).to_string(),
    }
}

fn compare_bytes(expected: &[u8], got: &[u8]) -> Result<(), String> {
    if expected == got {
        return Ok(());
    }
    let differ = expected.iter().zip(got).position(|(expected, got)| expected != got);
    let at = differ.unwrap_or(expected.len().min(got.len()));
    Err(format!(
        "expected {} bytes, got {}; they differ at {at}: {:?} and {:?}",
        expected.len(),
        got.len(),
        expected.get(at),
        got.get(at)
    ))
}

fn compare_contents(expected: &Contents, got: &Contents) -> Result<(), String> {
    let names = |contents: &Contents| contents.keys().cloned().collect::<Vec<_>>();
    if names(expected) != names(got) {
        return Err(format!("expected {:?}, found {:?}", names(expected), names(got)));
    }
    for (name, expected) in expected {
        match (expected, &got[name]) {
            (Some(expected), Some(got)) => {
                compare_bytes(expected, got).map_err(|error| format!("{name}: {error}"))?;
            }
            (None, None) => {}
            _ => return Err(format!("{name} is a file in one and a directory in the other")),
        }
    }
    Ok(())
}
