"""Starts the workflow `retrain` on GitHub when Alertmanager reports an alert. docs/how-to/retrain.md explains the loop.

Whether a retraining was started recently is asked at GitHub: this service may be restarted, run several times, or read
the log from a read-only volume.
"""

import json
import logging
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from http.client import HTTPException, HTTPMessage
from typing import IO, Annotated, Any, Literal

from pydantic import BaseModel, Field

from src.mlops.errors import ServiceError
from src.mlops.io.files import to_json
from src.mlops.serving.settings import DriftSettings

logger = logging.getLogger(__name__)
WORKFLOW = "retrain.yaml"
BRANCH = "main"
_TIMEOUT = 10.0  # seconds for each request to GitHub
_MAX_ANSWER = 1 << 20  # bytes
_OVERLOADED = 429


class Outcome(StrEnum):
    """What came of a notification."""

    STARTED = "started"
    RECENT = "recent"  # a retraining was started in the last hours
    RESOLVED = "resolved"  # no alert fires any more
    OFF = "off"  # no repository is set
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


class Labels(BaseModel):
    """The labels of an alert. Only its name is used."""

    alertname: Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}$")]


class Alert(BaseModel):
    """One alert of a notification."""

    status: Literal["firing", "resolved"]
    labels: Labels


class Notification(BaseModel):
    """What Alertmanager sends to a webhook. Fields that are not listed are ignored."""

    version: Literal["4"]
    alerts: Annotated[list[Alert], Field(max_length=100)]

    def firing(self) -> list[str]:
        """Returns the names of the alerts that fire, sorted."""
        return sorted({alert.labels.alertname for alert in self.alerts if alert.status == "firing"})


class NotStartedError(ServiceError):
    """GitHub did not start the workflow.

    Attributes:
        outcome: `refused` if another attempt fails as well, `unreachable` if it may succeed.
    """

    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome


class Retraining:
    """Starts the workflow, at most once in `retrain_hours`.

    Args:
        settings: The settings of the drift service.
    """

    def __init__(self, settings: DriftSettings) -> None:
        self._settings = settings
        self._alone = threading.Lock()
        self._last: datetime | None = None  # GitHub lists a run only some seconds after its start

    def start(self, alerts: Iterable[str]) -> Outcome:
        """Starts the workflow because of alerts.

        Args:
            alerts: Names of the alerts that fire.

        Raises:
            NotStartedError: GitHub cannot be reached, or refuses the request.
        """
        reason = ", ".join(alerts)
        if not reason:
            return Outcome.RESOLVED
        if self._settings.github_repository is None:
            return Outcome.OFF
        with self._alone:  # two notifications at the same time must not both find nothing
            if self._is_recent():
                return Outcome.RECENT
            self._ask(f"workflows/{WORKFLOW}/dispatches", {"ref": BRANCH, "inputs": {"reason": reason}})
            self._last = datetime.now(UTC)
        logger.info("Started the workflow %s of %s: %s", WORKFLOW, self._settings.github_repository, reason)
        return Outcome.STARTED

    def _is_recent(self) -> bool:
        since = datetime.now(UTC) - timedelta(hours=self._settings.retrain_hours)
        if self._last and self._last > since:
            return True
        asked = {"event": "workflow_dispatch", "created": f">={since:%Y-%m-%dT%H:%M:%SZ}", "per_page": "1"}
        answer = self._ask(f"workflows/{WORKFLOW}/runs?{urllib.parse.urlencode(asked)}")
        try:
            return int(json.loads(answer)["total_count"]) > 0
        except (ValueError, KeyError, TypeError) as error:
            raise self._unreachable(f"its answer is not a list of runs: {answer[:100]!r}") from error

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Sends a request to the part of GitHub's API about workflows, and returns the body of the answer."""
        settings = self._settings
        assert settings.github_token  # noqa: S101 - the settings require both or none
        request = urllib.request.Request(  # noqa: S310 - the settings accept https only
            f"{settings.github_api}/repos/{settings.github_repository}/actions/{path}",
            None if body is None else to_json(body).encode(),
            {
                "Authorization": f"Bearer {settings.github_token.get_secret_value().strip()}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
                "User-Agent": "mlops",  # GitHub refuses requests without one
            },
        )
        try:
            with _OPENER.open(request, timeout=_TIMEOUT) as answer:
                content: bytes = answer.read(_MAX_ANSWER)
                return content
        except urllib.error.HTTPError as error:
            with error:
                if error.code >= 500 or error.code == _OVERLOADED:
                    raise self._unreachable(f"status {error.code}") from error
                raise NotStartedError(
                    f"GitHub refused to start the workflow {WORKFLOW} of {settings.github_repository} with status "
                    f"{error.code}. Check MLOPS_DRIFT_GITHUB_REPOSITORY, and that MLOPS_DRIFT_GITHUB_TOKEN has not "
                    "expired and has the permission `Actions: read and write` for this repository.",
                    Outcome.REFUSED,
                ) from error
        except (OSError, HTTPException) as error:
            raise self._unreachable(str(getattr(error, "reason", error))) from error

    def _unreachable(self, reason: str) -> NotStartedError:
        return NotStartedError(
            f"The workflow {WORKFLOW} was not started, because GitHub does not answer as expected: {reason}. "
            "Alertmanager tries again.",
            Outcome.UNREACHABLE,
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, because the token would be sent to its target as well."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Returns None, so that the redirect becomes an `HTTPError`."""


_OPENER = urllib.request.build_opener(_NoRedirect)
