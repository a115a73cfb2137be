#!/usr/bin/env python3
"""A mounted container, judged by the service's own SDK for Python.

    target/tools/sdk/bin/python tests/external/sdk_mount.py http://127.0.0.1:10000 CONTAINER DIR [KEYFILE]

What the SDK wrote is read in DIR, where the container is mounted, and what is written there is read
by the SDK: pages, lengths, times, names. KEYFILE holds the key that all of it is encrypted with.
"""

import base64
import errno
import hashlib
import os
import sys
import time

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient, CustomerProvidedEncryptionKey

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
MIB = 1 << 20
# In which a file's length is kept if it is no multiple of 512.
LENGTH = "blobdirlength"
# Longer than attributes are believed without asking.
BELIEVED = 1.5

ODD_NAMES = [
    "plain",
    "with spaces  inside",
    " leading and trailing ",
    "100%",
    "%41%2F",
    "hash#tag",
    "question?mark=1&x",
    "plus+comma,semi;colon:at@",
    "quotes'\"`",
    "brackets[]{}()<>|\\^~$!*",
    "Grüße, Ελληνικά, 日本語, 🗄",
    "e\u0301 and \u00e9",
    "trailing dots...",
    "..hidden",
    "...",
    "-dash",
    "deep/er/than/one",
    "dir with %/and #/file?",
    "ü" * 127 + "x",
    # 1,024 characters in all.
    "/".join("n" * 204 for _ in range(5)),
]


class Mounted:
    """One container as files and as blobs."""

    def __init__(self, origin, container, directory, key):
        service = BlobServiceClient(
            f"{origin}/{ACCOUNT}", credential={"account_name": ACCOUNT, "account_key": KEY})
        self.container = service.get_container_client(container)
        self.directory = directory
        self.key = {"cpk": key} if key else {}

    def blob(self, name):
        return self.container.get_blob_client(name)

    def path(self, name):
        return os.path.join(self.directory, name)

    def put(self, name, data, metadata=None):
        """Makes a blob of whole pages."""
        blob = self.blob(name)
        blob.create_page_blob(len(data), metadata=metadata, **self.key)
        for at in range(0, len(data), 4 * MIB):
            piece = data[at:at + 4 * MIB]
            blob.upload_page(piece, at, len(piece), validate_content=True, **self.key)
        return blob

    def get(self, name):
        """What the blob holds, rounded up to pages."""
        return self.blob(name).download_blob(**self.key).readall()

    def properties(self, name):
        return self.blob(name).get_blob_properties(**self.key)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def pages(tree):
    """Content, sparse and large, both ways."""
    data = os.urandom(9 * MIB)
    tree.put("sdk/large", data)
    assert read(tree.path("sdk/large")) == data
    write(tree.path("sdk/large.mount"), data)
    assert tree.get("sdk/large.mount") == data

    blob = tree.blob("sparse")
    blob.create_page_blob(1 << 40, **tree.key)
    blob.upload_page(data[:512], (1 << 40) - 512, 512, **tree.key)
    with open(tree.path("sparse"), "rb") as file:
        assert os.fstat(file.fileno()).st_size == 1 << 40
        assert os.pread(file.fileno(), 1024, (1 << 40) - 1024) == bytes(512) + data[:512]
    with open(tree.path("sparse.mount"), "wb") as file:
        file.truncate(1 << 40)
        os.pwrite(file.fileno(), data[:4096], 1 << 30)
        os.pwrite(file.fileno(), b"\0" * MIB, 1 << 31)
        os.fsync(file.fileno())
    found = tree.blob("sparse.mount").get_page_ranges()[0]
    assert found == [{"start": 1 << 30, "end": (1 << 30) + 4095}], found

    with open(tree.path("sdk/large"), "r+b") as file:
        os.pwrite(file.fileno(), b"within", 1000)
        os.fsync(file.fileno())
    assert tree.get("sdk/large") == data[:1000] + b"within" + data[1006:]
    with open(tree.path("sdk/large"), "r+b") as file:
        file.truncate(2 * MIB)
    assert tree.get("sdk/large")[2000:] == data[2000:2 * MIB]


