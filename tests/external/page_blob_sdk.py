#!/usr/bin/env python3
"""The page-blob emulator, judged by the service's own SDK for Python.

    pip install --target DIR azure-storage-blob==12.31.1
    PYTHONPATH=DIR tests/external/page_blob_sdk.py http://127.0.0.1:10000

Needs an emulator that is running and knows the account devstoreaccount1. Leaves nothing behind.
"""

import datetime
import os
import sys
import uuid

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import (
    AccountSasPermissions,
    BlobClient,
    BlobSasPermissions,
    BlobServiceClient,
    ContainerClient,
    ContainerSasPermissions,
    ContentSettings,
    ResourceTypes,
    SequenceNumberAction,
    generate_account_sas,
    generate_blob_sas,
    generate_container_sas,
)

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CREDENTIAL = {"account_name": ACCOUNT, "account_key": KEY}
MIB = 1 << 20
DISK = "dir one/disk.img"


def expect(status, code, call, *args, **kwargs):
    """Runs what must be refused, and checks how."""
    try:
        call(*args, **kwargs)
    except HttpResponseError as error:
        found = getattr(error.error_code, "value", error.error_code)
        assert (error.status_code, str(found)) == (status, code), (error.status_code, found, code)
        return
    raise AssertionError(f"was not refused with {status} {code}")


def in_an_hour():
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)


def blob_sas(container, name, permission, snapshot=None):
    return generate_blob_sas(
        ACCOUNT, container, name, snapshot=snapshot, account_key=KEY,
        permission=permission, expiry=in_an_hour(),
    )


def pages(container):
    """Writes, reads, lists, resizes, fences. Returns the blob and what is at its start."""
    blob = container.get_blob_client(DISK)
    data = os.urandom(8192)
    blob.create_page_blob(MIB, metadata={"m": "1"}, sequence_number=5)
    expect(409, "BlobAlreadyExists", blob.create_page_blob, MIB,
           match_condition=MatchConditions.IfMissing)
    assert blob.upload_page(data, 4096, 8192, validate_content=True)["blob_sequence_number"] == 5
    assert blob.download_blob().readall() == bytes(4096) + data + bytes(MIB - 12288)
    assert blob.download_blob(4096, 8192, validate_content=True).readall() == data
    blob.clear_page(4096, 1024)
    assert blob.get_page_ranges()[0] == [{"start": 5120, "end": 12287}]
    assert [(r.start, r.end, r.cleared) for r in blob.list_page_ranges()] == [(5120, 12287, False)]
    blob.resize_blob(2 * MIB)
    blob.set_sequence_number(SequenceNumberAction.Max, "9")
    blob.set_sequence_number(SequenceNumberAction.Increment)
    properties = blob.get_blob_properties()
    assert (properties.page_blob_sequence_number, properties.size) == (10, 2 * MIB)
    expect(412, "SequenceNumberConditionNotMet", blob.upload_page, data, 0, 8192,
           if_sequence_number_lt=10)
    blob.upload_page(data, 0, 8192, if_sequence_number_lt=11)
    expect(416, "InvalidPageRange", blob.upload_page, data, 2 * MIB - 4096, 8192)
    return blob, data


def snapshots(blob, data):
    """Takes a snapshot and compares with it. Returns its time."""
    time = blob.create_snapshot()["snapshot"]
    blob.upload_page(data[:512], MIB, 512)
    blob.clear_page(0, 512)
    assert blob.get_page_ranges(previous_snapshot_diff=time) == (
        [{"start": MIB, "end": MIB + 511}], [{"start": 0, "end": 511}])
    mixed = [(r.start, r.cleared) for r in blob.list_page_ranges(previous_snapshot=time)]
    assert mixed == [(0, True), (MIB, False)]
    return time


def leases(blob, data):
    lease = blob.acquire_lease(15)
    expect(412, "LeaseIdMissing", blob.upload_page, data, 0, 8192)
    expect(409, "LeaseAlreadyPresent", blob.acquire_lease, 15)
    blob.upload_page(data, 0, 8192, lease=lease)
    lease.change(str(uuid.uuid4()))
    lease.renew()
    found = blob.get_blob_properties().lease
    assert (found.status, found.state, found.duration) == ("locked", "leased", "fixed")
    assert lease.break_lease(0) == 0
    lease.release()


def signatures(url, container, blob, data):
    name = container.container_name
    reader = BlobClient.from_blob_url(
        f"{blob.url}?{blob_sas(name, DISK, BlobSasPermissions(read=True))}")
    assert reader.download_blob(0, 8192).readall() == data
    expect(403, "AuthorizationPermissionMismatch", reader.upload_page, data, 0, 8192)
    sas = generate_container_sas(
        ACCOUNT, name, account_key=KEY, expiry=in_an_hour(),
        permission=ContainerSasPermissions(list=True))
    lister = ContainerClient.from_container_url(f"{container.url}?{sas}")
    assert [found.name for found in lister.list_blobs()] == [DISK]
    sas = generate_account_sas(
        ACCOUNT, KEY, ResourceTypes(service=True), AccountSasPermissions(list=True), in_an_hour())
    service = BlobServiceClient(url, credential=sas)
    assert name in [found.name for found in service.list_containers()]
    anonymous = BlobClient.from_blob_url(blob.url)
    expect(401, "NoAuthenticationInformation", anonymous.download_blob)


