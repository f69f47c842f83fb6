"""Reads secrets from Google Secret Manager in containers on Google Cloud. Secrets are never logged."""

import base64

import google.auth
import httpx2 as httpx
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request

from src.mlops.errors import CloudError

URL = "https://secretmanager.googleapis.com/v1/"


def read_secret(name: str) -> str:
    """Reads the newest version of a secret with the service account of the container.

    Args:
        name: Name such as `projects/my-project/secrets/wandb-api-key`.

    Raises:
        CloudError: The secret does not exist, or the account may not read it.
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
            f"Step 'read the secret' failed for {name}: {reason}. Add a version to the secret (`gcloud secrets "
            "versions add`), and allow the account of the job to read it (`inv gcp.bootstrap`)."
        ) from error
    return base64.b64decode(answer.json()["payload"]["data"]).decode()