def lengths(tree):
    """A length that is no multiple of 512 stands in the metadata."""
    for length in (0, 1, 511, 512, 513, 1000, 70_000):
        data = os.urandom(length)
        name = f"length-{length}"
        write(tree.path(name), data)
        found = tree.properties(name)
        assert found.size == -(-length // 512) * 512, (length, found.size)
        assert found.metadata.get(LENGTH) == (str(length) if length % 512 else None)
        assert tree.get(name)[:length] == data
    data = os.urandom(1024)
    tree.put("marked", data, {LENGTH: "700", "other": "kept"})
    assert read(tree.path("marked")) == data[:700]
    with open(tree.path("marked"), "ab") as file:
        file.write(b"!")
    assert tree.properties("marked").metadata == {LENGTH: "701", "other": "kept"}
    assert tree.get("marked")[:701] == data[:700] + b"!"
    # A mark that cannot be true counts for nothing.
    tree.put("mismarked", data, {LENGTH: "7000"})
    assert read(tree.path("mismarked")) == data


def times(tree):
    blob = tree.put("time", bytes(512))
    modified = blob.get_blob_properties(**tree.key).last_modified.timestamp()
    assert int(os.stat(tree.path("time")).st_mtime) == int(modified)
    write(tree.path("time.mount"), b"x")
    modified = tree.properties("time.mount").last_modified.timestamp()
    time.sleep(BELIEVED)
    assert abs(os.stat(tree.path("time.mount")).st_mtime - modified) <= 1


def names(tree):
    """Every name that the service takes and a file can have."""
    for number, name in enumerate(ODD_NAMES):
        data = bytes([number]) * 512
        tree.put(f"names/sdk/{name}"[:1024], data)
        path = tree.path(f"names/sdk/{name}"[:1024])
        assert read(path) == data, name
        os.makedirs(os.path.dirname(tree.path(f"m/{name}"[:1024])), exist_ok=True)
        write(tree.path(f"m/{name}"[:1024]), data)
        assert tree.get(f"m/{name}"[:1024]) == data, name
    for root, prefix in (("m", "m/"), ("names/sdk", "names/sdk/")):
        walked = [
            os.path.relpath(os.path.join(directory, file), tree.directory)
            for directory, _, files in os.walk(tree.path(root)) for file in files
        ]
        listed = [b.name for b in tree.container.list_blobs(prefix) if not b.name.endswith("/")]
        listed = [name for name in listed if not is_marker(tree, name)]
        assert sorted(walked) == sorted(listed), set(walked) ^ set(listed)
        assert len(walked) == len(ODD_NAMES)
    for name in ODD_NAMES:
        path = tree.path(f"m/{name}"[:1024])
        os.rename(path, path[:-1] + "~")
        assert tree.get(f"m/{name}"[:1024][:-1] + "~")[:1] == bytes([ODD_NAMES.index(name)])
        os.remove(path[:-1] + "~")
    assert not [b for b in tree.container.list_blobs("m/") if "~" in b.name]
    # One more character than the service takes.
    try:
        write(tree.path("m/" + "/".join("n" * 204 for _ in range(5)) + "xx"), b"")
        raise AssertionError("a name of 1,028 characters was taken")
    except OSError as error:
        assert error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.ENOENT), error


def is_marker(tree, name):
    return tree.container.get_blob_client(name).get_blob_properties(**tree.key).metadata.get(
        "hdi_isfolder") == "true"


def changes(tree):
    """What one side changes the other one sees, once it opens the file again."""
    data = os.urandom(4096)
    write(tree.path("changing"), data)
    assert read(tree.path("changing")) == data
    tree.blob("changing").upload_page(data[:512], 512, 512, **tree.key)
    assert read(tree.path("changing")) == data[:512] * 2 + data[1024:]
    tree.put("changing", data[:1024])
    time.sleep(BELIEVED)
    assert read(tree.path("changing")) == data[:1024]
    with open(tree.path("changing"), "r+b") as file:
        # The lease is the mount's for as long as it may write.
        try:
            tree.blob("changing").upload_page(data[:512], 0, 512, **tree.key)
            raise AssertionError("two may write")
        except HttpResponseError as error:
            assert error.error_code == "LeaseIdMissing", error
        file.write(b"x")
    tree.blob("changing").upload_page(data[:512], 512, 512, **tree.key)
    assert read(tree.path("changing")) == b"x" + data[1:512] + data[:512]
    tree.blob("changing").delete_blob()
    time.sleep(BELIEVED)
    assert not os.path.exists(tree.path("changing"))
    os.mkdir(tree.path("made"))
    assert tree.blob("made/").exists()


def main():
    origin, container, directory, *key_file = sys.argv[1:]
    key = None
    if key_file:
        text = read(key_file[0]).decode().strip()
        digest = hashlib.sha256(base64.b64decode(text)).digest()
        key = CustomerProvidedEncryptionKey(text, base64.b64encode(digest).decode())
    tree = Mounted(origin, container, directory, key)
    for part in (pages, lengths, times, names, changes):
        part(tree)
        print(part.__name__, "agree")


if __name__ == "__main__":
    main()
