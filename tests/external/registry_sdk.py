"""Azure's own SDK for container registries, as a judge of the built-in registry.

registry_sdk.py ENDPOINT ENTRA_TOKEN: the registry asks for tokens, takes this one of Entra ID, and lets
anybody pull from `public/`.
"""

import hashlib
import io
import json
import sys
import time

from azure.containerregistry import (
    ArtifactManifestProperties,
    ArtifactTagOrder,
    ContainerRegistryClient,
    DigestValidationError,
)
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# The SDK reads blobs in pieces of 4 MiB; this takes three.
LARGE = 9_000_001


class Known:
    """Somebody with a token that Entra ID gave."""

    def __init__(self, token):
        self.token = token

    def get_token(self, *_scopes, **_options):
        return AccessToken(self.token, int(time.time()) + 3600)


def expect(kind, action):
    try:
        action()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def push(client, repository, tag, layer):
    """Uploads an image of one layer; the digest of its manifest, and that of the layer."""
    config = json.dumps({"architecture": "amd64", "os": "linux"}).encode()
    config_digest, config_size = client.upload_blob(repository, io.BytesIO(config))
    layer_digest, layer_size = client.upload_blob(repository, io.BytesIO(layer))
    assert layer_digest == digest_of(layer) and layer_size == len(layer)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config_size,
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer_digest,
                "size": layer_size,
            }
        ],
    }
    return client.set_manifest(repository, manifest, tag=tag), layer_digest


def contents(client):
    """Blobs and manifests, there and back."""
    layer = bytes(index * 37 % 251 for index in range(LARGE))
    digest, layer_digest = push(client, "prod/bash", "v1", layer)
    manifest = client.get_manifest("prod/bash", "v1")
    assert manifest.digest == digest and manifest.media_type == OCI_MANIFEST
    assert client.get_manifest("prod/bash", digest).manifest == manifest.manifest
    stream = client.download_blob("prod/bash", layer_digest)
    assert b"".join(stream) == layer
    expect(ResourceNotFoundError, lambda: client.get_manifest("prod/bash", "nothing"))
    expect(ResourceNotFoundError, lambda: client.get_manifest("nobody", "v1"))
    unknown = digest_of(b"unknown")
    expect(ResourceNotFoundError, lambda: list(client.download_blob("prod/bash", unknown)))
    client.delete_blob("prod/bash", layer_digest)
    expect(ResourceNotFoundError, lambda: list(client.download_blob("prod/bash", layer_digest)))
    assert issubclass(DigestValidationError, Exception)
    return digest


def lists(client, digest):
    """Repositories, tags and manifests, by pages."""
    for tag in ["v2", "v3"]:
        push(client, "prod/bash", tag, tag.encode())
    for name in ["alpine", "lib/zeta"]:
        push(client, name, "latest", name.encode())
    names = list(client.list_repository_names(results_per_page=1))
    assert names == ["alpine", "lib/zeta", "prod/bash"], names
    tags = [tag.name for tag in client.list_tag_properties("prod/bash", results_per_page=2)]
    assert tags == ["v1", "v2", "v3"], tags
    order = ArtifactTagOrder.LAST_UPDATED_ON_DESCENDING
    tags = [tag.name for tag in client.list_tag_properties("prod/bash", order_by=order)]
    assert tags == ["v3", "v2", "v1"], tags
    manifests = list(client.list_manifest_properties("prod/bash", results_per_page=2))
    assert len(manifests) == 3 and digest in [manifest.digest for manifest in manifests]


def properties(client, digest):
    """What is said of repositories, tags and manifests, and changed."""
    repository = client.get_repository_properties("prod/bash")
    assert (repository.manifest_count, repository.tag_count) == (3, 3)
    assert repository.created_on <= repository.last_updated_on
    tag = client.get_tag_properties("prod/bash", "v1")
    assert tag.digest == digest and tag.can_write
    manifest = client.get_manifest_properties("prod/bash", digest)
    assert manifest.tags == ["v1"] and manifest.size_in_bytes > 0
    assert (manifest.architecture, manifest.operating_system) == ("amd64", "linux")
    changed = client.update_manifest_properties(
        "prod/bash", digest, ArtifactManifestProperties(can_write=False, can_delete=False)
    )
    assert not changed.can_write and changed.can_read
    assert not client.get_manifest_properties("prod/bash", digest).can_delete
    client.update_tag_properties("prod/bash", "v1", can_list=False)
    assert not client.get_tag_properties("prod/bash", "v1").can_list
    expect(ResourceNotFoundError, lambda: client.get_tag_properties("prod/bash", "nothing"))
    client.delete_tag("prod/bash", "v1")
    expect(ResourceNotFoundError, lambda: client.get_tag_properties("prod/bash", "v1"))
    client.delete_manifest("prod/bash", digest)
    expect(ResourceNotFoundError, lambda: client.get_manifest_properties("prod/bash", digest))
    client.delete_repository("prod/bash")
    assert list(client.list_repository_names()) == ["alpine", "lib/zeta"]


def strangers(client, endpoint):
    """Those without a credential, and with a wrong one."""
    _, layer_digest = push(client, "public/tool", "v1", b"for everybody")
    with ContainerRegistryClient(endpoint, credential=None) as anybody:
        assert anybody.get_manifest("public/tool", "v1").media_type == OCI_MANIFEST
        assert b"".join(anybody.download_blob("public/tool", layer_digest)) == b"for everybody"
        expect(HttpResponseError, lambda: anybody.get_manifest("alpine", "latest"))
        expect(HttpResponseError, lambda: anybody.upload_blob("public/tool", io.BytesIO(b"x")))
    with ContainerRegistryClient(endpoint, Known("wrong")) as nobody:
        expect(ClientAuthenticationError, lambda: nobody.get_manifest("alpine", "latest"))


def main():
    endpoint, token = sys.argv[1:]
    with ContainerRegistryClient(endpoint, Known(token)) as client:
        digest = contents(client)
        lists(client, digest)
        properties(client, digest)
        strangers(client, endpoint)
    print("the SDK is content with", endpoint)


if __name__ == "__main__":
    main()
