//! From operation to module: which function applies a request.
//!
//! Knows nothing but that.

use super::error::Failure;
use super::operation::Operation;
use super::reply::Reply;
use super::request::Call;
use super::service::Service;
use super::{
    blob, blocks, container, copy, deletion, lease_ops, list, page_list, pages, properties,
};

/// Applies a complete request.
pub(super) fn apply(service: &Service, call: Call) -> Result<Reply, Failure> {
    let storage = &service.storage;
    let call = match call.op {
        Operation::PutBlob => return blob::put(storage, call),
        Operation::PutBlock => return blocks::put_block(storage, call),
        _ => &call,
    };
    match call.op {
        Operation::PutBlob | Operation::PutBlock => Err(super::error::INTERNAL_ERROR.into()),
        Operation::ListContainers => container::list(storage, call),
        Operation::GetAccountInformation => Ok(container::account_information()),
        Operation::GetServiceProperties => Ok(container::service_properties(service.soft_delete)),
        Operation::CreateContainer => container::create(storage, call),
        Operation::DeleteContainer => container::delete(storage, call),
        Operation::GetContainerProperties => container::get(storage, call, false),
        Operation::SetContainerMetadata => container::set(storage, call, false),
        Operation::GetContainerAcl => container::get(storage, call, true),
        Operation::SetContainerAcl => container::set(storage, call, true),
        Operation::LeaseContainer => lease_ops::container(storage, call),
        Operation::ListBlobs => list::blobs(storage, call, service.short_pages),
        Operation::PutPage => pages::update(storage, call),
        Operation::ClearPages => pages::clear(storage, call),
        Operation::PutPageFromUrl => {
            copy::page_from_url(storage, &service.authority, service.port, call)
        }
        Operation::GetBlob => blob::get(storage, call, false),
        Operation::GetBlobProperties => blob::get(storage, call, true),
        Operation::SetBlobProperties => properties::set(storage, call),
        Operation::GetBlobMetadata => blob::get_metadata(storage, call),
        Operation::SetBlobMetadata => blob::set_metadata(storage, call),
        Operation::GetPageRanges => page_list::get(storage, call, service.short_pages),
        Operation::SnapshotBlob => blob::snapshot(storage, call),
        Operation::LeaseBlob => lease_ops::blob(storage, call),
        Operation::CopyBlob => copy::blob(storage, &service.authority, service.port, call),
        Operation::AbortCopyBlob => copy::abort(storage, call),
        Operation::DeleteBlob => deletion::delete(storage, call, service.soft_delete),
        Operation::UndeleteBlob => deletion::undelete(storage, call),
        Operation::PutBlockList => blocks::put_block_list(storage, call),
        Operation::GetBlockList => blocks::get_block_list(storage, call),
        Operation::AppendBlock => blocks::append(storage, call),
    }
}
