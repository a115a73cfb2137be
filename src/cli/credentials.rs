//! Secrets typed on the command line. Every user may read the command line of every process, and the
//! one of a daemon would stay there for as long as it is mounted; its environment is open to its
//! own user and root alone. So a SAS is moved from the one to the other before anything else, and
//! nothing that could echo an argument has seen it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::Failure;

/// Where Azure's own tools look for a SAS, for the hint.
const SAS_VARIABLE: &str = "AZURE_STORAGE_SAS_TOKEN";
/// By which a process hands a SAS to the one that it becomes. Not [`SAS_VARIABLE`], because what is
/// typed counts more than what the environment says otherwise.
const HANDED_OVER: &str = "BLOBDIR_SOURCE_SAS";

/// The arguments, if there is no secret in them. If there is a SAS, this process starts itself again
/// without it, with a hint on stderr, and this call does not return.
///
/// Errors: another secret, or the program cannot be started again.
pub(super) fn take_out_of(mut args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    // What follows `--` is a command of the user's own.
    let ours = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
    let mut sas = None;
    for arg in &mut args[..ours] {
        if holds_account_key(arg) {
            return Err(Failure::usage(
                "a connection string or account key on the command line can be read by every user; \
                 put it into the environment variable AZURE_STORAGE_CONNECTION_STRING",
            ));
        }
        if let Some((rest, query)) = split_sas(arg) {
            sas = Some(query);
            *arg = rest;
        }
    }
    let Some(sas) = sas else { return Ok(args) };
    if std::env::var_os(HANDED_OVER).is_some() {
        return Err(Failure::usage(format!(
            "the SAS cannot be taken out of the command line; put it into {SAS_VARIABLE}"
        )));
    }
    super::complain(&format!(
        "took the SAS out of the command line, where every user could read it; better put it into \
         the environment variable {SAS_VARIABLE}"
    ));
    let mut args = args.into_iter();
    let error = Command::new("/proc/self/exe")
        .arg0(args.next().unwrap_or_else(|| "blobdir".into()))
        .args(args)
        .env(HANDED_OVER, sas)
        .exec();
    Err(Failure::other(format!(
        "cannot start again without the SAS in the command line ({error}); put it into {SAS_VARIABLE}"
    )))
}

/// The source as it was typed, with its SAS. For the backend alone.
pub(super) fn rejoin(source: &str) -> String {
    match std::env::var(HANDED_OVER) {
        Ok(sas) => format!("{source}?{sas}"),
        Err(_) => source.to_owned(),
    }
}

/// Splits an argument with a signature in its query into what is before the query and the query.
fn split_sas(arg: &OsStr) -> Option<(OsString, OsString)> {
    let bytes = arg.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'?')?;
    let (before, query) = (&bytes[..at], &bytes[at + 1..]);
    let signed = query.split(|byte| *byte == b'&').any(|word| starts_with(word, b"sig="));
    signed.then(|| (OsString::from_vec(before.to_vec()), OsString::from_vec(query.to_vec())))
}

fn holds_account_key(arg: &OsStr) -> bool {
    arg.as_bytes().split(|byte| matches!(byte, b';' | b',' | b'"' | b'\'')).any(|word| {
        starts_with(word, b"AccountKey=") || starts_with(word, b"SharedAccessSignature=")
    })
}

fn starts_with(text: &[u8], start: &[u8]) -> bool {
    text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signed_queries_are_taken_out() {
        let split = |arg: &str| {
            split_sas(OsStr::new(arg))
                .map(|(rest, query)| (rest.into_string().unwrap(), query.into_string().unwrap()))
        };
        let expected = Some(("https://a/c".to_owned(), "sv=1&sig=x%3D".to_owned()));
        assert_eq!(split("https://a/c?sv=1&sig=x%3D"), expected);
        assert_eq!(split("c?SIG=x"), Some(("c".to_owned(), "SIG=x".to_owned())));
        assert_eq!(split("https://a/c?sv=1&design=x"), None);
        assert_eq!(split("https://a/sig=c"), None);
    }

    #[test]
    fn keys_are_recognised() {
        for (arg, holds) in [
            ("AccountName=a;AccountKey=eA==;EndpointSuffix=x", true),
            ("accountkey=eA==", true),
            ("BlobEndpoint=http://x;SharedAccessSignature=sv=1", true),
            ("az://accountkey/c", false),
            ("-o", false),
        ] {
            assert_eq!(holds_account_key(OsStr::new(arg)), holds, "{arg}");
        }
    }

    #[test]
    fn the_command_of_demo_is_left_alone() {
        let args: Vec<OsString> = ["blobdir", "demo", "--", "curl", "http://x?sig=1"]
            .into_iter()
            .map(OsString::from)
            .collect();
        assert!(take_out_of(args.clone()).is_ok_and(|left| left == args));
    }
}
