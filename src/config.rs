//! What was typed, understood: validated plain data, and the table of mount-wide `-o` words from
//! which the help and the check of options are made.
//!
//! This module does no input or output of its own (a backend's parser may read a credentials file)
//! and knows neither the command line nor the mount.

mod value;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::backend::{self, Backend, ConfigError, OptionSpec, Scheme, SourceRequest};

pub use value::{
    Throttle, parse_duration, parse_octal, parse_size, parse_throttle, show_duration, show_size,
};

/// `cache_size` without the option. Bytes.
const DEFAULT_CACHE_SIZE: u64 = 256 << 20;
/// `dirty_limit` without the option. Bytes.
const DEFAULT_DIRTY_LIMIT: u64 = 128 << 20;
/// `attr_timeout` without the option.
const DEFAULT_ATTR_TIMEOUT: Duration = Duration::from_secs(1);
/// `timeout` without the option.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// `umask` without the option.
const DEFAULT_UMASK: u32 = 0o022;
/// The smallest `cache_size` and `dirty_limit`. Bytes: one update of the largest size that the
/// services take, below which coalescing could not work.
const SMALLEST_BUDGET: u64 = 4 << 20;

/// The `-o` words that every source takes.
pub const MOUNT_OPTIONS: &[OptionSpec] = &[
    OptionSpec { name: "ro", value: None, default: None, help: "Mount read-only" },
    OptionSpec {
        name: "rw",
        value: None,
        default: None,
        help: "Mount for reading and writing, where the source can be written (default)",
    },
    OptionSpec {
        name: "allow_other",
        value: None,
        default: None,
        help: "Let other users in, as far as the modes of files allow",
    },
    OptionSpec {
        name: "uid",
        value: Some("NUMBER"),
        default: Some("the caller"),
        help: "Owner of every file",
    },
    OptionSpec {
        name: "gid",
        value: Some("NUMBER"),
        default: Some("the caller's"),
        help: "Group of every file",
    },
    OptionSpec {
        name: "umask",
        value: Some("OCTAL"),
        default: Some("022"),
        help: "Permission bits that no file has",
    },
    OptionSpec {
        name: "cache_size",
        value: Some("SIZE"),
        default: Some("256MiB"),
        help: "Memory for cached pages",
    },
    OptionSpec {
        name: "dirty_limit",
        value: Some("SIZE"),
        default: Some("128MiB"),
        help: "Memory for bytes that are not yet in the service; writers wait when it is full",
    },
    OptionSpec {
        name: "attr_timeout",
        value: Some("TIME"),
        default: Some("1s"),
        help: "How long names and attributes are believed without asking the service",
    },
    OptionSpec {
        name: "timeout",
        value: Some("TIME"),
        default: Some("60s"),
        help: "Every operation ends within this time, with an error if need be",
    },
    OptionSpec {
        name: "state_dir",
        value: Some("DIR"),
        default: Some("/var/lib/blobdir for root, else ~/.local/state/blobdir"),
        help: "Where this host keeps what must outlive the process; all its mounts should share it",
    },
];

/// One mount, as it was asked for.
pub struct MountRequest<'a> {
    /// The source as typed; may hold a SAS.
    pub source: &'a str,
    /// The directory, absolute and without symbolic links.
    pub mount_point: PathBuf,
    /// Every `-o`, unsplit, in order.
    pub options: &'a [String],
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Owner and group of every file unless the options say otherwise.
    pub caller: (u32, u32),
}

/// Shows neither the source nor the options, which may hold secrets.
impl std::fmt::Debug for MountRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountRequest")
            .field("mount_point", &self.mount_point)
            .finish_non_exhaustive()
    }
}

