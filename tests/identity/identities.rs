//! Every identity gets in by what it has, and is told in one line what is wrong when it does not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blobdir::client::identity::{Kind, Platform, Settings, of_kind};
use blobdir::client::token::Audience;
use blobdir::emulator::identity::{Behaviour, Endpoint};

use crate::cloud::{
    APPLICATION, ASSIGNED, Cloud, SECRET, certificate, run, variables, write_and_read,
};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn an_application_with_a_secret() {
    let cloud = Cloud::start();
    run(async {
        let store = cloud.connect("client_secret", &cloud.with_secret()).await.unwrap();
        for _ in 0..10 {
            write_and_read(&store, "file").await.unwrap();
        }
        assert_eq!(cloud.identity.asked(Endpoint::Entra), 1, "one token for all of it");
    });
}

#[test]
fn an_application_with_a_wrong_secret_is_refused_in_one_line() {
    let cloud = Cloud::start();
    run(async {
        cloud.identity.set_secret(APPLICATION, "another");
        let line = cloud.refusal("client_secret", &cloud.with_secret()).await;
        let host = cloud.identity.addr();
        let expected = format!(
            "client secret of application {APPLICATION} in tenant {}: {host} refused it: AADSTS7000215: \
             Invalid client secret provided.",
            cloud.tenant
        );
        assert!(line.contains(&expected), "{line}");
        assert!(!line.contains("Trace ID"), "{line}");
        assert_eq!(cloud.identity.asked(Endpoint::Entra), 1, "a refusal is final");
        assert_eq!(cloud.service.server().total_requests(), 1, "the container that was made");
    });
}

#[test]
fn an_unknown_application_or_tenant_is_named() {
    let cloud = Cloud::start();
    run(async {
        let mut env = cloud.with_secret();
        env.push(("AZURE_CLIENT_ID".to_owned(), "somebody-else".to_owned()));
        let line = cloud.refusal("client_secret", &env).await;
        assert!(line.contains("somebody-else") && line.contains("AADSTS700016"), "{line}");
        env.push(("AZURE_TENANT_ID".to_owned(), "nowhere.example".to_owned()));
        let line = cloud.refusal("client_secret", &env).await;
        assert!(line.contains("nowhere.example") && line.contains("AADSTS90002"), "{line}");
    });
}

#[test]
fn an_application_with_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let Some((pem, der)) = certificate(dir.path(), "first") else { return };
    let Some((other, _)) = certificate(dir.path(), "other") else { return };
    let cloud = Cloud::start_with(Some(der));
    let with = |path: &std::path::Path, chain: &str| {
        let own = variables(&[
            ("AZURE_CLIENT_CERTIFICATE_PATH", path.to_str().unwrap()),
            ("AZURE_CLIENT_SEND_CERTIFICATE_CHAIN", chain),
        ]);
        [cloud.application(), own].concat()
    };
    run(async {
        for chain in ["", "true"] {
            let store = cloud.connect("client_certificate", &with(&pem, chain)).await.unwrap();
            write_and_read(&store, "file").await.unwrap();
        }
        // The file may hold the certificates of those who signed it, in any order.
        let both = dir.path().join("both.pem");
        let text = [&other, &pem].map(|path| std::fs::read_to_string(path).unwrap());
        let strangers = text[0].split_once("-----BEGIN CERTIFICATE").unwrap().1;
        std::fs::write(&both, format!("-----BEGIN CERTIFICATE{strangers}{}", text[1])).unwrap();
        assert!(cloud.connect("client_certificate", &with(&both, "1")).await.is_ok());

        let line = cloud.refusal("client_certificate", &with(&other, "")).await;
        assert!(line.contains("client certificate of application"), "{line}");
        assert!(line.contains("AADSTS700027"), "{line}");
        // Renewed in its place while the store is in use.
        let store = cloud.connect("client_certificate", &with(&both, "")).await.unwrap();
        std::fs::copy(&pem, &both).unwrap();
        // For us alone: what we sign is dated by this machine's clock.
        tokio::time::advance(2 * HOUR).await;
        write_and_read(&store, "file").await.unwrap();
    });
}

