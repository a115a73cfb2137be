//! Block and append blobs, as far as other tools need them to put something to read here.
//!
//! Uncommitted blocks are files that do not survive a restart. Knows nothing of pages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::access::{self, Guards};
use super::blob;
use super::data_file::copy_range;
use super::error::{self, Failure};
use super::record::{Block, Kind};
use super::reply::Reply;
use super::request::{Call, Payload, check_blob_name};
use super::storage::{Storage, Uncommitted};
use super::xml::{self, Document};

/// Blocks in one append blob at most.
const MOST_APPEND_BLOCKS: u32 = 50_000;

/// Put Block.
pub(super) fn put_block(storage: &Storage, mut call: Call) -> Result<Reply, Failure> {
    check_blob_name(call.blob())?;
    let id = call.query.filled("blockid").unwrap_or("").to_owned();
    if STANDARD.decode(&id).map_or(0, |id| id.len()) == 0 {
        return Err(error::invalid_query("blockid", &id));
    }
    let guards = Guards::of(&call)?;
    let now = storage.clock.now_ms();
    let Payload::Staged(staged) = std::mem::take(&mut call.payload) else {
        return Err(error::invalid_header("content-length", "0"));
    };
    let container = access::container(storage, &call)?;
    container.with_entry(call.blob(), |state| {
        if let Some(live) = &state.live {
            if live.props.kind != Kind::Block {
                return Err(error::INVALID_BLOB_TYPE.into());
            }
            guards.check_write(live, now)?;
        }
        state.uncommitted.insert(id, Uncommitted { staged });
        Ok(guards
            .echo(Reply::new(201))
            .optional("content-md5", call.body_md5.as_deref())
            .optional("x-ms-content-crc64", call.body_crc64.as_deref()))
    })
}

/// Put Block List: the blob becomes what the list says, in its order.
pub(super) fn put_block_list(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    check_blob_name(call.blob())?;
    let listed = xml::block_list(call.payload.bytes()).ok_or(error::INVALID_XML_DOCUMENT)?;
    let guards = Guards::of(call)?;
    let now = storage.clock.now_ms();
    let mut props = blob::fresh(call, Kind::Block, now)?;
    // The type of the request is that of the list.
    props.content.content_type = call.header("x-ms-blob-content-type")?.map(str::to_owned);
    props.key_sha256.clone_from(&guards.encryption.key_sha256);
    props.scope.clone_from(&guards.encryption.scope);
    let container = access::container(storage, call)?;
    container.with_entry(call.blob(), |state| {
        if state.live.as_ref().is_some_and(|live| live.props.kind != Kind::Block) {
            return Err(error::INVALID_BLOB_TYPE.into());
        }
        let mut whole = storage.stage(&container)?;
        let mut at = 0;
        for block in &listed {
            let committed = state.live.as_ref().and_then(|live| {
                let mut offset = 0;
                live.props.blocks.iter().find_map(|known| {
                    let first = offset;
                    offset += known.size;
                    (known.id == block.id).then_some((live, first, known.size))
                })
            });
            let fresh = state.uncommitted.get(&block.id);
            let size = match (block.list.as_str(), fresh, committed) {
                ("Uncommitted" | "Latest", Some(fresh), _) => {
                    let staged = &fresh.staged;
                    copy_range(staged.file(), whole.file(), 0, at, staged.len())?;
                    staged.len()
                }
                ("Committed" | "Latest", _, Some((live, first, size))) => {
                    copy_range(&*live.data.open()?, whole.file(), first, at, size)?;
                    size
                }
                _ => return Err(error::INVALID_BLOCK_LIST.into()),
            };
            at += size;
            props.blocks.push(Block { id: block.id.clone(), size });
        }
        whole.set_len(at);
        props.size = at;
        let props = blob::replace(storage, &container, state, call, &guards, props, |fresh| {
            whole.adopt(&fresh.data)
        })?;
        Ok(guards.echo(Reply::new(201).written(&props)))
    })
}

/// Get Block List.
pub(super) fn get_block_list(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let which = call.query.filled("blocklisttype").unwrap_or("committed").to_ascii_lowercase();
    let guards = Guards::of(call)?;
    let now = storage.clock.now_ms();
    let container = access::container(storage, call)?;
    let entry = container.entry(call.blob()).ok_or(error::BLOB_NOT_FOUND)?;
    let state = entry.state.read();
    let mut reply = Reply::new(200);
    let mut document = Document::new();
    document.begin("BlockList");
    if which == "committed" || which == "all" {
        document.begin("CommittedBlocks");
        for block in state.live.iter().flat_map(|live| &live.props.blocks) {
            document.begin("Block").element("Name", &block.id);
            document.element("Size", &block.size.to_string()).end();
        }
        document.end();
    }
    if which == "uncommitted" || which == "all" {
        document.begin("UncommittedBlocks");
        for (id, block) in &state.uncommitted {
            document.begin("Block").element("Name", id);
            document.element("Size", &block.staged.len().to_string()).end();
        }
        document.end();
    }
    match &state.live {
        Some(live) => {
            if live.props.kind != Kind::Block {
                return Err(error::INVALID_BLOB_TYPE.into());
            }
            guards.check_read(live, now)?;
            reply = reply
                .stamps(&live.props.etag, live.props.modified_ms)
                .header("x-ms-blob-content-length", live.props.size.to_string());
        }
        None if state.uncommitted.is_empty() => return Err(error::BLOB_NOT_FOUND.into()),
        None => {}
    }
    Ok(reply.xml(document.finish()))
}

/// Append Block.
pub(super) fn append(storage: &Storage, call: &Call) -> Result<Reply, Failure> {
    let guards = Guards::of(call)?;
    let position = call.number("x-ms-blob-condition-appendpos")?;
    let largest = call.number("x-ms-blob-condition-maxsize")?;
    let bytes = call.payload.bytes();
    if bytes.is_empty() {
        return Err(error::invalid_header("content-length", "0"));
    }
    let now = storage.clock.now_ms();
    access::change(storage, call, |container, version| {
        if version.props.kind != Kind::Append {
            return Err(error::INVALID_BLOB_TYPE.into());
        }
        guards.check_write(version, now)?;
        guards.check_key(version)?;
        let at = version.props.size;
        if position.is_some_and(|position| position != at) {
            return Err(error::APPEND_POSITION_NOT_MET.into());
        }
        let size = at + bytes.len() as u64;
        if largest.is_some_and(|largest| size > largest) {
            return Err(error::MAX_BLOB_SIZE_NOT_MET.into());
        }
        if version.props.append_blocks >= MOST_APPEND_BLOCKS {
            return Err(error::INVALID_INPUT.into());
        }
        version.data.write(bytes, at)?;
        version.props.size = size;
        version.props.append_blocks += 1;
        version.props.lease.wipe(now);
        storage.touch(version);
        container.save(version)?;
        let reply = guards
            .echo(Reply::new(201).written(&version.props))
            .header("x-ms-blob-append-offset", at.to_string())
            .header("x-ms-blob-committed-block-count", version.props.append_blocks.to_string());
        Ok(match call.body_md5.as_deref() {
            Some(md5) => reply.header("content-md5", md5),
            None => reply.optional("x-ms-content-crc64", call.body_crc64.as_deref()),
        })
    })
}