/// One mount, understood.
#[derive(Debug)]
pub struct MountConfig {
    /// The source, with its credentials; not yet contacted.
    pub backend: Box<dyn Backend>,
    /// Where the tree appears: absolute, without symbolic links.
    pub mount_point: PathBuf,
    /// Nothing may be changed.
    pub read_only: bool,
    /// Other users may enter.
    pub allow_other: bool,
    /// Owner of every file.
    pub uid: u32,
    /// Group of every file.
    pub gid: u32,
    /// Permission bits that no file has.
    pub umask: u32,
    /// Memory for cached pages, bytes.
    pub cache_size: u64,
    /// Memory for bytes that are not yet in the service.
    pub dirty_limit: u64,
    /// How long names and attributes are believed.
    pub attr_timeout: Duration,
    /// Every operation ends within this time.
    pub timeout: Duration,
    /// Where this host keeps what must outlive the process.
    pub state_dir: PathBuf,
}

impl MountConfig {
    /// Understands `request`. Of an option that is given twice, the last one counts, as with
    /// mount(8).
    ///
    /// Errors: an unknown scheme or option, a malformed value, or what the backend says of its
    /// source. No message holds the value of an option that is not mount-wide: it may be a secret.
    pub fn new(request: MountRequest<'_>) -> Result<MountConfig, ConfigError> {
        // What follows a question mark may be a SAS, and a message about the scheme shows the rest.
        let place = request.source.split('?').next().unwrap_or_default();
        let scheme = backend::scheme_of(place)?;
        let mut wide = MountWide::new(request.caller);
        let mut of_scheme = BTreeMap::new();
        for word in request.options.iter().flat_map(|text| split(text)) {
            if find(MOUNT_OPTIONS, &word.name).is_some() {
                wide.set(&word)?;
            } else if let Some(spec) = find(scheme.options, &word.name) {
                word.check_shape(spec)?;
                of_scheme.insert(word.name, word.value);
            } else {
                return Err(unknown_option(&word.name, scheme));
            }
        }
        let state_dir = match wide.state_dir.take() {
            Some(dir) => dir,
            None => default_state_dir(request.caller.0, request.env)?,
        };
        let backend = (scheme.parse)(&SourceRequest {
            source: request.source,
            options: &of_scheme,
            env: request.env,
            timeout: wide.timeout,
            state_dir: (!wide.read_only).then_some(&*state_dir),
        })?;
        Ok(MountConfig {
            backend,
            mount_point: request.mount_point,
            read_only: wide.read_only,
            allow_other: wide.allow_other,
            uid: wide.uid,
            gid: wide.gid,
            umask: wide.umask,
            cache_size: wide.cache_size,
            dirty_limit: wide.dirty_limit,
            attr_timeout: wide.attr_timeout,
            timeout: wide.timeout,
            state_dir,
        })
    }
}

/// The state directory without the option: the system's for root, else the user's own by the XDG rules.
///
/// Errors: the user has no home directory.
pub fn default_state_dir(
    user: u32,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<PathBuf, ConfigError> {
    if user == 0 {
        return Ok(PathBuf::from("/var/lib/blobdir"));
    }
    // The XDG rules say to ignore what is not absolute.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|dir| dir.join("blobdir"))
        .ok_or_else(|| {
            ConfigError(
                "there is no home directory to keep state in; name one with -o state_dir=DIR"
                    .to_owned(),
            )
        })
}

/// The options part of `mount`'s help: the mount-wide words, then those of every kind of source.
pub fn options_help() -> String {
    let mut help = String::from("Options of -o, for every source:\n");
    list_options(&mut help, MOUNT_OPTIONS);
    for scheme in backend::SCHEMES {
        let _ = write!(help, "\n{}\n  {}\n", scheme.form, scheme.summary);
        list_options(&mut help, scheme.options);
    }
    help.push_str(
        "\nSIZE is bytes, or a number with K, M, G, T (powers of 1024; KiB, MiB, ... likewise). \
         TIME is seconds, or a number with ms, s, m, h. Write a comma inside a value as \\,",
    );
    help
}

fn list_options(help: &mut String, options: &[OptionSpec]) {
    for option in options {
        let word = match option.value {
            Some(value) => format!("{}={value}", option.name),
            None => option.name.to_owned(),
        };
        let _ = write!(help, "  {word:<22} {}", option.help);
        if let Some(default) = option.default {
            let _ = write!(help, " [{default}]");
        }
        help.push('\n');
    }
}

fn find<'a>(options: &'a [OptionSpec], name: &str) -> Option<&'a OptionSpec> {
    options.iter().find(|option| option.name == name)
}