def copies(container, blob, time, data):
    name = container.container_name
    read = BlobSasPermissions(read=True)
    source = f"{blob.url}?{blob_sas(name, DISK, read)}"
    target = container.get_blob_client("target")
    target.create_page_blob(MIB)
    target.upload_pages_from_url(source, 512, 4096, 1024)
    assert target.download_blob(512, 4096).readall() == data[1024:5120]
    expect(401, "CannotVerifyCopySource", target.upload_pages_from_url, blob.url, 512, 4096, 1024)
    missing = f"{container.url}/none?{blob_sas(name, 'none', read)}"
    expect(404, "CannotVerifyCopySource", target.upload_pages_from_url, missing, 512, 4096, 1024)
    expect(412, "SourceConditionNotMet", target.upload_pages_from_url, source, 512, 4096, 1024,
           source_etag='"0x1"', source_match_condition=MatchConditions.IfNotModified)
    old = container.get_blob_client(DISK, snapshot=time)
    sas = blob_sas(name, DISK, read, snapshot=time)
    target.upload_pages_from_url(f"{old.url}&{sas}", 0, 4096, 0)
    assert target.download_blob(0, 4096).readall() == data[:4096]
    copy = container.get_blob_client("copy")
    assert copy.start_copy_from_url(blob.url)["copy_status"] == "success"
    assert copy.get_page_ranges()[0] == [
        {"start": 0, "end": 12287}, {"start": MIB, "end": MIB + 511}]
    blob.start_copy_from_url(old.url)
    assert blob.download_blob(0, 8192).readall() == data
    expect(409, "BlobOverwritten", blob.get_page_ranges, previous_snapshot_diff=time)


def other_kinds(url, container):
    container.get_blob_client("photos/ü cat.jpg").upload_blob(
        b"x" * 100000, content_settings=ContentSettings(content_type="image/jpeg"))
    body = os.urandom(5 * MIB)
    small_blocks = ContainerClient(
        url, container.container_name, credential=CREDENTIAL,
        max_block_size=MIB, max_single_put_size=MIB)
    small_blocks.get_blob_client("photos/big").upload_blob(body)
    big = container.get_blob_client("photos/big")
    assert big.download_blob().readall() == body
    assert len(big.get_block_list()[0]) == 5
    log = container.get_blob_client("log")
    log.create_append_blob()
    log.append_block(b"one")
    assert log.append_block(b"two")["blob_append_offset"] == "3"
    assert log.download_blob().readall() == b"onetwo"


def lists(container):
    names = ["copy", DISK, "log", "photos/big", "photos/ü cat.jpg", "target"]
    assert [found.name for found in container.list_blobs()] == names
    assert [found.name for found in container.walk_blobs()] == [
        "dir one/", "photos/", "copy", "log", "target"]
    one_by_one = container.list_blobs(results_per_page=1).by_page()
    assert [found.name for page in one_by_one for found in page] == names
    with_snapshots = container.list_blobs(name_starts_with="dir", include=["snapshots", "metadata"])
    assert [(found.name, found.metadata) for found in with_snapshots] == [(DISK, {"m": "1"})] * 2


def main():
    url = f"{sys.argv[1]}/{ACCOUNT}"
    service = BlobServiceClient(url, credential=CREDENTIAL)
    name = f"sdk-{uuid.uuid4().hex}"
    container = service.create_container(name, metadata={"a": "b"})
    expect(409, "ContainerAlreadyExists", service.create_container, name)
    assert container.get_container_properties().metadata == {"a": "b"}
    blob, data = pages(container)
    time = snapshots(blob, data)
    leases(blob, data)
    signatures(url, container, blob, data)
    copies(container, blob, time, data)
    other_kinds(url, container)
    lists(container)
    blob.set_blob_metadata({"k": "v"})
    blob.set_http_headers(ContentSettings(content_type="a/b"))
    properties = blob.get_blob_properties()
    assert (properties.metadata, properties.content_settings.content_type) == ({"k": "v"}, "a/b")
    expect(409, "SnapshotsPresent", blob.delete_blob)
    blob.delete_blob(delete_snapshots="include")
    expect(404, "BlobNotFound", blob.get_blob_properties)
    lease = container.acquire_lease(15)
    expect(412, "LeaseIdMissing", container.delete_container)
    container.delete_container(lease=lease)
    print("the emulator agrees with the SDK")


if __name__ == "__main__":
    main()
