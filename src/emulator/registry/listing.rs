//! Lists that come in pages: repositories, tags, referrers.
//!
//! The next page is told by a `Link` header, in the words of ACR. As there, a page that is full has one even
//! if nothing follows. Knows names, not what they stand for.

use serde_json::{Value, json};

use super::super::query::Query;
use super::super::reply::Reply;
use super::digest::Digest;
use super::error::{self, Failure};
use super::manifest::OCI_INDEX;
use super::storage::Storage;

/// Most entries that may be asked for at once.
const LARGEST_PAGE: i64 = 1000;

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// What the next one begins behind, and how long it is.
    next: Option<(String, usize)>,
}

/// Takes the page that `n` and `last` ask for out of all entries. `usual` is its length where it is not said.
pub(super) fn page<T>(
    all: Vec<T>,
    name: impl Fn(&T) -> &str,
    query: &Query,
    usual: usize,
) -> Result<Page<T>, Failure> {
    let asked = query.get("n").and_then(|n| n.parse::<i64>().ok());
    let count = match asked {
        Some(n) if n > LARGEST_PAGE => {
            return Err(error::PAGINATION_NUMBER_INVALID.about(json!({ "n": n })));
        }
        Some(n) if n >= 0 => usize::try_from(n).unwrap_or(usual),
        _ => usual,
    };
    let last = query.filled("last");
    let begin = match last {
        // The list may be in any order, and the entry may be gone.
        Some(last) => all
            .iter()
            .position(|item| name(item) == last)
            .map_or_else(|| all.partition_point(|item| name(item) <= last), |at| at + 1),
        None => 0,
    };
    let items: Vec<T> = all.into_iter().skip(begin).take(count).collect();
    let full = items.len() == count && count > 0;
    let next = items.last().filter(|_| full).map(|item| (name(item).to_owned(), count));
    Ok(Page { items, next })
}

impl<T> Page<T> {
    /// Adds the address of the next page.
    pub(super) fn link(&self, reply: Reply, path: &str, query: &Query) -> Reply {
        let Some((last, count)) = &self.next else { return reply };
        let order = query.get("orderby").unwrap_or_default();
        let last: String = url::form_urlencoded::byte_serialize(last.as_bytes()).collect();
        reply
            .header("link", format!("<{path}?last={last}&n={count}&orderby={order}>; rel=\"next\""))
    }
}

/// `/v2/_catalog`, and ACR's own.
pub(super) fn repositories(
    storage: &Storage,
    path: &str,
    query: &Query,
    usual: usize,
) -> Result<Reply, Failure> {
    let page = page(storage.names(), String::as_str, query, usual)?;
    let reply = Reply::new(200).json(&json!({ "repositories": page.items }));
    Ok(page.link(reply, path, query))
}

/// `/v2/NAME/tags/list`
pub(super) fn tags(
    storage: &Storage,
    name: &str,
    query: &Query,
    usual: usize,
) -> Result<Reply, Failure> {
    let all = storage.with(name, |repository| repository.tags.keys().cloned().collect::<Vec<_>>());
    let all = all.ok_or_else(|| error::NAME_UNKNOWN.about(json!({ "name": name })))?;
    let none = all.is_empty();
    let page = page(all, String::as_str, query, usual)?;
    // A repository whose last tag was removed has no list at all.
    let tags = if none { Value::Null } else { json!(page.items) };
    let reply = Reply::new(200).json(&json!({ "name": name, "tags": tags }));
    Ok(page.link(reply, &format!("/v2/{name}/tags/list"), query))
}

/// `/v2/NAME/referrers/DIGEST`: an index of the manifests whose subject this is. None is an empty index.
pub(super) fn referrers(
    storage: &Storage,
    name: &str,
    subject: &str,
    query: &Query,
    usual: usize,
) -> Result<Reply, Failure> {
    let wanted = query.filled("artifacttype");
    let all = storage.with(name, |repository| {
        let all = repository.manifests.iter().filter_map(|(digest, manifest)| {
            let facts = &manifest.facts;
            let kind = facts.artifact_type.as_ref().or(facts.config_type.as_ref());
            if facts.subject.as_deref() != Some(subject)
                || wanted.is_some_and(|wanted| kind.is_none_or(|kind| kind != wanted))
            {
                return None;
            }
            let mut descriptor = json!({
                "mediaType": manifest.media_type,
                "digest": digest.to_string(),
                "size": manifest.len,
            });
            if let Some(kind) = kind {
                descriptor["artifactType"] = json!(kind);
            }
            if !facts.annotations.is_empty() {
                descriptor["annotations"] = json!(facts.annotations);
            }
            Some((digest.to_string(), descriptor))
        });
        all.collect::<Vec<_>>()
    });
    let page = page(all.unwrap_or_default(), |item| item.0.as_str(), query, usual)?;
    let manifests: Vec<&Value> = page.items.iter().map(|item| &item.1).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    let mut reply = Reply::new(200).json(&index).header("content-type", OCI_INDEX);
    if wanted.is_some() {
        reply.set("oci-filters-applied", "artifactType");
    }
    debug_assert!(Digest::parse(subject).is_some(), "the router lets no other through");
    Ok(page.link(reply, &format!("/v2/{name}/referrers/{subject}"), query))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_join_to_the_whole() {
        let all: Vec<String> = ["A", "a", "b", "latest", "v1"].map(str::to_owned).to_vec();
        let (mut seen, mut query) = (Vec::new(), "n=2".to_owned());
        for _ in 0..4 {
            let page = page(all.clone(), String::as_str, &Query::parse(&query), 100).unwrap();
            seen.extend(page.items);
            let Some((last, n)) = page.next else { break };
            query = format!("n={n}&last={last}");
        }
        assert_eq!(seen, all);
        let of = |query| page(all.clone(), String::as_str, &Query::parse(query), 100);
        assert_eq!(of("n=0").unwrap().items.len(), 0);
        assert_eq!(of("n=-1").unwrap().items.len(), 5);
        assert_eq!(of("n=x&last=az").unwrap().items, ["b", "latest", "v1"]);
        assert!(of("n=5").unwrap().next.is_some() && of("n=6").unwrap().next.is_none());
        assert!(of("n=1001").is_err());
    }
}
