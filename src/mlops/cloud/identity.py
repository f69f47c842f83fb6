"""Credentials for requests to the service: an identity token, and an API key if the service is public."""

import google.auth
from google.auth import impersonated_credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request

from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import Names
from src.mlops.errors import CloudError

ROBOT = ".iam.gserviceaccount.com"  # ends the address of every service account
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def request_headers(gcloud: Gcloud, names: Names, audience: str) -> dict[str, str]:
    """Returns the headers with which the account that is logged in can call the service.

    Args:
        gcloud: Commands of the account.
        names: Names of the resources.
        audience: Address of the service, without the tag of a revision.

    Raises:
        CloudError: The account cannot get a token, or cannot read the API keys.
    """
    headers = {}
    if names.public:
        step = "read an API key of the service"
        keys = gcloud.run(step, "secrets", "versions", "access", "latest", f"--secret={names.api_keys}")
        headers["X-API-Key"] = keys.partition(",")[0]
    # Also for a public service, because it is closed until a revision with keys serves.
    step = "get a token for the service"
    if gcloud.dry_run or not gcloud.account.endswith(ROBOT):
        token = gcloud.run(step, "auth", "print-identity-token", project=False)
    else:
        token = _token_of_itself(step, gcloud, audience)
    return headers | {"Authorization": f"Bearer {token}"}


def _token_of_itself(step: str, gcloud: Gcloud, audience: str) -> str:
    """Returns an identity token of a service account that is logged in.

    gcloud would impersonate the account, for which it asks for an access token first. The account must not be able to
    create those: one that leaks could be renewed for ever.
    """
    try:
        own, _ = google.auth.default([_SCOPE])
        itself = impersonated_credentials.Credentials(own, gcloud.account, [_SCOPE])  # type: ignore[no-untyped-call]
        found = impersonated_credentials.IDTokenCredentials(itself, audience, include_email=True)  # type: ignore[no-untyped-call]
        found.refresh(Request())
    except GoogleAuthError as error:
        raise CloudError(gcloud.explain(step, str(error))) from error
    return str(found.token)