#[test]
fn a_certificate_file_that_cannot_be_used_is_told_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let Some((pem, _)) = certificate(dir.path(), "first") else { return };
    let Some((other, _)) = certificate(dir.path(), "other") else { return };
    let cloud = Cloud::start();
    let text = std::fs::read_to_string(&pem).unwrap();
    let (key, own) = text.split_at(text.find("-----BEGIN CERTIFICATE").unwrap());
    let theirs = std::fs::read_to_string(&other).unwrap();
    let theirs = &theirs[theirs.find("-----BEGIN CERTIFICATE").unwrap()..];
    let encrypted = text.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE");
    run(async {
        for (content, why) in [
            (key.to_owned(), "no certificate in it is for its key"),
            (own.to_owned(), "there is no private key in it"),
            (format!("{key}{theirs}"), "no certificate in it is for its key"),
            (encrypted, "it has a password, which is not supported"),
            ("\u{30}\u{82}".to_owned(), "it is not PEM"),
            (format!("{key}{}", own.replace("MI", "!!")), "is damaged"),
        ] {
            let file = dir.path().join("file.pem");
            std::fs::write(&file, content).unwrap();
            let path = file.to_str().unwrap();
            let own = variables(&[("AZURE_CLIENT_CERTIFICATE_PATH", path)]);
            let env = [cloud.application(), own].concat();
            let line = cloud.refusal("client_certificate", &env).await;
            assert!(line.contains(path) && line.contains(why), "{why}: {line}");
        }
        assert_eq!(cloud.identity.asked(Endpoint::Entra), 0, "there was nothing to ask with");
    });
}

#[test]
fn a_workload_whose_token_is_renewed_in_its_file() {
    let cloud = Cloud::start();
    run(async {
        let (env, file) = cloud.with_federated_token(HOUR);
        let store = cloud.connect("workload_identity", &env).await.unwrap();
        write_and_read(&store, "file").await.unwrap();
        // The platform's first token has ended long since; there is another in the file.
        cloud.pass(3 * HOUR).await;
        cloud.write_federated_token(&file, HOUR);
        write_and_read(&store, "file").await.unwrap();
        assert_eq!(cloud.identity.asked(Endpoint::Entra), 2);
    });
}

#[test]
fn a_workload_whose_token_is_no_good() {
    let cloud = Cloud::start();
    run(async {
        let (env, file) = cloud.with_federated_token(HOUR);
        cloud.pass(2 * HOUR).await;
        let line = cloud.refusal("workload_identity", &env).await;
        assert!(line.contains("workload identity of") && line.contains("AADSTS700024"), "{line}");
        let stranger = cloud.identity.federated_token("somebody", HOUR);
        std::fs::write(&file, stranger).unwrap();
        let line = cloud.refusal("workload_identity", &env).await;
        assert!(line.contains("AADSTS70021"), "{line}");
        std::fs::remove_file(&file).unwrap();
        let line = cloud.refusal("workload_identity", &env).await;
        assert!(line.contains("AZURE_FEDERATED_TOKEN_FILE"), "{line}");
        assert!(line.contains("No such file"), "{line}");
    });
}

#[test]
fn a_virtual_machine() {
    let cloud = Cloud::start();
    run(async {
        let imds = cloud.identity.url();
        let env = variables(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &imds)]);
        let store = cloud.connect("managed_identity", &env).await.unwrap();
        write_and_read(&store, "file").await.unwrap();
        assert_eq!(cloud.identity.asked(Endpoint::Imds), 1);
        let with = |id: &str| [env.clone(), variables(&[("AZURE_CLIENT_ID", id)])].concat();
        assert!(cloud.connect("managed_identity", &with(ASSIGNED)).await.is_ok());
        let line = cloud.refusal("managed_identity", &with("nobody")).await;
        let expected = "managed identity nobody of this machine: Identity not found";
        assert!(line.contains(expected), "{line}");
    });
}

#[test]
fn a_metadata_service_that_is_updated_is_waited_for() {
    let cloud = Cloud::start();
    run(async {
        let env = variables(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &cloud.identity.url())]);
        cloud.identity.behave(Behaviour::Fail(410));
        let long = Duration::from_secs(300);
        let connecting = cloud.connect_within("managed_identity", &env, long);
        let coming_back = async {
            // Longer than a few attempts take, shorter than an update can.
            for _ in 0..40 {
                cloud.pass(Duration::from_secs(1)).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            cloud.identity.behave(Behaviour::Serve);
            loop {
                cloud.pass(Duration::from_secs(1)).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            store = connecting => assert!(store.is_ok(), "{:?}", store.err()),
            () = coming_back => unreachable!(),
        }
    });
}

#[test]
fn an_app_service() {
    let cloud = Cloud::start();
    run(async {
        let (endpoint, header) = cloud.identity.app_service();
        let with = |header: &str, id: &str| {
            variables(&[
                ("IDENTITY_ENDPOINT", &endpoint),
                ("IDENTITY_HEADER", header),
                ("AZURE_CLIENT_ID", id),
            ])
        };
        for id in ["", ASSIGNED] {
            let store = cloud.connect("managed_identity", &with(&header, id)).await.unwrap();
            write_and_read(&store, "file").await.unwrap();
        }
        assert_eq!(cloud.identity.asked(Endpoint::AppService), 2);
        let line = cloud.refusal("managed_identity", &with("wrong", "")).await;
        assert!(line.contains("App Service: The X-IDENTITY-HEADER is missing or wrong"), "{line}");
        let line = cloud.refusal("managed_identity", &with(&header, "nobody")).await;
        assert!(line.contains("No User Assigned"), "{line}");
    });
}

