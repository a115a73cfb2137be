//! The life of a token in a time that the test makes pass.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokio::time::{Instant, advance, sleep};

use super::{Audience, Bearer, Grant, Identity, NoToken, Tokens, due, pause};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// What the next fetches do; the last one goes on for ever.
#[derive(Clone, Debug)]
enum Play {
    Give(Duration),
    Slow(Duration),
    Fail(&'static str),
    Refuse,
    Hang,
    Panic,
}

/// An identity that does as it is told, and counts.
#[derive(Debug)]
struct Fake {
    plays: Mutex<VecDeque<Play>>,
    fetches: AtomicU32,
    at_once: AtomicU32,
}

impl Fake {
    fn tokens(plays: &[Play]) -> (Arc<Fake>, Arc<Tokens>) {
        let fake = Arc::new(Fake {
            plays: Mutex::new(plays.iter().cloned().collect()),
            fetches: AtomicU32::new(0),
            at_once: AtomicU32::new(0),
        });
        let identity: Arc<dyn Identity> = Arc::clone(&fake) as Arc<dyn Identity>;
        (fake, Tokens::new(identity, Audience::new("https://storage.azure.com/")))
    }

    fn fetches(&self) -> u32 {
        self.fetches.load(Ordering::Relaxed)
    }
}

struct Ended<'a>(&'a AtomicU32);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Identity for Fake {
    fn name(&self) -> String {
        "fake identity".to_owned()
    }

    fn fetch<'a>(&'a self, audience: &'a Audience) -> BoxFuture<'a, Result<Grant, NoToken>> {
        assert_eq!(audience.scope(), "https://storage.azure.com/.default");
        let number = self.fetches.fetch_add(1, Ordering::Relaxed) + 1;
        assert_eq!(self.at_once.fetch_add(1, Ordering::Relaxed), 0, "one fetch at a time");
        let play = {
            let mut plays = self.plays.lock();
            if plays.len() > 1 { plays.pop_front().unwrap() } else { plays[0].clone() }
        };
        Box::pin(async move {
            let _ended = Ended(&self.at_once);
            // Others get their turn while it is under way.
            sleep(Duration::from_millis(1)).await;
            let lifetime = match play {
                Play::Give(lifetime) => Ok(lifetime),
                Play::Slow(time) => {
                    sleep(time).await;
                    Ok(HOUR)
                }
                Play::Fail(why) => Err(NoToken::Unreachable(why.to_owned())),
                Play::Refuse => Err(NoToken::Refused("fake identity: no".to_owned())),
                Play::Hang => std::future::pending().await,
                Play::Panic => panic!("as the test has it"),
            };
            let token = format!("token{number}");
            lifetime.map(|lifetime| Grant { token, lifetime, refresh_in: None })
        })
    }
}

fn shown(token: &Bearer) -> &str {
    token.header.to_str().unwrap()
}

async fn get(tokens: &Arc<Tokens>) -> Result<String, NoToken> {
    let token = tokens.get(Instant::now() + MINUTE).await?;
    Ok(shown(&token).to_owned())
}

/// Lets what runs in the background end.
async fn settle() {
    sleep(Duration::from_millis(20)).await;
}

