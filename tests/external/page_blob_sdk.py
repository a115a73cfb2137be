#!/usr/bin/env python3
"""The page-blob emulator, judged by the service's own SDK for Python.

    tests/support/setup.sh sdk
    target/tools/sdk/bin/python tests/external/page_blob_sdk.py http://127.0.0.1:10000

Needs an emulator that is running and knows the account devstoreaccount1. What the SDK does over
HTTPS alone is judged where that is served; REQUESTS_CA_BUNDLE names what to trust then. What was
deleted is brought back where the emulator says that it can be. Leaves nothing behind.
"""

import base64
import datetime
import hashlib
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
    CustomerProvidedEncryptionKey,
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
GOOD_FOR = datetime.timedelta(hours=1)


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
    return datetime.datetime.now(datetime.timezone.utc) + GOOD_FOR


def customer_key():
    key = os.urandom(32)
    digest = hashlib.sha256(key).digest()
    return CustomerProvidedEncryptionKey(
        base64.b64encode(key).decode(), base64.b64encode(digest).decode())


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
    expect(413, "RequestBodyTooLarge", blob.upload_page, bytes(4 * MIB + 512), 0, 4 * MIB + 512)
    return blob, data


def conditions(blob, data):
    """Only the version that was meant is written."""
    before = blob.get_blob_properties()
    same = {"etag": before.etag, "match_condition": MatchConditions.IfNotModified}
    other = {"etag": before.etag, "match_condition": MatchConditions.IfModified}
    expect(412, "ConditionNotMet", blob.upload_page, data, 0, 8192, **other)
    blob.upload_page(data, 0, 8192, **same)
    expect(412, "ConditionNotMet", blob.clear_page, 0, 512, **same)
    expect(412, "ConditionNotMet", blob.resize_blob, MIB, **same)
    expect(412, "ConditionNotMet", blob.download_blob, **same)
    past, future = before.last_modified - GOOD_FOR, before.last_modified + GOOD_FOR
    expect(412, "ConditionNotMet", blob.upload_page, data, 0, 8192, if_unmodified_since=past)
    expect(412, "ConditionNotMet", blob.upload_page, data, 0, 8192, if_modified_since=future)
    expect(304, "ConditionNotMet", blob.get_blob_properties, if_modified_since=future)


def paging(container):
    """A page list in pages is the list; so is a difference."""
    blob = container.get_blob_client("fragmented")
    blob.create_page_blob(MIB)
    time = blob.create_snapshot()["snapshot"]
    for at in range(0, 25 * 1024, 1024):
        blob.upload_page(bytes(512), at, 512)
    wanted = [(at, at + 511) for at in range(0, 25 * 1024, 1024)]
    for listed in (
        blob.list_page_ranges(results_per_page=10),
        blob.list_page_ranges(previous_snapshot=time, results_per_page=10),
    ):
        pages = [[(found.start, found.end) for found in page] for page in listed.by_page()]
        assert [len(page) for page in pages] == [10, 10, 5], pages
        assert sum(pages, []) == wanted
    part = blob.list_page_ranges(offset=1024, length=2048)
    assert [found.start for found in part] == [1024, 2048]
    blob.delete_blob(delete_snapshots="include")


def snapshots(blob, data):
    """Takes a snapshot and compares with it. Returns its time."""
    time = blob.create_snapshot()["snapshot"]
    blob.upload_page(data[:512], MIB, 512)
    blob.clear_page(0, 512)
    assert blob.get_page_ranges(previous_snapshot_diff=time) == (
        [{"start": MIB, "end": MIB + 511}], [{"start": 0, "end": 511}])
    mixed = [(r.start, r.cleared) for r in blob.list_page_ranges(previous_snapshot=time)]
    assert mixed == [(0, True), (MIB, False)]
    old = blob_at(blob, time)
    assert old.download_blob(0, 512).readall() == data[:512]
    assert old.get_blob_properties().page_blob_sequence_number == 10
    assert old.get_page_ranges()[0] == [{"start": 0, "end": 12287}]
    expect(400, "InvalidQueryParameterValue", old.upload_page, data, 0, 8192)
    other = blob.create_snapshot(metadata={"of": "today"})["snapshot"]
    assert blob_at(blob, other).get_blob_properties().metadata == {"of": "today"}
    between = blob_at(blob, other).list_page_ranges(previous_snapshot=time)
    assert [(r.start, r.cleared) for r in between] == [(0, True), (MIB, False)]
    expect(400, "PreviousSnapshotCannotBeNewer",
           old.get_page_ranges, previous_snapshot_diff=other)
    blob_at(blob, other).delete_blob()
    expect(404, "BlobNotFound", blob_at(blob, other).get_blob_properties)
    expect(409, "PreviousSnapshotNotFound", blob.get_page_ranges, previous_snapshot_diff=other)
    return time