#[test]
fn a_machine_of_azure_arc() {
    let cloud = Cloud::start();
    run(async {
        let env = variables(&[
            ("IDENTITY_ENDPOINT", &cloud.identity.arc()),
            ("IMDS_ENDPOINT", &cloud.identity.url()),
        ]);
        let lookup = |name: &str| {
            env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        // The directory is fixed in the program; only here it is another one.
        let keys = Some(cloud.dir.path().to_owned());
        let mut platform = Platform::read(&lookup);
        platform.arc_keys = keys;
        let settings = Settings::read(&lookup, platform);
        let identity = of_kind(Kind::ManagedIdentity, &settings).unwrap();
        let audience = Audience::new("https://storage.azure.com");
        let grant = identity.fetch(&audience).await.unwrap();
        assert!((3590..=3600).contains(&grant.lifetime.as_secs()), "{grant:?}");
        let issuer = cloud.identity.issuer();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        assert_eq!(issuer.check(&grant.token, &[audience.resource()], now), Ok(()));
        assert_eq!(
            cloud.identity.asked(Endpoint::Arc),
            2,
            "a question, and the answer to a challenge"
        );
    });
}

#[test]
fn an_arc_agent_cannot_make_us_read_other_files() {
    let cloud = Cloud::start();
    run(async {
        let env = variables(&[
            ("IDENTITY_ENDPOINT", &cloud.identity.arc()),
            ("IMDS_ENDPOINT", &cloud.identity.url()),
        ]);
        let line = cloud.refusal("managed_identity", &env).await;
        let dir = cloud.dir.path().display().to_string();
        assert!(line.contains("which is no key in /var/opt/azcmagent/tokens"), "{line}");
        assert!(line.contains(&dir), "{line}");
        assert_eq!(cloud.identity.asked(Endpoint::Arc), 1);
    });
}

#[test]
fn without_a_word_the_usual_order_is_tried() {
    let cloud = Cloud::start();
    run(async {
        // An application that is told of goes before the machine.
        let imds = variables(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &cloud.identity.url())]);
        let env = [cloud.with_secret(), imds.clone()].concat();
        let store = cloud.connect("entra", &env).await.unwrap();
        write_and_read(&store, "file").await.unwrap();
        assert_eq!(cloud.identity.asked(Endpoint::Imds), 0);
        let store = cloud.connect("entra", &imds).await.unwrap();
        write_and_read(&store, "file").await.unwrap();
        // Once to see whether it is there, once for the token.
        assert_eq!(cloud.identity.asked(Endpoint::Imds), 2);
        // A wrong secret is not passed over for what comes after it.
        cloud.identity.set_secret(APPLICATION, "another");
        let line = cloud.refusal("entra", &env).await;
        assert!(line.contains("AADSTS7000215"), "{line}");
        assert_eq!(cloud.identity.asked(Endpoint::Imds), 2);
    });
}

#[test]
fn where_there_is_no_identity_the_line_says_what_was_looked_for() {
    let cloud = Cloud::start();
    run(async {
        let env = variables(&[
            // Nobody listens there.
            ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1"),
            ("AZURE_TOKEN_CREDENTIALS", "prod"),
        ]);
        let line = cloud.refusal("entra", &env).await;
        for part in [
            "no Entra identity is here: ",
            "client secret: AZURE_CLIENT_SECRET is not set",
            "workload identity: AZURE_FEDERATED_TOKEN_FILE is not set",
            "managed identity of this machine: cannot connect to 127.0.0.1:1",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    });
}

#[test]
fn endpoints_that_fail_are_told_from_those_that_refuse() {
    let cloud = Cloud::start();
    run(async {
        for (behaviour, why) in [
            (Behaviour::Fail(503), "answered 503 Service Unavailable"),
            (Behaviour::Garbage, "the answer is no JSON"),
            (Behaviour::Fail(404), "refused it: as the test has it"),
        ] {
            cloud.identity.behave(behaviour);
            let line = cloud.refusal("client_secret", &cloud.with_secret()).await;
            assert!(line.contains("client secret of application"), "{line}");
            assert!(line.contains(why), "{why}: {line}");
        }
        let mut env = cloud.with_secret();
        env.push(("AZURE_AUTHORITY_HOST".to_owned(), "http://127.0.0.1:1".to_owned()));
        let line = cloud.refusal("client_secret", &env).await;
        assert!(line.contains("cannot connect to 127.0.0.1:1"), "{line}");
        assert!(!line.contains(SECRET));
    });
}
