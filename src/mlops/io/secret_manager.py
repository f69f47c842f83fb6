"""Secrets from Google's Secret Manager, for containers that run there; nothing of them is ever logged."""

import base64

import google.auth
import httpx2 as httpx
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request

from src.mlops.errors import CloudError

URL = "https://secretmanager.googleapis.com/v1/"


def read_secret(name: str) -> str:
    """Reads the newest version of a secret, as the account that the container runs as.

    Args:
        name: Such as `projects/my-project/secrets/wandb-api-key`.

    Raises:
        CloudError: There is none, or it may not be read.
    """
    try:
        credentials, _ = google.auth.default(["https://www.googleapis.com/auth/cloud-platform"])
        credentials.refresh(Request())  # type: ignore[no-untyped-call]
        answer = httpx.get(
            f"{URL}{name}/versions/latest:access", headers={"Authorization": f"Bearer {credentials.token}"}, timeout=30
        ).raise_for_status()
    except (GoogleAuthError, httpx.HTTPError) as error:
        reason = str(error).splitlines()[0]
        raise CloudError(
            f"step 'read the secret': expected to read {name}, found: {reason}. Add a version to it (`gcloud secrets "
            "versions add`), and let the account of the job read it (`inv gcp-bootstrap`)."
        ) from error
    return base64.b64decode(answer.json()["payload"]["data"]).decode()
