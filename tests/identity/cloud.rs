//! Whoever gives tokens and whoever takes them, and stores that are told of identities by variables alone;
//! in a time that goes on by itself and that a test can make jump, for all of them together.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use blobdir::backend::{SourceRequest, scheme_of};
use blobdir::emulator::identity::{self, Application, Config};
use blobdir::emulator::page_blob;
use blobdir::store::{Access, Error, Opened, RemotePath, Replace, Result, Store};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::service::{CONTAINER, Service};

/// The application of every directory here.
pub(crate) const APPLICATION: &str = "aaaaaaaa-0000-0000-0000-000000000001";
/// Its first secret.
pub(crate) const SECRET: &str = "first~s3cr3t.of-the_application";
/// As whom Kubernetes vouches for it.
pub(crate) const SUBJECT: &str = "system:serviceaccount:prod:blobdir";
/// An identity that the machine has besides its own.
pub(crate) const ASSIGNED: &str = "bbbbbbbb-0000-0000-0000-000000000002";

/// Variables.
pub(crate) type Environment = Vec<(String, String)>;

/// The servers.
#[derive(Debug)]
pub(crate) struct Cloud {
    pub(crate) identity: identity::Server,
    pub(crate) service: Service,
    pub(crate) tenant: String,
    /// Where Azure Arc has its keys, and tests their files.
    pub(crate) dir: TempDir,
    _runtime: Runtime,
}

impl Cloud {
    pub(crate) fn start() -> Cloud {
        Cloud::start_with(None)
    }

    /// The same, where the application may also prove itself by this certificate.
    pub(crate) fn start_with(certificate: Option<Vec<u8>>) -> Cloud {
        let dir = TempDir::new().unwrap();
        let config = Config {
            applications: vec![Application {
                id: APPLICATION.to_owned(),
                secret: Some(SECRET.to_owned()),
                certificate,
                federated_subject: Some(SUBJECT.to_owned()),
            }],
            assigned: vec![ASSIGNED.to_owned()],
            arc_keys: Some(dir.path().to_owned()),
            ..Config::default()
        };
        let tenant = config.tenant.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let identity = runtime.block_on(identity::start(config)).unwrap();
        let issuer = Some(identity.issuer());
        let service = Service::start_with(page_blob::Config { issuer, ..Default::default() });
        Cloud { identity, service, tenant, dir, _runtime: runtime }
    }

    /// A URL of the container.
    pub(crate) fn source(&self) -> String {
        format!("{}/{CONTAINER}", self.service.endpoint())
    }

    /// What every application is told.
    pub(crate) fn application(&self) -> Environment {
        variables(&[
            ("AZURE_AUTHORITY_HOST", &self.identity.url()),
            ("AZURE_TENANT_ID", &self.tenant),
            ("AZURE_CLIENT_ID", APPLICATION),
        ])
    }

    /// What an application with a secret is told.
    pub(crate) fn with_secret(&self) -> Environment {
        [self.application(), variables(&[("AZURE_CLIENT_SECRET", SECRET)])].concat()
    }