/// The mount-wide options while they are being collected.
struct MountWide {
    read_only: bool,
    allow_other: bool,
    uid: u32,
    gid: u32,
    umask: u32,
    cache_size: u64,
    dirty_limit: u64,
    attr_timeout: Duration,
    timeout: Duration,
    state_dir: Option<PathBuf>,
}

impl MountWide {
    fn new((uid, gid): (u32, u32)) -> MountWide {
        MountWide {
            read_only: false,
            allow_other: false,
            uid,
            gid,
            umask: DEFAULT_UMASK,
            cache_size: DEFAULT_CACHE_SIZE,
            dirty_limit: DEFAULT_DIRTY_LIMIT,
            attr_timeout: DEFAULT_ATTR_TIMEOUT,
            timeout: DEFAULT_TIMEOUT,
            state_dir: None,
        }
    }

    /// Takes one word of [`MOUNT_OPTIONS`].
    fn set(&mut self, word: &Word) -> Result<(), ConfigError> {
        const NUMBER: &str = "a number, such as 1000";
        const SIZE: &str = "a size of at least 4MiB, such as 512MiB";
        const TIME: &str = "a time, such as 30, 0.5 or 200ms";
        let budget = |text: &str| parse_size(text).filter(|bytes| *bytes >= SMALLEST_BUDGET);
        // The highest number means "unchanged" to chown(2) and is nobody's.
        let id = |text: &str| text.parse().ok().filter(|id| *id != u32::MAX);
        let spec = find(MOUNT_OPTIONS, &word.name).expect("the caller found it in the table");
        word.check_shape(spec)?;
        match spec.name {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "uid" => self.uid = word.parse(id, NUMBER)?,
            "gid" => self.gid = word.parse(id, NUMBER)?,
            "umask" => {
                self.umask = word.parse(parse_octal, "octal permission bits, such as 022")?;
            }
            "cache_size" => self.cache_size = word.parse(budget, SIZE)?,
            "dirty_limit" => self.dirty_limit = word.parse(budget, SIZE)?,
            "attr_timeout" => self.attr_timeout = word.parse(parse_duration, TIME)?,
            "timeout" => {
                let positive = |text: &str| parse_duration(text).filter(|time| !time.is_zero());
                self.timeout = word.parse(positive, "a time above 0, such as 60 or 500ms")?;
            }
            "state_dir" => {
                let text = word.value.as_deref().unwrap_or_default();
                // A daemon runs in another directory.
                self.state_dir = Some(std::path::absolute(text).map_err(|_| {
                    ConfigError("option state_dir: \"\" is not a directory".to_owned())
                })?);
            }
            other => unreachable!("{other} is in the table and not understood"),
        }
        Ok(())
    }
}

/// One word of a `-o`.
#[derive(PartialEq, Eq, Debug)]
struct Word {
    name: String,
    value: Option<String>,
}

impl Word {
    /// Refuses a flag with a value and an option without one.
    fn check_shape(&self, spec: &OptionSpec) -> Result<(), ConfigError> {
        match (&self.value, spec.value) {
            (Some(_), None) => Err(ConfigError(format!(
                "option {} takes no value; write -o {}",
                self.name, self.name
            ))),
            (None, Some(value)) => Err(ConfigError(format!(
                "option {} needs a value; write -o {}={value}",
                self.name, self.name
            ))),
            _ => Ok(()),
        }
    }

