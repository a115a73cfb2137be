//! Faults on order: rules that say which request goes wrong, and how.
//!
//! Decides, counts, and can be replayed: the same seed and the same order of requests give the same
//! faults. Knows operations and names; what an action does to a connection is up to the service.

use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Which requests go wrong, how often, and how.
///
/// As JSON: `{"operation": "PutPage", "blob": "disks/*", "skip": 2, "count": 1,
/// "fault": {"reset": {"apply": true}}}`. All but `fault` may be left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// An operation of the service by name; `None` or `*` for any.
    #[serde(default)]
    pub operation: Option<String>,
    /// `container/blob`, with `*` for any run of characters; `None` for any.
    #[serde(default)]
    pub blob: Option<String>,
    /// Matching requests that are let through first.
    #[serde(default)]
    pub skip: u64,
    /// Matching requests that go wrong after that; `None` for all of them.
    #[serde(default)]
    pub count: Option<u64>,
    /// How likely each of those goes wrong, 0 to 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// What goes wrong.
    pub fault: Action,
}

fn always() -> f64 {
    1.0
}

impl Rule {
    /// A rule for every request of an operation. Narrow it with the other fields.
    pub fn new(operation: impl AsRef<str>, fault: Action) -> Self {
        Self {
            operation: Some(operation.as_ref().to_owned()),
            blob: None,
            skip: 0,
            count: None,
            probability: 1.0,
            fault,
        }
    }

    /// For so many requests only.
    pub fn times(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// After so many requests only.
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// For `container/blob` only, with `*` for any run of characters.
    pub fn on(mut self, blob: impl Into<String>) -> Self {
        self.blob = Some(blob.into());
        self
    }

    /// With this likelihood only, 0 to 1.
    pub fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    fn check(&self, operations: &[&str]) -> Result<(), String> {
        match self.operation.as_deref() {
            None | Some("*") => {}
            Some(name) if operations.iter().any(|known| known.eq_ignore_ascii_case(name)) => {}
            Some(name) => return Err(format!("there is no operation {name}")),
        }
        if !(0.0..=1.0).contains(&self.probability) {
            return Err(format!("probability {} is not between 0 and 1", self.probability));
        }
        if let Action::Status { status, .. } | Action::Answer { status, .. } = self.fault
            && http::StatusCode::from_u16(status).is_err()
        {
            return Err(format!("{status} is no HTTP status"));
        }
        Ok(())
    }

    fn matches(&self, op: &str, path: &str) -> bool {
        let op_matches = match self.operation.as_deref() {
            None | Some("*") => true,
            Some(name) => name.eq_ignore_ascii_case(op),
        };
        op_matches && self.blob.as_deref().is_none_or(|glob| matches_glob(glob, path))
    }
}

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// Goes on after so many milliseconds.
    Delay {
        /// How long, in milliseconds.
        ms: u64,
    },
    /// Is never answered, whether it is applied or not.
    Stall {
        /// Applied all the same.
        #[serde(default)]
        apply: bool,
    },
    /// Is answered with this status, whether it is applied or not.
    Status {
        /// The HTTP status.
        status: u16,
        /// The error code; by default the usual one of the status.
        #[serde(default)]
        code: Option<String>,
        /// Applied all the same.
        #[serde(default)]
        apply: bool,
        /// Seconds for a `Retry-After` header.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// Is answered with exactly this, and not applied: what a proxy says, or a hostile server.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The body, of any kind.
        #[serde(default)]
        body: String,
        /// Headers by name.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// The range that was asked for is not heeded: the whole is answered.
    IgnoreRange,
    /// The connection is reset instead of an answer.
    Reset {
        /// Applied all the same.
        #[serde(default)]
        apply: bool,
    },
    /// The connection is reset after so many bytes of the answer's body.
    Truncate {
        /// Bytes that still come.
        bytes: u64,
    },
    /// Nothing more comes after so many bytes of the answer's body.
    StallBody {
        /// Bytes that still come.
        bytes: u64,
    },
    /// A complete answer with a body that is this much shorter than its range.
    ShortBody {
        /// Bytes that are missing at the end.
        bytes: u64,
    },
    /// A complete answer with a body that is this much longer than its range.
    LongBody {
        /// Bytes too many at the end.
        bytes: u64,
    },
    /// `Content-Range` says a place that is so many bytes further on.
    WrongContentRange {
        /// Bytes by which it is wrong.
        #[serde(default = "one_page")]
        shift: u64,
    },
    /// One bit of the answer's body is wrong.
    Corrupt,
    /// One bit of the request's body is wrong when it arrives.
    CorruptRequest,
    /// The answer is lost, and the request is applied when later ones have been: after so many
    /// milliseconds, or when held requests are released.
    ApplyLate {
        /// How long after its arrival, in milliseconds; `None` until released.
        #[serde(default)]
        ms: Option<u64>,
        /// What the caller sees meanwhile.
        #[serde(default)]
        answer: LateAnswer,
    },
}

fn one_page() -> u64 {
    512
}

/// What the caller of a request that is applied late sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LateAnswer {
    /// The connection is reset.
    #[default]
    Reset,
    /// No answer.
    Stall,
    /// 500 OperationTimedOut.
    TimedOut,
}

