//! Who is logged in on this host by `az login`: the Azure CLI is run and gives a token.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::transport::words;
use crate::client::token::{Audience, Grant, Identity, NoToken};

/// How long the CLI may take: it is a Python program that may have to refresh its own token first.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a token is taken to hold if an old CLI does not say it in a form that is free of time zones.
/// Tokens hold for at least an hour when they are new; the CLI hands out the rest of one.
const CAUTIOUS: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct AzureCli {
    program: PathBuf,
}

/// Whoever is logged in.
pub(super) fn new() -> Arc<dyn Identity> {
    Arc::new(AzureCli { program: PathBuf::from("az") })
}

impl Identity for AzureCli {
    fn name(&self) -> String {
        "Azure CLI".to_owned()
    }

    fn fetch<'a>(&'a self, audience: &'a Audience) -> BoxFuture<'a, Result<Grant, NoToken>> {
        Box::pin(async move {
            let named = |why: NoToken| why.map(|text| format!("{}: {text}", self.name()));
            self.run(audience).await.map_err(named)
        })
    }
}

impl AzureCli {
    async fn run(&self, audience: &Audience) -> Result<Grant, NoToken> {
        let child = Command::new(&self.program)
            .args(["account", "get-access-token", "--output", "json", "--resource"])
            .arg(audience.resource())
            // What is in the working directory is none of its business.
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| match why.kind() {
                io::ErrorKind::NotFound => NoToken::Absent("az is not installed".to_owned()),
                _ => NoToken::Unreachable(format!("az cannot be run: {why}")),
            })?;
        let mut group = Group(child.id());
        let output = timeout(ANSWER, child.wait_with_output()).await.map_err(|_| {
            NoToken::Unreachable(format!("az did not end within {} s", ANSWER.as_secs()))
        })?;
        group.0 = None;
        let output = output.map_err(|why| NoToken::Unreachable(format!("az: {why}")))?;
        if !output.status.success() {
            let said = words(&String::from_utf8_lossy(&output.stderr));
            return Err(match said.contains("az login") {
                true => NoToken::Absent(said),
                false => NoToken::Refused(said),
            });
        }
        read(&output.stdout).map_err(|why| NoToken::Unreachable(format!("az: {why}")))
    }
}

/// The CLI with all that it has started; what of it has not ended by itself ends with this value.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // SAFETY: only sends a signal. Its output has not ended, so that somebody of the group still
            // is there, and the id is not that of another one.
            unsafe { libc::kill(-leader, libc::SIGKILL) };
        }
    }
}

/// Reads what the CLI prints.
fn read(output: &[u8]) -> Result<Grant, String> {
    let answer: Value =
        serde_json::from_slice(output).map_err(|_| "its output is no JSON".to_owned())?;
    let token = answer["accessToken"].as_str().filter(|token| !token.is_empty());
    let token = token.ok_or("its output holds no accessToken")?.to_owned();
    // `expiresOn` is a local time without a zone, and so not to be relied on.
    let end = match &answer["expires_on"] {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let lifetime = end.map_or(CAUTIOUS, |end| Duration::from_secs(end.saturating_sub(now)));
    Ok(Grant { token, lifetime, refresh_in: None })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    /// An `az` that does this.
    fn az(dir: &Path, script: &str) -> AzureCli {
        let program = dir.join("az");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        AzureCli { program }
    }

    async fn ask(cli: &AzureCli) -> Result<Grant, NoToken> {
        let audience = Audience::new("https://storage.azure.com");
        // A program that another test starts holds a copy of the script open for a moment.
        loop {
            match cli.fetch(&audience).await {
                Err(why) if why.message().contains("Text file busy") => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                result => return result,
            }
        }
    }

    #[tokio::test]
    async fn what_az_prints_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600;
        let script = format!(
            "[ \"$*\" = 'account get-access-token --output json --resource https://storage.azure.com' ] \
             && [ \"$PWD\" = / ] && echo '{{\"accessToken\": \"t0ken\", \"expiresOn\": \
             \"2026-11-20 08:00:00.000000\", \"expires_on\": {end}, \"tokenType\": \"Bearer\"}}'"
        );
        let grant = ask(&az(dir.path(), &script)).await.unwrap();
        assert_eq!(grant.token, "t0ken");
        assert!((3500..=3600).contains(&grant.lifetime.as_secs()), "{grant:?}");
        let old = "echo '{\"accessToken\": \"t0ken\", \"expiresOn\": \"2026-11-20 08:00:00\"}'";
        assert_eq!(ask(&az(dir.path(), old)).await.unwrap().lifetime, CAUTIOUS);
        for bad in ["echo '{}'", "echo Sign in here", "true"] {
            let why = ask(&az(dir.path(), bad)).await.unwrap_err();
            assert!(matches!(why, NoToken::Unreachable(_)), "{why:?}");
        }
    }

    #[tokio::test]
    async fn who_is_not_logged_in_is_told_how_to() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo 'ERROR: Please run '\"'az login'\"' to setup account.' >&2; exit 1";
        let why = ask(&az(dir.path(), script)).await.unwrap_err();
        let expected = "Azure CLI: ERROR: Please run 'az login' to setup account.";
        assert_eq!(why, NoToken::Absent(expected.to_owned()));
        let script = "echo 'ERROR: AADSTS50005: no. Trace ID: 1' >&2; exit 1";
        let why = ask(&az(dir.path(), script)).await.unwrap_err();
        assert_eq!(why, NoToken::Refused("Azure CLI: ERROR: AADSTS50005: no.".to_owned()));
        let nowhere = AzureCli { program: dir.path().join("nothing") };
        let why = ask(&nowhere).await.unwrap_err();
        assert_eq!(why, NoToken::Absent("Azure CLI: az is not installed".to_owned()));
    }

    /// The time is one that runs ahead whenever nothing can be done, so that nobody waits here.
    #[tokio::test(start_paused = true)]
    async fn an_az_that_hangs_is_ended_with_all_that_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let children = dir.path().join("children");
        let script = format!("sleep 1000 & echo $! $$ > {}; wait", children.display());
        let cli = az(dir.path(), &script);
        let asked = tokio::spawn(async move { ask(&cli).await });
        // While a thread is busy for the runtime, its time stands still.
        let written = children.clone();
        let look = move || {
            let begun = std::time::Instant::now();
            while fs::read_to_string(&written).unwrap_or_default().is_empty() {
                assert!(begun.elapsed() < Duration::from_secs(20), "the script did not run");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        tokio::task::spawn_blocking(look).await.unwrap();
        let why = asked.await.unwrap().unwrap_err();
        assert_eq!(why.message(), "Azure CLI: az did not end within 30 s");
        for id in fs::read_to_string(&children).unwrap().split_whitespace() {
            let stat = format!("/proc/{id}/stat");
            let begun = std::time::Instant::now();
            // It may wait for whoever inherited it to take note.
            let runs = || fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z "));
            while runs() {
                assert!(begun.elapsed() < Duration::from_secs(20), "{id} still runs");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