    fn parse<T>(
        &self,
        parse: impl Fn(&str) -> Option<T>,
        expected: &str,
    ) -> Result<T, ConfigError> {
        let value = self.value.as_deref().unwrap_or_default();
        parse(value).ok_or_else(|| {
            ConfigError(format!("option {}: {value:?} is not {expected}", self.name))
        })
    }
}

/// The words of one `-o`: separated by commas, `\,` for a comma and `\\` for a backslash inside one.
/// Any other backslash stands for itself. Empty words are dropped, as mount(8) does.
fn split(text: &str) -> Vec<Word> {
    let mut words = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        let last = words.last_mut().expect("there is always one");
        match char {
            ',' => words.push(String::new()),
            '\\' => last.push(chars.next_if(|next| matches!(next, ',' | '\\')).unwrap_or('\\')),
            _ => last.push(char),
        }
    }
    words
        .into_iter()
        .filter(|word| !word.is_empty())
        .map(|word| match word.split_once('=') {
            Some((name, value)) => Word { name: name.to_owned(), value: Some(value.to_owned()) },
            None => Word { name: word, value: None },
        })
        .collect()
}

fn unknown_option(name: &str, scheme: &Scheme) -> ConfigError {
    let known = || MOUNT_OPTIONS.iter().chain(scheme.options);
    let nearest = known()
        .map(|option| (edit_distance(name, option.name), option.name))
        .min()
        // A third of the letters wrong is a slip; more is another word.
        .filter(|(distance, nearest)| distance * 3 <= nearest.len().max(3));
    ConfigError(match nearest {
        Some((_, nearest)) => format!("unknown option {name:?}; did you mean {nearest}?"),
        None => format!("unknown option {name:?}; 'blobdir mount --help' lists the options"),
    })
}

