//! The operations of a service as rules and statistics name them, and how often each was asked for.
//!
//! Knows names and numbers, not what any operation does.

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the operations of a service: the enumeration `Operation`, and their names, in order.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// An operation of the service. Counters and fault rules call them by these names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Operation {
            $($(#[$doc])* $name,)*
        }

        /// The names of all operations, in the order of their counters.
        pub(super) const NAMES: &[&str] = &[$(stringify!($name),)*];

        impl Operation {
            /// All operations, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name as it is written in rules and statistics.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }

        impl AsRef<str> for Operation {
            fn as_ref(&self) -> &str {
                self.name()
            }
        }
    };
}

pub(super) use operations;

/// How often each operation was asked for.
#[derive(Debug)]
pub(super) struct Counters {
    names: &'static [&'static str],
    counts: Vec<AtomicU64>,
}

impl Counters {
    /// Counters of operations with these names, all zero.
    pub(super) fn new(names: &'static [&'static str]) -> Self {
        Self { names, counts: names.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    /// Counts the operation at this place.
    pub(super) fn add(&self, index: usize) {
        self.counts[index].fetch_add(1, Ordering::Relaxed);
    }

    /// How often the operation at this place was counted.
    pub(super) fn get(&self, index: usize) -> u64 {
        self.counts[index].load(Ordering::Relaxed)
    }

    /// All of them together.
    pub(super) fn total(&self) -> u64 {
        (0..self.names.len()).map(|index| self.get(index)).sum()
    }

    /// Those that are not zero, as JSON.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let counts = self.names.iter().enumerate().filter_map(|(index, name)| {
            let count = self.get(index);
            (count > 0).then(|| ((*name).to_owned(), serde_json::json!(count)))
        });
        serde_json::Value::Object(counts.collect())
    }
}
