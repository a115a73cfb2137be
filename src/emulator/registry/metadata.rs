//! ACR's own interface, `/acr/v1`: properties of repositories, tags and manifests.
//!
//! Knows what is kept, and how ACR words it.

use serde_json::{Value, json};

use super::super::clock::snapshot_time;
use super::super::query::Query;
use super::super::reply::Reply;
use super::digest::Digest;
use super::error::{self, Failure};
use super::listing::page;
use super::operation::{Operation, Route};
use super::storage::{Attributes, Item, Manifest, Repository, Stamps, Storage, Tag};

/// Answers a request of this interface. `body` is what a PATCH brings.
pub(super) fn answer(
    storage: &Storage,
    route: &Route,
    registry: &str,
    query: &Query,
    body: &[u8],
    usual: usize,
) -> Result<Reply, Failure> {
    let name = route.repository.as_str();
    let look = |value: &dyn Fn(&Repository) -> Result<Value, Failure>| {
        storage.with(name, value).unwrap_or_else(|| Err(unknown(name)))
    };
    let envelope = |key: &str, value: Value| {
        let mut value = json!({ "registry": registry, "imageName": name, key: value });
        if key.is_empty() {
            value = Value::Null;
        }
        value
    };
    match route.op {
        Operation::GetRepositoryMetadata => {
            let value = look(&|repository| Ok(of_repository(registry, name, repository)))?;
            Ok(Reply::new(200).json(&value))
        }
        Operation::GetTagMetadata => {
            let tag = look(&|repository| {
                let tag = repository.tags.get(&route.item).ok_or(error::TAG_UNKNOWN)?;
                Ok(of_tag(&route.item, tag))
            })?;
            Ok(Reply::new(200).json(&envelope("tag", tag)))
        }
        Operation::GetManifestMetadata => {
            let manifest = look(&|repository| {
                let (digest, manifest) =
                    repository.manifest(&route.item).ok_or(error::MANIFEST_UNKNOWN)?;
                Ok(of_manifest(storage, repository, &digest, manifest, true))
            })?;
            Ok(Reply::new(200).json(&envelope("manifest", manifest)))
        }
        Operation::ListTagMetadata => {
            let all = look(&|repository| {
                let wanted = query.filled("digest");
                let tags = repository.tags.iter();
                let tags = tags.filter(|(_, tag)| wanted.is_none_or(|wanted| tag.digest == wanted));
                Ok(tags.map(|(name, tag)| of_tag(name, tag)).collect())
            })?;
            list(all, "tags", "name", &format!("/acr/v1/{name}/_tags"), &envelope, query, usual)
        }
        Operation::ListManifestMetadata => {
            let all = look(&|repository| {
                let manifests = repository.manifests.iter();
                let one = |(digest, manifest): (&Digest, &Manifest)| {
                    of_manifest(storage, repository, digest, manifest, false)
                };
                Ok(manifests.map(one).collect())
            })?;
            let path = format!("/acr/v1/{name}/_manifests");
            list(all, "manifests", "digest", &path, &envelope, query, usual)
        }
        Operation::SetRepositoryMetadata => {
            set(storage, name, &Item::Repository, body)?;
            answer_again(storage, route, Operation::GetRepositoryMetadata, registry)
        }
        Operation::SetTagMetadata => {
            set(storage, name, &Item::Tag(&route.item), body)?;
            answer_again(storage, route, Operation::GetTagMetadata, registry)
        }
        Operation::SetManifestMetadata => {
            let digest = Digest::parse(&route.item).ok_or(error::MANIFEST_UNKNOWN)?;
            set(storage, name, &Item::Manifest(digest), body)?;
            answer_again(storage, route, Operation::GetManifestMetadata, registry)
        }
        Operation::DeleteTag => {
            let gone = storage.remove_tag(name, &route.item)?;
            gone.then(|| Reply::new(202)).ok_or_else(|| error::TAG_UNKNOWN.into())
        }
        Operation::DeleteRepository => {
            let gone = storage.remove_repository(name)?.ok_or_else(|| unknown(name))?;
            let manifests: Vec<String> = gone.manifests.keys().map(Digest::to_string).collect();
            let tags: Vec<&String> = gone.tags.keys().collect();
            let deleted = json!({ "manifestsDeleted": manifests, "tagsDeleted": tags });
            Ok(Reply::new(202).json(&deleted))
        }
        _ => Err(Failure::not_found()),
    }
}