#[tokio::test(start_paused = true)]
async fn many_who_wait_share_one_fetch() {
    let (fake, tokens) = Fake::tokens(&[Play::Give(HOUR)]);
    let all = join_all((0..100).map(|_| get(&tokens))).await;
    assert!(all.iter().all(|token| token.as_deref() == Ok("Bearer token1")), "{all:?}");
    assert_eq!(fake.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_fetched_anew_before_it_ends_and_nobody_waits() {
    let (fake, tokens) = Fake::tokens(&[Play::Give(HOUR), Play::Slow(MINUTE)]);
    assert_eq!(get(&tokens).await.unwrap(), "Bearer token1");
    advance(HOUR - 6 * MINUTE).await;
    assert_eq!(shown(&tokens.held().unwrap()), "Bearer token1");
    settle().await;
    assert_eq!(fake.fetches(), 1, "not due yet");
    advance(MINUTE).await;
    let before = Instant::now();
    assert_eq!(get(&tokens).await.unwrap(), "Bearer token1");
    assert_eq!(before.elapsed(), Duration::ZERO, "the fetch is in the background");
    settle().await;
    assert_eq!(fake.fetches(), 2);
    assert_eq!(get(&tokens).await.unwrap(), "Bearer token1");
    advance(2 * MINUTE).await;
    settle().await;
    assert_eq!(get(&tokens).await.unwrap(), "Bearer token2");
    assert_eq!(fake.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_old_token_serves_while_the_endpoint_fails_and_is_not_sent_once_it_has_ended() {
    let plays = [Play::Give(HOUR), Play::Fail("fake identity: away")];
    let (fake, tokens) = Fake::tokens(&plays);
    assert_eq!(get(&tokens).await.unwrap(), "Bearer token1");
    advance(HOUR - 5 * MINUTE).await;
    // Asked a thousand times in the five minutes that are left.
    for _ in 0..999 {
        assert_eq!(get(&tokens).await.unwrap(), "Bearer token1");
        sleep(Duration::from_millis(300)).await;
    }
    // 1, 2, 4, 8, 16 and then 30 seconds apart.
    assert!((12..=16).contains(&fake.fetches()), "{}", fake.fetches());
    advance(MINUTE).await;
    assert!(tokens.held().is_none());
    let why = get(&tokens).await.unwrap_err();
    assert_eq!(why, NoToken::Unreachable("fake identity: away".to_owned()));
    let asked = fake.fetches();
    for _ in 0..100 {
        assert!(get(&tokens).await.is_err());
    }
    assert_eq!(fake.fetches(), asked, "a failing endpoint is left alone for a while");
    fake.plays.lock()[0] = Play::Give(HOUR);
    advance(MINUTE).await;
    assert!(get(&tokens).await.unwrap().starts_with("Bearer token"));
}

#[tokio::test(start_paused = true)]
async fn who_waits_ends_in_time_and_the_fetch_goes_on_without_them() {
    let (fake, tokens) = Fake::tokens(&[Play::Slow(MINUTE)]);
    let soon = Instant::now() + Duration::from_secs(5);
    let why = tokens.get(soon).await.unwrap_err();
    assert_eq!(Instant::now(), soon);
    assert_eq!(why.message(), "fake identity: no token came in time");
    sleep(MINUTE).await;
    assert_eq!(shown(&tokens.held().unwrap()), "Bearer token1");
    assert_eq!(fake.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_hangs_or_panics_is_not_the_last() {
    let (fake, tokens) = Fake::tokens(&[Play::Hang, Play::Panic, Play::Give(HOUR)]);
    for _ in 0..2 {
        let why = tokens.get(Instant::now() + 10 * MINUTE).await.unwrap_err();
        assert!(matches!(why, NoToken::Unreachable(_)), "{why:?}");
        sleep(MINUTE).await;
    }
    assert_eq!(get(&tokens).await.unwrap(), "Bearer token3");
    assert_eq!(fake.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_once() {
    let (fake, tokens) = Fake::tokens(&[Play::Give(HOUR)]);
    let first = tokens.get(Instant::now() + MINUTE).await.unwrap();
    let all = join_all((0..20).map(|_| tokens.replace(Some(first.id)))).await;
    assert!(all.into_iter().all(|replaced| replaced));
    assert_eq!(fake.fetches(), 2, "those who were refused together share a fetch");
    assert_eq!(get(&tokens).await.unwrap(), "Bearer token2");
    assert!(tokens.replace(Some(first.id)).await, "it was replaced since");
    let second = tokens.held().unwrap().id;
    assert!(!tokens.replace(Some(second)).await, "the new one is no better");
    assert_eq!(fake.fetches(), 2);
    advance(MINUTE).await;
    assert!(tokens.replace(Some(second)).await);
    assert_eq!(fake.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_while_the_endpoint_fails_is_told_and_the_token_kept() {
    let (fake, tokens) = Fake::tokens(&[Play::Give(HOUR), Play::Refuse]);
    let first = tokens.get(Instant::now() + MINUTE).await.unwrap();
    assert!(!tokens.replace(Some(first.id)).await);
    assert!(!tokens.replace(Some(first.id)).await);
    assert_eq!(fake.fetches(), 2);
    assert_eq!(get(&tokens).await.unwrap(), "Bearer token1");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_token_is_none() {
    for token in ["", "two\nlines", "ünicode", "with space"] {
        let grant = Grant { token: token.to_owned(), lifetime: HOUR, refresh_in: None };
        assert!(Bearer::of(&grant, Instant::now()).is_none(), "{token:?}");
        assert!(!format!("{grant:?}").contains("two"));
    }
    let lifetime = Duration::from_secs(u64::MAX);
    let grant = Grant { token: "s3cr3t".to_owned(), lifetime, refresh_in: None };
    let held = Bearer::of(&grant, Instant::now()).unwrap();
    assert!(!format!("{held:?} {:?}", held.header).contains("s3cr3t"));
}

#[test]
fn tokens_are_due_well_before_their_end() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    assert_eq!(due(minutes(60), None), minutes(55));
    assert_eq!(due(minutes(24 * 60), None), minutes(12 * 60));
    assert_eq!(due(minutes(4), None), minutes(2));
    assert_eq!(due(minutes(60), Some(minutes(30))), minutes(30));
    assert_eq!(due(minutes(60), Some(minutes(90))), minutes(55));
    assert_eq!(due(Duration::ZERO, None), Duration::ZERO);
    assert_eq!(pause(0), Duration::from_secs(1));
    assert_eq!(pause(4), Duration::from_secs(16));
    assert_eq!(pause(u32::MAX), Duration::from_secs(30));
}