/// A rule and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct RuleState {
    /// The rule.
    pub rule: Rule,
    /// Requests that it was about.
    pub matched: u64,
    /// Requests that went wrong by it.
    pub injected: u64,
}

/// A list of rules in a file.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum File {
    Rules(Vec<Rule>),
    Seeded { seed: u64, rules: Vec<Rule> },
}

/// The rules in force.
#[derive(Debug)]
pub(super) struct Faults {
    /// The names of the service's operations.
    operations: &'static [&'static str],
    state: Mutex<State>,
    /// Rules in force, to cost nothing where there are none.
    active: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<RuleState>,
    random: u64,
}

/// Reads rules about these operations, and the seed where it is given.
pub(super) fn parse(text: &[u8], operations: &[&str]) -> Result<(Option<u64>, Vec<Rule>), String> {
    let file: File = match serde_json::from_slice(text) {
        Ok(file) => file,
        // The error of an untagged choice says nothing; that of the plain list does.
        Err(_) => File::Rules(serde_json::from_slice(text).map_err(|error| error.to_string())?),
    };
    let (seed, rules) = match file {
        File::Rules(rules) => (None, rules),
        File::Seeded { seed, rules } => (Some(seed), rules),
    };
    rules.iter().try_for_each(|rule| rule.check(operations))?;
    Ok((seed, rules))
}

impl Faults {
    /// No faults yet of a service with these operations.
    pub(super) fn new(operations: &'static [&'static str]) -> Self {
        Self { operations, state: Mutex::default(), active: AtomicU64::new(0) }
    }

    /// Adds a rule behind the others.
    pub(super) fn add(&self, rule: Rule) -> Result<(), String> {
        rule.check(self.operations)?;
        self.state.lock().rules.push(RuleState { rule, matched: 0, injected: 0 });
        self.active.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Removes all rules.
    pub(super) fn clear(&self) {
        self.state.lock().rules.clear();
        self.active.store(0, Ordering::Relaxed);
    }

    /// Begins the random sequence anew.
    pub(super) fn seed(&self, seed: u64) {
        self.state.lock().random = seed;
    }

    /// What a request about the rules themselves does, by the method that it has.
    pub(super) fn control(&self, method: &Method, body: &[u8]) -> Result<Value, String> {
        if method == Method::GET {
            return Ok(json!(self.rules()));
        }
        let (seed, rules) = match *method {
            Method::PUT | Method::POST => parse(body, self.operations)?,
            Method::DELETE => (None, Vec::new()),
            _ => return Err(format!("there is no {method} of faults")),
        };
        if method != Method::POST {
            self.clear();
        }
        if let Some(seed) = seed {
            self.seed(seed);
        }
        let count = rules.len();
        rules.into_iter().try_for_each(|rule| self.add(rule))?;
        Ok(json!({ "rules": count }))
    }

    pub(super) fn rules(&self) -> Vec<RuleState> {
        self.state.lock().rules.clone()
    }

    /// The fault of this request, from the first rule that has one for it.
    pub(super) fn pick(&self, op: &str, path: impl FnOnce() -> String) -> Option<Action> {
        if self.active.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let path = path();
        let state = &mut *self.state.lock();
        for item in &mut state.rules {
            if !item.rule.matches(op, &path) {
                continue;
            }
            let index = item.matched;
            item.matched += 1;
            let due = index >= item.rule.skip
                && item.rule.count.is_none_or(|count| index - item.rule.skip < count);
            if due && chance(&mut state.random) < item.rule.probability {
                item.injected += 1;
                let fault = item.rule.fault.clone();
                log::debug!(target: "emulator", "{op} of {path}: {fault:?}");
                return Some(fault);
            }
        }
        None
    }
}