/// How many letters must be inserted, removed or replaced to make one word of the other.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(options: &[&str]) -> Result<MountConfig, ConfigError> {
        let options: Vec<String> = options.iter().map(|text| (*text).to_owned()).collect();
        let mut wide = MountWide::new((7, 8));
        for word in options.iter().flat_map(|text| split(text)) {
            wide.set(&word)?;
        }
        Ok(MountConfig {
            backend: Box::new(Nothing),
            mount_point: PathBuf::from("/mnt"),
            read_only: wide.read_only,
            allow_other: wide.allow_other,
            uid: wide.uid,
            gid: wide.gid,
            umask: wide.umask,
            cache_size: wide.cache_size,
            dirty_limit: wide.dirty_limit,
            attr_timeout: wide.attr_timeout,
            timeout: wide.timeout,
            state_dir: wide.state_dir.unwrap_or_default(),
        })
    }

    #[derive(Debug)]
    struct Nothing;
    impl Backend for Nothing {
        fn connections(&self) -> usize {
            1
        }

        fn label(&self) -> String {
            "nothing".to_owned()
        }
        fn connect(
            &self,
        ) -> crate::store::BoxFuture<
            '_,
            crate::store::Result<std::sync::Arc<dyn crate::store::Store>>,
        > {
            unreachable!("never connected")
        }
    }

    #[test]
    fn defaults_and_every_option() {
        let plain = config(&[]).unwrap();
        assert_eq!((plain.uid, plain.gid, plain.umask), (7, 8, 0o022));
        assert_eq!(plain.cache_size, 256 << 20);
        assert_eq!(plain.dirty_limit, 128 << 20);
        assert_eq!(plain.attr_timeout, Duration::from_secs(1));
        assert_eq!(plain.timeout, Duration::from_secs(60));
        assert!(!plain.read_only && !plain.allow_other);

        let all = config(&[
            "ro,allow_other,uid=1,gid=2,umask=077",
            "cache_size=1GiB,dirty_limit=64M,attr_timeout=0.25,timeout=500ms",
        ])
        .unwrap();
        assert_eq!((all.uid, all.gid, all.umask), (1, 2, 0o077));
        assert_eq!((all.cache_size, all.dirty_limit), (1 << 30, 64 << 20));
        assert_eq!(all.attr_timeout, Duration::from_millis(250));
        assert_eq!(all.timeout, Duration::from_millis(500));
        assert!(all.read_only && all.allow_other);
        assert!(!config(&["ro,rw"]).unwrap().read_only);
    }

    #[test]
    fn every_word_of_the_table_is_understood() {
        for spec in MOUNT_OPTIONS {
            let word = Word {
                name: spec.name.to_owned(),
                value: spec.value.map(|_| "8388608".to_owned()),
            };
            let refused = MountWide::new((0, 0)).set(&word).is_err();
            assert_eq!(refused, spec.name == "umask", "{}", spec.name);
            assert!(options_help().contains(spec.help));
        }
    }

    #[test]
    fn malformed_values_name_option_value_and_expectation() {
        for (option, line) in [
            ("uid=me", "option uid: \"me\" is not a number, such as 1000"),
            ("gid=4294967295", "option gid: \"4294967295\" is not a number, such as 1000"),
            ("umask=9", "option umask: \"9\" is not octal permission bits, such as 022"),
            (
                "cache_size=1MiB",
                "option cache_size: \"1MiB\" is not a size of at least 4MiB, such as 512MiB",
            ),
            (
                "dirty_limit=",
                "option dirty_limit: \"\" is not a size of at least 4MiB, such as 512MiB",
            ),
            (
                "attr_timeout=-1",
                "option attr_timeout: \"-1\" is not a time, such as 30, 0.5 or 200ms",
            ),
            ("timeout=0", "option timeout: \"0\" is not a time above 0, such as 60 or 500ms"),
            ("ro=1", "option ro takes no value; write -o ro"),
            ("uid", "option uid needs a value; write -o uid=NUMBER"),
        ] {
            assert_eq!(config(&[option]).unwrap_err().0, line);
        }
    }

    #[test]
    fn unknown_options_get_the_nearest_name() {
        let scheme = &backend::SCHEMES[0];
        let line = |name: &str| unknown_option(name, scheme).0;
        assert_eq!(line("chache_size"), "unknown option \"chache_size\"; did you mean cache_size?");
        assert_eq!(line("alow_other"), "unknown option \"alow_other\"; did you mean allow_other?");
        assert!(line("compression").contains("--help"));
    }

    #[test]
    fn distance() {
        for (a, b, distance) in
            [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ro", "rw", 1)]
        {
            assert_eq!(edit_distance(a, b), distance);
            assert_eq!(edit_distance(b, a), distance);
        }
    }

    #[test]
    fn lone_backslashes_stand_for_themselves() {
        let words = split(r"a=C:\dir,,b=x\,y\\,c\");
        let shown: Vec<_> =
            words.iter().map(|word| (word.name.as_str(), word.value.as_deref())).collect();
        assert_eq!(shown, [("a", Some(r"C:\dir")), ("b", Some(r"x,y\")), (r"c\", None)]);
    }

    proptest! {
        #[test]
        fn splitting_undoes_escaping(words in prop::collection::vec("[a-z_]{1,8}(=[^\\x00]{0,12})?", 0..6)) {
            let escaped: Vec<String> = words
                .iter()
                .map(|word| word.replace('\\', r"\\").replace(',', r"\,"))
                .collect();
            let found: Vec<String> = split(&escaped.join(","))
                .into_iter()
                .map(|word| match word.value {
                    Some(value) => format!("{}={value}", word.name),
                    None => word.name,
                })
                .collect();
            prop_assert_eq!(found, words);
        }

        #[test]
        fn splitting_takes_anything(text in any::<String>()) {
            prop_assert!(split(&text).len() <= text.matches(',').count() + 1);
        }

        #[test]
        fn distance_is_zero_for_equal_words_alone(a in "[a-c]{0,6}", b in "[a-c]{0,6}") {
            prop_assert_eq!(edit_distance(&a, &b) == 0, a == b);
            prop_assert!(edit_distance(&a, &b) <= a.len().max(b.len()));
        }
    }
}
