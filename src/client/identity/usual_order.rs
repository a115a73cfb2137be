//! The first identity that is here, in the order in which the official SDKs look
//! (`DefaultAzureCredential`): application by secret or certificate, workload, machine, Azure CLI.
//!
//! One that is not here is passed over; one that is here and refused is not, because a token of somebody
//! else would be a surprise. What gave the first token is asked for every later one.

use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;

use super::settings::{ORDER, Settings};
use super::{Kind, of_kind};
use crate::client::token::{Audience, Grant, Identity, NoToken};

#[derive(Debug)]
struct UsualOrder {
    candidates: Vec<Arc<dyn Identity>>,
    /// Why the others are none.
    passed_over: Vec<String>,
    chosen: OnceLock<Arc<dyn Identity>>,
}

/// Those of the settings.
///
/// Errors: the variable that names the order makes no sense.
pub(super) fn new(settings: &Settings) -> Result<Arc<dyn Identity>, String> {
    let mut candidates = Vec::new();
    let mut passed_over = Vec::new();
    for kind in wanted(settings.platform.order.as_deref())? {
        match settings.missing(*kind) {
            // Nobody meant it; the two ways of an application are told of together.
            Some(_) if *kind == Kind::ClientCertificate => {}
            Some(name) => passed_over.push(format!("{}: {name} is not set", spoken(*kind))),
            None => match of_kind(*kind, settings) {
                Ok(identity) => candidates.push(identity),
                Err(why) => passed_over.push(why),
            },
        }
    }
    Ok(Arc::new(UsualOrder { candidates, passed_over, chosen: OnceLock::new() }))
}

fn spoken(kind: Kind) -> String {
    kind.word().replace('_', " ")
}

/// The identities that `AZURE_TOKEN_CREDENTIALS` leaves.
fn wanted(order: Option<&str>) -> Result<&'static [Kind], String> {
    const ALL: &[Kind] = &Kind::ALL;
    let Some(order) = order else { return Ok(ALL) };
    match &*order.trim().to_ascii_lowercase() {
        "prod" => Ok(&ALL[..4]),
        "dev" | "azureclicredential" => Ok(&ALL[4..]),
        "environmentcredential" => Ok(&ALL[..2]),
        "workloadidentitycredential" => Ok(&ALL[2..3]),
        "managedidentitycredential" => Ok(&ALL[3..4]),
        _ => Err(format!(
            "{ORDER} is none of prod, dev, EnvironmentCredential, WorkloadIdentityCredential, \
             ManagedIdentityCredential, AzureCliCredential"
        )),
    }
}

impl Identity for UsualOrder {
    fn name(&self) -> String {
        self.chosen.get().map_or_else(|| "Entra identity".to_owned(), |chosen| chosen.name())
    }

    fn fetch<'a>(&'a self, audience: &'a Audience) -> BoxFuture<'a, Result<Grant, NoToken>> {
        Box::pin(async move {
            if let Some(chosen) = self.chosen.get() {
                return chosen.fetch(audience).await;
            }
            let mut absent = self.passed_over.clone();
            for candidate in &self.candidates {
                if let Err(why) = candidate.probe().await {
                    absent.push(why);
                    continue;
                }
                match candidate.fetch(audience).await {
                    Err(NoToken::Absent(why)) => absent.push(why),
                    result => {
                        if result.is_ok() {
                            log::info!(target: "http", "tokens come by {}", candidate.name());
                            let _ = self.chosen.set(Arc::clone(candidate));
                        }
                        return result;
                    }
                }
            }
            Err(NoToken::Absent(absent.join("; ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    /// An identity that is there, is not, or is there and refused.
    #[derive(Debug)]
    struct Fake {
        name: &'static str,
        fetches: AtomicU32,
        answer: fn() -> Result<(), NoToken>,
        is_here: bool,
    }

    impl Identity for Fake {
        fn name(&self) -> String {
            self.name.to_owned()
        }

        fn probe(&self) -> BoxFuture<'_, Result<(), String>> {
            let here = self.is_here.then_some(()).ok_or_else(|| format!("no {}", self.name));
            Box::pin(std::future::ready(here))
        }

        fn fetch<'a>(&'a self, _: &'a Audience) -> BoxFuture<'a, Result<Grant, NoToken>> {
            self.fetches.fetch_add(1, Ordering::Relaxed);
            let token = self.name.to_owned();
            let lifetime = Duration::from_secs(60);
            let grant = (self.answer)().map(|()| Grant { token, lifetime, refresh_in: None });
            Box::pin(std::future::ready(grant))
        }
    }

    fn fake(name: &'static str, is_here: bool, answer: fn() -> Result<(), NoToken>) -> Arc<Fake> {
        Arc::new(Fake { name, fetches: AtomicU32::new(0), answer, is_here })
    }

    fn order(fakes: &[&Arc<Fake>]) -> UsualOrder {
        let as_identity = |fake: &&Arc<Fake>| Arc::clone(*fake) as Arc<dyn Identity>;
        UsualOrder {
            candidates: fakes.iter().map(as_identity).collect(),
            passed_over: vec!["first: unset".to_owned()],
            chosen: OnceLock::new(),
        }
    }

    fn absent() -> Result<(), NoToken> {
        Err(NoToken::Absent("no b".to_owned()))
    }

    fn refused() -> Result<(), NoToken> {
        Err(NoToken::Refused("wrong secret".to_owned()))
    }

    #[tokio::test]
    async fn the_first_that_is_here_is_kept_to() {
        let (a, b) = (fake("a", false, || Ok(())), fake("b", true, absent));
        let (c, d) = (fake("c", true, || Ok(())), fake("d", true, || Ok(())));
        let order = order(&[&a, &b, &c, &d]);
        let audience = Audience::new("x");
        assert_eq!(order.name(), "Entra identity");
        for _ in 0..3 {
            assert_eq!(order.fetch(&audience).await.unwrap().token, "c");
        }
        assert_eq!(order.name(), "c");
        let fetches = [a, b, c, d].map(|fake| fake.fetches.load(Ordering::Relaxed));
        assert_eq!(fetches, [0, 1, 3, 0]);
    }

    #[tokio::test]
    async fn one_that_is_refused_is_not_passed_over() {
        let (a, b) = (fake("a", true, refused), fake("b", true, || Ok(())));
        let why = order(&[&a, &b]).fetch(&Audience::new("x")).await.unwrap_err();
        assert_eq!(why, NoToken::Refused("wrong secret".to_owned()));
        assert_eq!(b.fetches.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn if_there_is_none_every_reason_is_told() {
        let (a, b) = (fake("a", false, || Ok(())), fake("b", true, absent));
        let why = order(&[&a, &b]).fetch(&Audience::new("x")).await.unwrap_err();
        assert_eq!(why, NoToken::Absent("first: unset; no a; no b".to_owned()));
    }
}