/// The next number from 0 to 1 of a SplitMix64 sequence.
fn chance(random: &mut u64) -> f64 {
    *random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

/// Whether `text` is `glob`, in which `*` stands for any run of characters.
pub(super) fn matches_glob(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(middle) = last.replace(part) {
            match rest.find(middle) {
                Some(at) => rest = &rest[at + str::len(middle)..],
                None => return false,
            }
        }
    }
    match last {
        None => rest.is_empty(),
        Some(last) => rest.ends_with(last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATIONS: [&str; 2] = ["GetBlob", "PutPage"];

    #[test]
    fn globs_match_whole_names() {
        for (glob, text, expected) in [
            ("disks/a", "disks/a", true),
            ("disks/a", "disks/ab", false),
            ("disks/*", "disks/a/b", true),
            ("*.vhd", "disks/a.vhd", true),
            ("*.vhd", "disks/a.vhd2", false),
            ("d*/*b*d", "disks/abcd", true),
            ("d*/*b*d", "disks/acd", false),
            ("*", "", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches_glob(glob, text), expected, "{glob} {text}");
        }
    }

    #[test]
    fn rules_skip_count_and_are_read_from_json() {
        let text = br#"{"seed": 7, "rules": [
            {"operation": "PutPage", "blob": "c/*", "skip": 1, "count": 2, "fault": {"reset": {"apply": true}}},
            {"fault": {"apply-late": {"ms": 2000}}, "probability": 0.5},
            {"operation": "GetBlob", "fault": "corrupt"}]}"#;
        let (seed, rules) = parse(text, &OPERATIONS).unwrap();
        assert_eq!((seed, rules.len()), (Some(7), 3));
        let faults = Faults::new(&OPERATIONS);
        faults.add(rules[0].clone()).unwrap();
        let pick = |op, path: &str| faults.pick(op, || path.to_owned());
        assert_eq!(pick("GetBlob", "c/b"), None);
        assert_eq!(pick("PutPage", "d/b"), None);
        let reset = Some(Action::Reset { apply: true });
        let picked: Vec<_> = (0..4).map(|_| pick("PutPage", "c/b")).collect();
        assert_eq!(picked, [None, reset.clone(), reset, None]);
        let state = &faults.rules()[0];
        assert_eq!((state.matched, state.injected), (4, 2));
        faults.clear();
        assert_eq!(pick("PutPage", "c/b"), None);
    }

    #[test]
    fn bad_rules_are_refused_with_a_reason() {
        for (text, reason) in [
            (r#"[{"operation": "Put", "fault": "corrupt"}]"#, "no operation Put"),
            (r#"[{"fault": {"status": {"status": 42}}}]"#, "no HTTP status"),
            (r#"[{"fault": "corrupt", "probability": 2}]"#, "not between"),
            (r#"[{"fault": "explode"}]"#, "unknown variant"),
            (r#"[{"falt": "corrupt"}]"#, "unknown field"),
        ] {
            let error = parse(text.as_bytes(), &OPERATIONS).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let run = |seed| {
            let faults = Faults::new(&OPERATIONS);
            faults.seed(seed);
            let rule = Rule::new("GetBlob", Action::Corrupt).with_probability(0.3);
            faults.add(rule).unwrap();
            (0..200).map(|_| faults.pick("GetBlob", String::new).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let hits = run(3).iter().filter(|hit| **hit).count();
        assert!((35..85).contains(&hits), "{hits}");
    }
}