/// What a change answers: what is there after it.
fn answer_again(
    storage: &Storage,
    route: &Route,
    op: Operation,
    registry: &str,
) -> Result<Reply, Failure> {
    let route = Route { op, ..route.clone() };
    answer(storage, &route, registry, &Query::default(), b"", 0)
}

fn list(
    all: Value,
    kind: &str,
    key: &str,
    path: &str,
    envelope: &dyn Fn(&str, Value) -> Value,
    query: &Query,
    usual: usize,
) -> Result<Reply, Failure> {
    let Value::Array(mut all) = all else { return Err(error::UNKNOWN.into()) };
    let time = |value: &Value| value["lastUpdateTime"].as_str().unwrap_or_default().to_owned();
    match query.get("orderby") {
        Some("timedesc") => all.sort_by_key(|value| std::cmp::Reverse(time(value))),
        Some("timeasc") => all.sort_by_key(time),
        _ => {}
    }
    let page = page(all, |value| value[key].as_str().unwrap_or_default(), query, usual)?;
    let reply = Reply::new(200).json(&envelope(kind, json!(page.items)));
    Ok(page.link(reply, path, query))
}

fn set(storage: &Storage, name: &str, item: &Item<'_>, body: &[u8]) -> Result<(), Failure> {
    let wanted: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::of_status(400, Some(&error.to_string())))?;
    let flag = |name: &str, now: bool| wanted[name].as_bool().unwrap_or(now);
    let changed = storage.set_attributes(name, item, |now| Attributes {
        delete_enabled: flag("deleteEnabled", now.delete_enabled),
        write_enabled: flag("writeEnabled", now.write_enabled),
        list_enabled: flag("listEnabled", now.list_enabled),
        read_enabled: flag("readEnabled", now.read_enabled),
    })?;
    changed.then_some(()).ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> Failure {
    error::NAME_UNKNOWN.about(json!({ "name": name }))
}

fn stamped(mut value: Value, stamps: &Stamps) -> Value {
    value["createdTime"] = snapshot_time(stamps.created).into();
    value["lastUpdateTime"] = snapshot_time(stamps.updated).into();
    value["changeableAttributes"] = json!(stamps.attributes);
    value
}

fn of_repository(registry: &str, name: &str, repository: &Repository) -> Value {
    let value = json!({
        "registry": registry,
        "imageName": name,
        "manifestCount": repository.manifests.len(),
        "tagCount": repository.tags.len(),
    });
    stamped(value, &repository.stamps)
}

fn of_tag(name: &str, tag: &Tag) -> Value {
    stamped(json!({ "name": name, "digest": tag.digest, "signed": false }), &tag.stamps)
}

fn of_manifest(
    storage: &Storage,
    repository: &Repository,
    digest: &Digest,
    manifest: &Manifest,
    with_references: bool,
) -> Value {
    let facts = &manifest.facts;
    let text = digest.to_string();
    let tags: Vec<&String> = repository
        .tags
        .iter()
        .filter(|(_, tag)| tag.digest == text)
        .map(|(name, _)| name)
        .collect();
    let mut value = json!({
        "digest": text,
        // The manifest's own, as recorded.
        "imageSize": manifest.len,
        "mediaType": manifest.media_type,
        "tags": tags,
    });
    if let Some(kind) = &facts.config_type {
        value["configMediaType"] = json!(kind);
    }
    // What the image is for stands in its configuration, if it is an image.
    if let Some(config) = facts.config.as_deref().and_then(Digest::parse)
        && repository.blobs.get(&config).is_some_and(|len| *len <= 4 << 20)
        && let Ok(bytes) = storage.read(&config)
        && let Ok(config) = serde_json::from_slice::<Value>(&bytes)
    {
        for name in ["architecture", "os"] {
            if config[name].is_string() {
                value[name] = config[name].clone();
            }
        }
    }
    if with_references && !facts.manifests.is_empty() {
        let references = facts.manifests.iter().map(|(digest, architecture, os)| {
            json!({ "digest": digest, "architecture": architecture, "os": os })
        });
        value["references"] = references.collect();
    }
    stamped(value, &manifest.stamps)
}
