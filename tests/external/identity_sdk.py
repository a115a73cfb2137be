"""Microsoft's own client of Entra ID, azure-identity, against the endpoints of the built-in server: what it
asks for must be answered, and what is wrong refused in words that it understands.

Its transport is made to speak plain HTTP to this host, which it would refuse to; all else is as it comes.
Arguments: none. Environment: BASE, TENANT, CLIENT, SECRET, CERTIFICATE, OTHER_CERTIFICATE, FEDERATED_TOKEN,
STRANGE_TOKEN, ASSIGNED, APP_SERVICE, APP_SERVICE_HEADER, CONTAINER.
"""

import os
import time

import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import (
    CertificateCredential,
    ClientSecretCredential,
    CredentialUnavailableError,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)

SCOPE = "https://storage.azure.com/.default"
given = dict(os.environ)


class Plain(RequestsTransport):
    def send(self, request, **options):
        request.url = request.url.replace("https://127.0.0.1", "http://127.0.0.1")
        return super().send(request, **options)


def application(kind, **how):
    return kind(
        tenant_id=given["TENANT"],
        client_id=given["CLIENT"],
        authority=given["BASE"].replace("http://", "https://"),
        transport=Plain(),
        disable_instance_discovery=True,
        **how,
    )


def good(what, credential):
    token = credential.get_token(SCOPE)
    left = token.expires_on - time.time()
    assert 3500 < left <= 3601, f"{what}: {left} s left"
    headers = {"authorization": f"Bearer {token.token}", "x-ms-version": "2021-12-02"}
    answer = requests.get(f"{given['CONTAINER']}?restype=container&comp=list", headers=headers)
    assert answer.status_code == 200, f"{what}: {answer.text}"
    print(f"{what}: a token that the Blob service takes")


def bad(what, credential, why, kind=ClientAuthenticationError):
    try:
        credential.get_token(SCOPE)
    except kind as error:
        assert why in str(error), f"{what}: {error}"
        print(f"{what}: refused ({why})")
    else:
        raise AssertionError(f"{what}: not refused")


good("client secret", application(ClientSecretCredential, client_secret=given["SECRET"]))
bad("wrong secret", application(ClientSecretCredential, client_secret="x"), "AADSTS7000215")

for chain in (False, True):
    certificate = application(
        CertificateCredential,
        certificate_path=given["CERTIFICATE"],
        send_certificate_chain=chain,
    )
    good(f"certificate, chain {chain}", certificate)
other = application(CertificateCredential, certificate_path=given["OTHER_CERTIFICATE"])
bad("another certificate", other, "AADSTS700027")

good(
    "workload identity",
    application(WorkloadIdentityCredential, token_file_path=given["FEDERATED_TOKEN"]),
)
stranger = application(WorkloadIdentityCredential, token_file_path=given["STRANGE_TOKEN"])
bad("a federated token of somebody else", stranger, "AADSTS70021")

os.environ["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = given["BASE"]
good("metadata service", ManagedIdentityCredential())
good("metadata service, assigned", ManagedIdentityCredential(client_id=given["ASSIGNED"]))
nobody = ManagedIdentityCredential(client_id="nobody")
bad("metadata service, unknown", nobody, "Identity not found", CredentialUnavailableError)

os.environ["IDENTITY_ENDPOINT"] = given["APP_SERVICE"]
os.environ["IDENTITY_HEADER"] = given["APP_SERVICE_HEADER"]
good("App Service", ManagedIdentityCredential())
good("App Service, assigned", ManagedIdentityCredential(client_id=given["ASSIGNED"]))
os.environ["IDENTITY_HEADER"] = "wrong"
bad("App Service, wrong header", ManagedIdentityCredential(), "X-IDENTITY-HEADER")