    /// What an application is told that a platform vouches for, and the file that it keeps.
    pub(crate) fn with_federated_token(&self, lifetime: Duration) -> (Environment, PathBuf) {
        let file = self.dir.path().join("federated-token");
        self.write_federated_token(&file, lifetime);
        let own = variables(&[("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap())]);
        ([self.application(), own].concat(), file)
    }

    /// Renews the file, as Kubernetes does.
    pub(crate) fn write_federated_token(&self, file: &Path, lifetime: Duration) {
        let token = self.identity.federated_token(SUBJECT, lifetime);
        std::fs::write(file, format!("{token}\n")).unwrap();
    }

    /// A store of the container for whom these variables tell of.
    pub(crate) async fn connect(&self, auth: &str, env: &Environment) -> Result<Arc<dyn Store>> {
        self.connect_within(auth, env, Duration::from_secs(20)).await
    }

    /// The same, with every operation done within this time.
    pub(crate) async fn connect_within(
        &self,
        auth: &str,
        env: &Environment,
        timeout: Duration,
    ) -> Result<Arc<dyn Store>> {
        let source = self.source();
        let scheme = scheme_of(&source).unwrap();
        let env: BTreeMap<_, _> = env.iter().cloned().collect();
        let backend = (scheme.parse)(&SourceRequest {
            source: &source,
            options: &BTreeMap::from([("auth".to_owned(), Some(auth.to_owned()))]),
            env: &|name| env.get(name).cloned(),
            timeout,
            state_dir: Some(crate::support::state_dir()),
        });
        backend.map_err(|why| panic!("{why}")).unwrap().connect().await
    }

    /// The line that says why there is no store.
    pub(crate) async fn refusal(&self, auth: &str, env: &Environment) -> String {
        let error: Error = match self.connect(auth, env).await {
            Ok(_) => panic!("{auth} was let in"),
            Err(error) => error,
        };
        let line = error.to_string();
        assert!(!line.contains('\n') && !line.contains(SECRET), "{line}");
        line
    }

    /// Makes time pass for everybody: those who give tokens, those who take them, and this runtime.
    pub(crate) async fn pass(&self, time: Duration) {
        self.identity.advance_clock(time);
        self.service.server().advance_clock(time);
        tokio::time::advance(time).await;
    }
}

/// Variables out of words.
pub(crate) fn variables(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Runs `work` in a time that passes as always and can be made to jump.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    /// Fine enough for pauses and deadlines.
    const TICK: Duration = Duration::from_millis(2);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let passing = async {
            loop {
                // While a thread is busy for it, a paused runtime does not run ahead by itself.
                tokio::task::spawn_blocking(|| std::thread::sleep(TICK)).await.unwrap();
                tokio::time::advance(TICK).await;
            }
        };
        tokio::select! {
            biased;
            result = work => result,
            () = passing => unreachable!("it has no end"),
        }
    })
}

/// Writes a file, and reads it by its name.
pub(crate) async fn write_and_read(store: &Arc<dyn Store>, name: &str) -> Result<()> {
    let path = RemotePath::new(name).unwrap();
    let blob = store.create(&path, Replace::Allowed).await?;
    blob.set_len(512, false).await?;
    blob.write_at(0, vec![Bytes::from_static(&[7; 512])]).await?;
    drop(blob);
    read(store, name).await
}

/// Reads such a file.
pub(crate) async fn read(store: &Arc<dyn Store>, name: &str) -> Result<()> {
    let path = RemotePath::new(name).unwrap();
    let Opened::Read(blob) = store.open(&path, Access::Read).await? else {
        panic!("opened for reading");
    };
    let bytes = blobdir::store::read_all(&*blob, 0..512).await?;
    assert_eq!(bytes, [7; 512][..]);
    Ok(())
}

/// A new key with its certificate: the PEM file of both, and the certificate in DER. `None` if there is
/// nothing to make them with.
pub(crate) fn certificate(dir: &Path, name: &str) -> Option<(PathBuf, Vec<u8>)> {
    let (pem, der) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.der")));
    let made = openssl(&["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])?
        .args(["-subj", "/CN=blobdir test", "-keyout"])
        .arg(&pem)
        .arg("-out")
        .arg(dir.join("certificate"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(dir.join("certificate")).unwrap();
    let key = std::fs::read_to_string(&pem).unwrap();
    std::fs::write(&pem, key + &text).unwrap();
    let converted = openssl(&["x509", "-outform", "DER", "-in"])?
        .arg(&pem)
        .arg("-out")
        .arg(&der)
        .output()
        .unwrap();
    assert!(converted.status.success(), "{}", String::from_utf8_lossy(&converted.stderr));
    Some((pem, std::fs::read(der).unwrap()))
}

fn openssl(args: &[&str]) -> Option<Command> {
    if Command::new("openssl").arg("version").output().is_err() {
        crate::support::skip("openssl is not installed");
        return None;
    }
    let mut command = Command::new("openssl");
    command.args(args);
    Some(command)
}
