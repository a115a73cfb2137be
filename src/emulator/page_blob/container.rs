//! Operations on containers and on the account.
//!
//! Knows nothing of what is in a container but that it goes away with it.

use std::io;

use super::access;
use super::conditions::{Conditions, Current};
use super::deletion::RETENTION_DAYS;
use super::error::{self, Failure, invalid_header};
use super::lease::{Lease, Leased};
use super::record::{ContainerInfo, Public};
use super::reply::{Content, Reply};
use super::request::{Call, valid_container_name};
use super::storage::Storage;
use super::xml::Document;

const PUBLIC: &str = "x-ms-blob-public-access";

/// Containers in one answer at most.
const MOST_CONTAINERS: usize = 5000;

fn public_access(call: &Call) -> Result<Option<Public>, Failure> {
    match call.header(PUBLIC)? {
        None => Ok(None),
        Some("blob") => Ok(Some(Public::Blob)),
        Some("container") => Ok(Some(Public::Container)),
        Some(other) => Err(invalid_header(PUBLIC, other)),
    }
}

/// Creates a container without a request, unless it is there.
pub(super) fn ensure(storage: &Storage, account: &str, name: &str) -> io::Result<()> {
    let invalid = || io::Error::other(format!("{name:?} is no container name"));
    if !valid_container_name(name) {
        return Err(invalid());
    }
    let account_state = storage.accounts.get(account).ok_or_else(invalid)?;
    let mut containers = account_state.containers.write();
    if containers.contains_key(name) {
        return Ok(());
    }
    let info = ContainerInfo {
        name: name.to_owned(),
        etag: storage.new_etag(),
        modified_ms: storage.clock.now_ms(),
        metadata: Default::default(),
        public: None,
        lease: Lease::default(),
        deleted: false,
    };
    let container = storage.create_container(account, info)?;
    containers.insert(name.to_owned(), container);
    Ok(())
}

/// Create Container.
pub(super) fn create(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let name = call.container();
    if !valid_container_name(name) {
        return Err(error::INVALID_RESOURCE_NAME.into());
    }
    let info = ContainerInfo {
        name: name.to_owned(),
        etag: storage.new_etag(),
        modified_ms: storage.clock.now_ms(),
        metadata: call.metadata()?,
        public: public_access(call)?,
        lease: Lease::default(),
        deleted: false,
    };
    let account = storage.accounts.get(&call.target.account).ok_or(error::RESOURCE_NOT_FOUND)?;
    let mut containers = account.containers.write();
    if containers.contains_key(name) {
        return Err(error::CONTAINER_ALREADY_EXISTS.into());
    }
    let reply = Reply::new(201).stamps(&info.etag, info.modified_ms);
    let container = storage.create_container(&call.target.account, info)?;
    containers.insert(name.to_owned(), container);
    Ok(reply)
}

/// Delete Container. Leases of its blobs do not matter, its own does.
pub(super) fn delete(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let conditions = Conditions::of_write(&call.headers)?;
    let lease = call.lease_id()?;
    let now = storage.clock.now_ms();
    let account = storage.accounts.get(&call.target.account).ok_or(error::RESOURCE_NOT_FOUND)?;
    let mut containers = account.containers.write();
    let container = containers.get(call.container()).ok_or(error::CONTAINER_NOT_FOUND)?;
    {
        let mut info = container.info.write();
        info.lease.check_write(lease, Leased::Container, now)?;
        conditions
            .check_write(Some(Current { etag: &info.etag, modified_ms: info.modified_ms }))?;
        info.deleted = true;
    }
    if let Some(container) = containers.remove(call.container()) {
        storage.remove_container(&container)?;
    }
    Ok(Reply::new(202))
}

