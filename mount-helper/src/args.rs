//! The arguments that mount(8) gives to its helpers: `SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS]
//! [-t TYPE]`, and which of its options are meant for mount(8) itself. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Words of mount(8), fstab and systemd that say when and by whom a mount is made, or what is so of
/// every blobdir mount anyway (no access times are kept; never set-user-id programs nor devices).
/// `noexec`, `sync` and their like are not among them: to drop one would be to promise it.
const NOT_FOR_US: &[&str] = &[
    "_netdev",
    "async",
    "atime",
    "auto",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "group",
    "loud",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "nofail",
    "nogroup",
    "noowner",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "rw",
    "silent",
    "strictatime",
    "suid",
    "user",
    "users",
];

/// What mount(8) wants.
#[derive(PartialEq, Eq, Debug, Default)]
pub(crate) struct Request {
    /// The first field of fstab.
    pub(crate) source: OsString,
    /// The second.
    pub(crate) dir: OsString,
    /// What is left of the fourth, still separated by commas and escaped.
    pub(crate) options: OsString,
    /// Do everything but the mounting.
    pub(crate) fake: bool,
    /// Say what is done.
    pub(crate) verbose: bool,
    /// The file of a mount namespace to mount in.
    pub(crate) namespace: Option<PathBuf>,
}

/// Understands the arguments after the program's name, in any order.
///
/// Errors: one line for the user.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request, String> {
    let mut request = Request::default();
    let mut words = Vec::new();
    let mut names = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let flags = match arg.as_bytes() {
            [b'-', flags @ ..] if !flags.is_empty() => flags,
            _ => {
                names.push(arg);
                continue;
            }
        };
        for (at, flag) in flags.iter().enumerate() {
            match flag {
                b'f' => request.fake = true,
                b'v' => request.verbose = true,
                // Sloppy, and no mtab: there is no mtab, and a misspelt option is no small thing.
                b's' | b'n' => {}
                b'o' | b't' | b'N' => {
                    let value = match &flags[at + 1..] {
                        [] => args.next(),
                        rest => Some(OsStr::from_bytes(rest).to_owned()),
                    };
                    let value =
                        value.ok_or_else(|| format!("-{} needs a value", char::from(*flag)))?;
                    match flag {
                        b'o' => words.extend(split(value.as_bytes())),
                        b'N' => request.namespace = Some(value.into()),
                        // The type brought us here; there is no other.
                        _ => {}
                    }
                    break;
                }
                other => {
                    return Err(format!("unknown option -{}; {USAGE}", char::from(*other)));
                }
            }
        }
    }
    let Ok([source, dir]) = <[OsString; 2]>::try_from(names) else {
        return Err(USAGE.to_owned());
    };
    words.retain(|word| !is_for_mount(word));
    request.options = OsString::from_vec(words.join(&b','));
    Ok(Request { source, dir, ..request })
}

const USAGE: &str = "usage: mount.blobdir SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTION,...]";

/// The words of an option list, each as it stands there. A backslash keeps a comma in its word.
fn split(options: &[u8]) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut escaped = false;
    for byte in options {
        if *byte == b',' && !escaped {
            words.push(Vec::new());
        } else if let Some(word) = words.last_mut() {
            word.push(*byte);
        }
        escaped = *byte == b'\\' && !escaped;
    }
    words.retain(|word| !word.is_empty());
    words
}

fn is_for_mount(word: &[u8]) -> bool {
    word.starts_with(b"x-")
        || word.starts_with(b"X-")
        || word.starts_with(b"comment=")
        || word.starts_with(b"user=")
        || NOT_FOR_US.iter().any(|known| known.as_bytes() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(args: &[&str]) -> Result<Request, String> {
        parse(args.iter().map(OsString::from))
    }

    fn options(text: &str) -> String {
        let parsed = request(&["az://a/c", "/mnt", "-o", text]).unwrap();
        parsed.options.into_string().unwrap()
    }

    #[test]
    fn the_order_of_mount_and_every_other() {
        let expected = Request {
            source: "az://a/c".into(),
            dir: "/mnt".into(),
            options: "ro,uid=5".into(),
            verbose: true,
            ..Request::default()
        };
        for args in [
            &["az://a/c", "/mnt", "-sv", "-o", "ro,uid=5", "-t", "blobdir"][..],
            &["-n", "-v", "-oro,uid=5", "az://a/c", "/mnt"],
            &["az://a/c", "-vo", "ro", "-tblobdir", "/mnt", "-o", "uid=5"],
        ] {
            assert_eq!(request(args).as_ref(), Ok(&expected), "{args:?}");
        }
        let parsed = request(&["a", "b", "-fN", "/proc/1/ns/mnt"]).unwrap();
        assert!(parsed.fake);
        assert_eq!(parsed.namespace, Some("/proc/1/ns/mnt".into()));
    }

    #[test]
    fn words_of_mount_are_dropped_and_all_others_kept() {
        assert_eq!(options("rw,_netdev,nofail,user,noauto,auto,defaults,exec,suid,dev"), "");
        assert_eq!(options("x-systemd.automount,comment=hi,X-mount.mkdir,user=ann"), "");
        assert_eq!(
            options("ro,noexec,cache_size=1G,username=x"),
            "ro,noexec,cache_size=1G,username=x"
        );
        assert_eq!(options(r",,credentials=/a\,rw,rw,b=\\,rw"), r"credentials=/a\,rw,b=\\");
    }

    #[test]
    fn wrong_invocations_have_a_line() {
        for (args, part) in [
            (&["az://a/c"][..], "usage:"),
            (&["a", "b", "c"], "usage:"),
            (&["a", "b", "-o"], "-o needs a value"),
            (&["a", "b", "-q"], "unknown option -q"),
            (&["a", "b", "--"], "unknown option --"),
        ] {
            let line = request(args).unwrap_err();
            assert!(line.contains(part), "{line}");
        }
    }
}
