//! The life of tokens: hours pass in milliseconds, for those who give them, those who take them and us.

use std::sync::Arc;
use std::time::Duration;

use blobdir::emulator::identity::{Behaviour, Endpoint};
use blobdir::emulator::page_blob::Operation;
use blobdir::store::{ErrorKind, RemotePath, Retry, Store};
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::cloud::{Cloud, SECRET, read, run, variables, write_and_read};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How often Entra ID was asked.
fn asked(cloud: &Cloud) -> u64 {
    cloud.identity.asked(Endpoint::Entra)
}

/// Every operation of [`connected`] stores ends within this time.
const TIMEOUT: Duration = Duration::from_secs(4);

async fn connected(cloud: &Cloud) -> Arc<dyn Store> {
    let env = cloud.with_secret();
    let store = cloud.connect_within("client_secret", &env, TIMEOUT).await.unwrap();
    write_and_read(&store, "file").await.unwrap();
    assert_eq!(asked(cloud), 1);
    store
}

/// Requests that the Blob service refused.
fn refused(cloud: &Cloud) -> u64 {
    cloud.service.server().refused()
}

/// Goes on reading until the service has seen so many different tokens.
async fn read_until_seen(cloud: &Cloud, store: &Arc<dyn Store>, tokens: usize) {
    let begun = std::time::Instant::now();
    while cloud.service.server().accepted_tokens() < tokens {
        assert!(begun.elapsed() < MINUTE, "no other token comes");
        read(store, "file").await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for what goes on in the background.
async fn until(mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < MINUTE, "it does not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_day_passes_and_no_request_is_refused_or_waits() {
    let cloud = Cloud::start();
    run(async {
        let store = connected(&cloud).await;
        for tokens in 2..=25 {
            cloud.pass(HOUR - 4 * MINUTE).await;
            // In the background: requests that come meanwhile have the old one.
            read_until_seen(&cloud, &store, tokens).await;
        }
        assert_eq!(refused(&cloud), 0, "no token was used beyond its end");
        assert_eq!(asked(&cloud), 25);
    });
}

#[test]
fn a_token_that_ended_unused_costs_one_fetch_and_no_refusal() {
    let cloud = Cloud::start();
    run(async {
        let store = connected(&cloud).await;
        cloud.pass(10 * HOUR).await;
        assert_eq!(asked(&cloud), 1, "who asks for nothing fetches nothing");
        let reads = (0..50).map(|_| read(&store, "file"));
        assert!(join_all(reads).await.iter().all(Result::is_ok));
        assert_eq!((asked(&cloud), refused(&cloud)), (2, 0));
    });
}

#[test]
fn a_failing_endpoint_is_not_noticed_while_the_token_holds() {
    let cloud = Cloud::start();
    run(async {
        let store = connected(&cloud).await;
        cloud.pass(HOUR - 4 * MINUTE).await;
        cloud.identity.behave(Behaviour::Fail(503));
        for _ in 0..30 {
            write_and_read(&store, "file").await.unwrap();
            cloud.pass(MINUTE / 10).await;
        }
        let tried = asked(&cloud);
        assert!((2..=30).contains(&tried), "{tried} attempts in three minutes");
        assert_eq!(refused(&cloud), 0);
        // It comes back just in time.
        cloud.identity.behave(Behaviour::Serve);
        cloud.pass(MINUTE / 2).await;
        read_until_seen(&cloud, &store, 2).await;
        cloud.pass(HOUR / 2).await;
        read(&store, "file").await.unwrap();
        assert_eq!(refused(&cloud), 0);
    });
}

#[test]
fn once_the_token_has_ended_operations_fail_in_time_and_recover_by_themselves() {
    let cloud = Cloud::start();
    run(async {
        let store = connected(&cloud).await;
        cloud.identity.behave(Behaviour::Fail(503));
        cloud.pass(2 * HOUR).await;
        let begun = Instant::now();
        let error = read(&store, "file").await.unwrap_err();
        assert!(begun.elapsed() <= TIMEOUT + Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.retry(), Retry::Exhausted);
        let line = error.to_string();
        assert!(line.contains("client secret of application"), "{line}");
        assert!(line.contains("answered 503"), "{line}");
        assert!(!line.contains(SECRET));
        // Many operations do not make many questions.
        assert!(asked(&cloud) < 40, "{}", asked(&cloud));
        cloud.identity.behave(Behaviour::Serve);
        // As soon as it may be asked again.
        tokio::time::advance(Duration::from_secs(8)).await;
        read(&store, "file").await.unwrap();
    });
}

#[test]
fn an_endpoint_that_hangs_delays_nobody_who_has_a_token() {
    let cloud = Cloud::start();
    run(async {
        let store = connected(&cloud).await;
        cloud.pass(HOUR - 4 * MINUTE).await;
        cloud.identity.behave(Behaviour::Hang);
        for _ in 0..20 {
            read(&store, "file").await.unwrap();
        }
        until(|| asked(&cloud) == 2).await;
        // It is asked by one, whoever else would like to know.
        assert_eq!(asked(&cloud), 2);
        cloud.pass(HOUR).await;
        let begun = Instant::now();
        let error = read(&store, "file").await.unwrap_err();
        assert!(begun.elapsed() <= TIMEOUT + Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(error.to_string().contains("client secret of application"), "{error}");
    });
}

#[test]
fn a_mount_whose_endpoint_hangs_is_given_up_in_time() {
    let cloud = Cloud::start();
    run(async {
        cloud.identity.behave(Behaviour::Hang);
        let begun = Instant::now();
        let env = cloud.with_secret();
        let result = cloud.connect_within("client_secret", &env, Duration::from_secs(5)).await;
        assert!(begun.elapsed() <= Duration::from_secs(6), "{:?}", begun.elapsed());
        let line = result.map(drop).unwrap_err().to_string();
        assert!(line.contains("client secret of application"), "{line}");
        assert!(line.contains("no token came in time"), "{line}");
    });
}

#[test]
fn a_token_that_the_service_no_longer_takes_is_replaced_once() {
    let cloud = Cloud::start();
    run(async {
        let store = connected(&cloud).await;
        // Its clock is ahead of everybody else's: the token has ended there.
        cloud.service.server().advance_clock(HOUR);
        cloud.identity.advance_clock(HOUR);
        let path = RemotePath::new("file").unwrap();
        let stats = (0..20).map(|_| store.stat(&path));
        assert!(join_all(stats).await.iter().all(Result::is_ok));
        assert_eq!(asked(&cloud), 2, "one fetch for all who were refused");
        assert!(refused(&cloud) >= 1);
        // Updates are refused before they are applied, and so are sent again too.
        cloud.pass(MINUTE).await;
        cloud.service.server().advance_clock(HOUR);
        cloud.identity.advance_clock(HOUR);
        write_and_read(&store, "file").await.unwrap();
        assert_eq!(asked(&cloud), 3);
    });
}

#[test]
fn a_service_that_takes_no_token_is_not_asked_for_ever() {
    let cloud = Cloud::start();
    run(async {
        let store = connected(&cloud).await;
        // Tokens that are given from now on are of the past for the service.
        cloud.service.server().advance_clock(2 * HOUR);
        let before = cloud.service.server().requests(Operation::GetBlobProperties);
        for _ in 0..5 {
            let error = read(&store, "file").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated);
            assert_eq!(error.retry(), Retry::Permanent);
            let line = error.to_string();
            let expected = "the service refused the token of client secret of application";
            assert!(line.contains(expected), "{line}");
            assert!(line.contains("(InvalidAuthenticationInfo)"), "{line}");
        }
        assert_eq!(asked(&cloud), 2, "another token was tried, once");
        assert_eq!(refused(&cloud), 6, "five operations, one of them twice");
        assert_eq!(cloud.service.server().requests(Operation::GetBlobProperties), before);
    });
}

#[test]
fn a_token_goes_nowhere_in_clear() {
    let cloud = Cloud::start();
    let scheme = blobdir::backend::scheme_of("az://acct/disks").unwrap();
    let refusal = |options: &[(&str, &str)], env: &[(&str, &str)]| {
        let of = |pairs: &[(&str, &str)]| variables(pairs).into_iter();
        let env: std::collections::BTreeMap<_, _> = of(env).collect();
        let backend = (scheme.parse)(&blobdir::backend::SourceRequest {
            source: "az://acct/disks",
            options: &of(options).map(|(name, value)| (name, Some(value))).collect(),
            env: &|name| env.get(name).cloned(),
            timeout: MINUTE,
            state_dir: None,
        });
        backend.map(drop).unwrap_err().0
    };
    let line = refusal(&[("auth", "managed_identity"), ("endpoint", "http://10.0.0.1")], &[]);
    assert!(
        line.contains("http://10.0.0.1/acct: an Entra token is not sent over plain http"),
        "{line}"
    );
    let with_authority = [
        ("AZURE_AUTHORITY_HOST", "http://login.microsoftonline.com"),
        ("AZURE_TENANT_ID", &*cloud.tenant),
        ("AZURE_CLIENT_ID", "app"),
        ("AZURE_CLIENT_SECRET", SECRET),
    ];
    let line = refusal(&[("auth", "client_secret")], &with_authority);
    assert!(line.contains("AZURE_AUTHORITY_HOST is no https URL"), "{line}");
    let line = refusal(&[("auth", "password")], &[]);
    assert!(
        line.contains("-o auth=password: write one of key, sas, entra, client_secret"),
        "{line}"
    );
}