/// Get Container Properties, Metadata and, with `acl`, access.
pub(super) fn get(storage: &Storage, call: &Call, acl: bool) -> Result<Reply, Failure> {
    let now = storage.clock.now_ms();
    let container = access::container(storage, call)?;
    let info = container.info.read();
    info.lease.check_read(call.lease_id()?, Leased::Container, now)?;
    let mut reply = Reply::new(200)
        .stamps(&info.etag, info.modified_ms)
        .optional(PUBLIC, info.public.map(Public::as_str));
    if acl {
        let mut document = Document::new();
        document.element("SignedIdentifiers", "");
        reply = reply.xml(document.finish());
    } else {
        reply = reply
            .metadata(&info.metadata)
            .header("x-ms-lease-status", info.lease.status(now))
            .header("x-ms-lease-state", info.lease.state(now).as_str())
            .optional("x-ms-lease-duration", info.lease.duration(now))
            .header("x-ms-has-immutability-policy", "false")
            .header("x-ms-has-legal-hold", "false")
            .header("x-ms-default-encryption-scope", "$account-encryption-key")
            .header("x-ms-deny-encryption-scope-override", "false");
        reply.content = Content::Empty;
    }
    Ok(reply)
}

/// Set Container Metadata and, with `acl`, access.
pub(super) fn set(storage: &Storage, call: &Call, acl: bool) -> Result<Reply, Failure> {
    let conditions = Conditions::of_write(&call.headers)?;
    let now = storage.clock.now_ms();
    let container = access::container(storage, call)?;
    let mut info = container.info.write();
    info.lease.check_read(call.lease_id()?, Leased::Container, now)?;
    conditions.check_write(Some(Current { etag: &info.etag, modified_ms: info.modified_ms }))?;
    if acl {
        info.public = public_access(call)?;
    } else {
        info.metadata = call.metadata()?;
    }
    info.etag = storage.new_etag();
    info.modified_ms = now;
    container.save_info(&info)?;
    Ok(Reply::new(200).stamps(&info.etag, info.modified_ms))
}

/// List Containers.
pub(super) fn list(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let most = call.max_results(MOST_CONTAINERS)?;
    let prefix = call.query.get("prefix").unwrap_or("");
    let marker = call.query.get("marker").unwrap_or("");
    let include = call.query.get("include").unwrap_or("");
    let now = storage.clock.now_ms();
    let account = storage.accounts.get(&call.target.account).ok_or(error::RESOURCE_NOT_FOUND)?;
    let host = call.header("host")?.unwrap_or("127.0.0.1");
    let endpoint = format!("{}://{host}/{}/", call.scheme(), call.target.account);

    let mut document = Document::new();
    document.begin_with("EnumerationResults", &[("ServiceEndpoint", &endpoint)]);
    for (name, value) in [("Prefix", prefix), ("Marker", marker)] {
        document.optional(name, Some(value).filter(|value| !value.is_empty()));
    }
    document.optional("MaxResults", call.query.filled("maxresults"));
    document.begin("Containers");
    let mut next = "";
    let containers = account.containers.read();
    let first = if prefix > marker { prefix } else { marker };
    let matching =
        containers.range(first.to_owned()..).take_while(|item| item.0.starts_with(prefix));
    for (count, (name, container)) in matching.enumerate() {
        if count == most {
            next = name;
            break;
        }
        let info = container.info.read();
        document.begin("Container").element("Name", name).begin("Properties");
        document
            .element("Last-Modified", &super::clock::http_date(info.modified_ms))
            .element("Etag", &info.etag)
            .element("LeaseStatus", info.lease.status(now))
            .element("LeaseState", info.lease.state(now).as_str())
            .optional("LeaseDuration", info.lease.duration(now))
            .optional("PublicAccess", info.public.map(Public::as_str))
            .element("HasImmutabilityPolicy", "false")
            .element("HasLegalHold", "false");
        document.end();
        if include.split(',').any(|part| part == "metadata") {
            document.begin("Metadata");
            for (name, value) in &info.metadata {
                document.element(name, value);
            }
            document.end();
        }
        document.end();
    }
    document.end().element("NextMarker", next);
    Ok(Reply::new(200).xml(document.finish()))
}

/// Get Account Information.
pub(super) fn account_information() -> Reply {
    Reply::new(200)
        .header("x-ms-sku-name", "Standard_LRS")
        .header("x-ms-account-kind", "StorageV2")
        .header("x-ms-is-hns-enabled", "false")
}

/// Get Blob Service Properties: whether there is soft delete.
pub(super) fn service_properties(soft_delete: bool) -> Reply {
    let mut document = Document::new();
    document.begin("StorageServiceProperties").begin("DeleteRetentionPolicy");
    document.element("Enabled", if soft_delete { "true" } else { "false" });
    document.optional("Days", soft_delete.then_some(RETENTION_DAYS));
    Reply::new(200).xml(document.finish())
}