def blob_at(blob, time):
    return BlobClient(
        blob.url.split(f"/{blob.container_name}/")[0], blob.container_name, blob.blob_name,
        snapshot=time, credential=CREDENTIAL)


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
    expect(403, "AuthorizationResourceTypeMismatch",
           service.get_blob_client(name, DISK).upload_page, data, 0, 8192)
    sas = generate_account_sas(
        ACCOUNT, KEY, ResourceTypes(object=True), AccountSasPermissions(read=True, write=True),
        in_an_hour())
    writer = BlobClient(url, name, DISK, credential=sas)
    writer.upload_page(data, 0, 8192)
    assert writer.download_blob(0, 8192).readall() == data
    expect(403, "AuthorizationPermissionMismatch", writer.delete_blob)
    late = generate_blob_sas(
        ACCOUNT, name, DISK, account_key=KEY, permission=BlobSasPermissions(read=True),
        expiry=datetime.datetime(2020, 1, 1))
    expect(403, "AuthenticationFailed", BlobClient.from_blob_url(f"{blob.url}?{late}").download_blob)
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
    found = blob.get_blob_properties()
    expect(412, "SourceConditionNotMet", target.upload_pages_from_url, source, 512, 4096, 1024,
           source_if_unmodified_since=found.last_modified - GOOD_FOR)
    target.upload_pages_from_url(
        source, 512, 4096, 1024,
        source_etag=found.etag, source_match_condition=MatchConditions.IfNotModified,
        source_content_md5=bytearray(hashlib.md5(data[1024:5120]).digest()))
    expect(400, "Md5Mismatch", target.upload_pages_from_url, source, 512, 4096, 0,
           source_content_md5=bytearray(hashlib.md5(data[1024:5120]).digest()))
    lease = target.acquire_lease(15)
    expect(412, "LeaseIdMissing", target.upload_pages_from_url, source, 512, 4096, 1024)
    expect(412, "SequenceNumberConditionNotMet", target.upload_pages_from_url, source, 512, 4096,
           1024, lease=lease, if_sequence_number_lt=0)
    target.upload_pages_from_url(source, 512, 4096, 1024, lease=lease, if_sequence_number_lt=1)
    lease.release()
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


def encryption(container, data):
    """Keys of customers, which the SDK sends over HTTPS alone; and scopes."""
    scoped = container.get_blob_client("scoped")
    scoped.create_page_blob(MIB, encryption_scope="finance")
    scoped.upload_page(data, 0, 8192, encryption_scope="finance")
    assert scoped.get_blob_properties().encryption_scope == "finance"
    scoped.delete_blob()
    if not container.url.startswith("https:"):
        return
    key, other = customer_key(), customer_key()
    no_key = (409, "BlobUsesCustomerSpecifiedEncryption")
    wrong_key = (409, "BlobCustomerSpecifiedEncryptionMismatch")
    blob = container.get_blob_client("secret")
    blob.create_page_blob(MIB, cpk=key)
    written = blob.upload_page(data, 0, 8192, cpk=key, validate_content=True)
    assert written["encryption_key_sha256"] == key.key_hash
    for refused, key_given in ((no_key, {}), (wrong_key, {"cpk": other})):
        for call, *args in (
            (blob.upload_page, data, 0, 8192),
            (blob.clear_page, 0, 512),
            (blob.download_blob,),
            (blob.get_blob_properties,),
            (blob.set_blob_metadata, {"a": "1"}),
            (blob.create_snapshot,),
        ):
            expect(*refused, call, *args, **key_given)
    blob.clear_page(512, 512, cpk=key)
    blob.resize_blob(2 * MIB, cpk=key)
    blob.set_blob_metadata({"a": "1"}, cpk=key)
    whole = data[:512] + bytes(512) + data[1024:]
    assert blob.download_blob(0, 8192, cpk=key, validate_content=True).readall() == whole
    found = blob.get_blob_properties(cpk=key)
    assert (found.encryption_key_sha256, found.metadata, found.size) == (
        key.key_hash, {"a": "1"}, 2 * MIB)
    # What is no content needs no key.
    assert blob.get_page_ranges()[0] == [{"start": 0, "end": 511}, {"start": 1024, "end": 8191}]
    blob.set_sequence_number(SequenceNumberAction.Max, "3")
    blob.acquire_lease(15).release()
    time = blob.create_snapshot(cpk=key)["snapshot"]
    old = container.get_blob_client("secret", snapshot=time)
    expect(*no_key, old.download_blob)
    assert old.download_blob(0, 8192, cpk=key).readall() == whole
    sas = blob_sas(container.container_name, "secret", BlobSasPermissions(read=True))
    plain = container.get_blob_client("plain")
    plain.create_page_blob(MIB)
    expect(409, "CannotVerifyCopySource",
           plain.upload_pages_from_url, f"{blob.url}?{sas}", 0, 8192, 0)
    plain.upload_page(data, 0, 8192)
    sas = blob_sas(container.container_name, "plain", BlobSasPermissions(read=True))
    blob.upload_pages_from_url(f"{plain.url}?{sas}", 0, 8192, 0, cpk=key)
    assert blob.download_blob(0, 8192, cpk=key).readall() == data
    blob.delete_blob(delete_snapshots="include")
    plain.delete_blob()


def deletion(service, container, data):
    """What was deleted comes back, where that is switched on."""
    kept = service.get_service_properties()["delete_retention_policy"].enabled
    blob = container.get_blob_client("deleted")
    blob.create_page_blob(MIB)
    blob.upload_page(data, 0, 8192)
    time = blob.create_snapshot()["snapshot"]
    blob.delete_blob(delete_snapshots="include")
    expect(404, "BlobNotFound", blob.get_blob_properties)
    assert not list(container.list_blobs("deleted"))
    found = [(b.name, b.deleted) for b in container.list_blobs("deleted", include=["deleted"])]
    assert found == [("deleted", True)] * kept, found
    if kept:
        blob.undelete_blob()
        assert blob.download_blob(0, 8192).readall() == data
        assert blob_at(blob, time).download_blob(0, 8192).readall() == data
        blob.delete_blob(delete_snapshots="include")
    else:
        expect(404, "BlobNotFound", blob.undelete_blob)


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
    paging(container)
    time = snapshots(blob, data)
    conditions(blob, data)
    leases(blob, data)
    signatures(url, container, blob, data)
    encryption(container, data)
    deletion(service, container, data)
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
