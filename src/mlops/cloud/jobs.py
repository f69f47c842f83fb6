"""Training jobs: their records in the bucket, and their attempts on Vertex AI.

    jobs/NAME/request.json   the settings of the job; reserves the name; written before an attempt is started
    jobs/NAME/model/         files of the model; SHA256SUMS is written last
    jobs/NAME/outcome.json   for `collect.py`: the registered version, or the failure that was reported

Vertex AI accepts any number of jobs with one display name, and `gcloud` repeats a request whose response was lost, up
to five times. So the display name is chosen here, and jobs with this name are looked up before and after each start.
"""

import json
import logging
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from src.mlops.cloud.gcloud import ATTEMPTS, Gcloud, retrying
from src.mlops.config import CloudConfig
from src.mlops.errors import CloudError, FileExistsInStorageError, MissingFileError, StorageError
from src.mlops.io.files import to_json
from src.mlops.io.storage import Storage, open_storage

logger = logging.getLogger("src.mlops.cloud.jobs")
REQUEST = "request.json"
OUTCOME = "outcome.json"
SUMS = "SHA256SUMS"  # training/job.py writes it last, so its presence means that the model is complete
SUCCEEDED = "JOB_STATE_SUCCEEDED"
LEASE = timedelta(minutes=10)  # much longer than starting a job takes; after it, an unfinished start counts as killed
_ENDED = (SUCCEEDED, "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED")


@dataclass(frozen=True)
class Request:
    """The settings of a job.

    Attributes:
        settings: What determines the model: `image`, `data`, `options` and, for a retraining, `collected`.
        register: Whether `collect.py` registers the model.
        earlier: Resource names of the attempts under this name that had ended before this request.
        id: Differs from the request of any other process.
        started: Time in UTC when a process began to start an attempt; None if no process is doing so.
    """

    settings: dict[str, Any]
    register: bool
    earlier: tuple[str, ...] = ()
    id: str = ""
    started: str | None = None


@dataclass(frozen=True)
class Attempt:
    """A job on Vertex AI.

    Attributes:
        name: Resource name, `projects/…/locations/…/customJobs/77`.
        state: Such as `JOB_STATE_RUNNING`.
        reason: Error message of Vertex AI; empty if there is none.
    """

    name: str
    state: str
    reason: str = ""

    @property
    def id(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state in _ENDED


def find_attempts(gcloud: Gcloud, name: str) -> list[Attempt]:
    """Returns the jobs with a display name, newest first; an empty list in a dry run.

    Raises:
        CloudError: The jobs cannot be listed.
    """
    output = gcloud.run(
        f"find the job {name}",
        *("ai", "custom-jobs", "list", _region(gcloud.cloud), f"--filter=displayName={name}"),
        *("--sort-by=~createTime", "--format=json(name,displayName,state,error.message)"),
    )
    try:
        return [
            Attempt(entry["name"], entry["state"], (entry.get("error") or {}).get("message", ""))
            for entry in json.loads(output or "[]")
            if entry["displayName"] == name  # the filter of gcloud ignores case
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CloudError(
            f"Cannot read the list of the jobs {name} from gcloud ({error!r}): {output[:200]!r}. Update gcloud with "
            "`gcloud components update`."
        ) from error


def start(gcloud: Gcloud, url: str, name: str, request: Request, job_file: Path) -> str:
    """Starts exactly one attempt of a job.

    Args:
        gcloud: Runs the commands.
        url: URL of the folder of the job in the bucket.
        name: Display name of the job.
        request: Settings of the job.
        job_file: Description of the job.

    Returns:
        The resource name of the attempt; an empty string in a dry run.

    Raises:
        CloudError: The name is taken by a job with other settings, another process starts the job at the same time, or
            no attempt can be started.
        StorageError: The bucket cannot be used.
    """
    if gcloud.dry_run:
        return _start_once(gcloud, name, (), job_file)
    storage = open_storage(url)
    request = _reserve(gcloud, storage, name, request)
    try:
        for attempt in retrying(ATTEMPTS):
            with attempt:
                request = _renew(storage, name, request)
                return _start_once(gcloud, name, request.earlier, job_file)
    except CloudError:
        with suppress(CloudError, StorageError):  # the error of the start must be shown
            _write(storage, name, request, replace(request, started=None))  # the next start need not wait
        raise
    raise AssertionError  # `again` returns or raises


def keep_first(gcloud: Gcloud, attempts: Sequence[Attempt]) -> Attempt:
    """Cancels all attempts of a job except the oldest one.

    Args:
        gcloud: Runs the commands.
        attempts: Attempts that have not ended, newest first.

    Raises:
        CloudError: An attempt cannot be cancelled.
    """
    *surplus, first = attempts
    for attempt in surplus:
        logger.warning("The job was started more than once; only %s is kept", first.id)
        gcloud.run(f"cancel the job {attempt.id}", "ai", "custom-jobs", "cancel", attempt.id, _region(gcloud.cloud))
    return first


def mark_for_registration(url: str, name: str) -> None:
    """Lets `collect.py` register the model of a job that was started to be waited for.

    Raises:
        CloudError: Another process changes the request at the same time.
        StorageError: The bucket cannot be used.
    """
    storage = open_storage(url)
    request = read_request(storage)
    if request and not request.register:
        _write(storage, name, request, replace(request, register=True))


def read_request(storage: Storage) -> Request | None:
    """Reads the settings of a job; None if it was started by an earlier release.

    Raises:
        CloudError: The file is corrupted.
    """
    try:
        facts = json.loads(storage.read(REQUEST))
        return Request(**{**facts, "earlier": tuple(facts["earlier"])})
    except MissingFileError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CloudError(
            f"{storage.url}/{REQUEST} is corrupted: {error!r}. Delete it to use the name again."
        ) from error


def read_outcome(storage: Storage) -> dict[str, Any]:
    """Reads what `collect.py` recorded about a job; an empty dict if it has recorded nothing that is valid.

    `request` in it is the ID of the request. Without a record, the job is checked again, which harms nothing.
    """
    try:
        outcome = json.loads(storage.read(OUTCOME))
        return outcome if isinstance(outcome, dict) else {}
    except (MissingFileError, ValueError):
        return {}


def is_starting(request: Request, attempts: Collection[Attempt]) -> bool:
    """Returns whether another process may be about to start an attempt for a request."""
    if request.started is None or any(attempt.name not in request.earlier for attempt in attempts):
        return False
    try:
        return datetime.now(UTC) - datetime.fromisoformat(request.started) < LEASE
    except (ValueError, TypeError):  # TypeError: a time without a zone
        return False


def failure(gcloud: Gcloud, name: str, attempt: Attempt) -> str:
    """Returns the error message of an attempt that ended without a model."""
    cloud, job = gcloud.cloud, attempt.id
    ended = f"the job {name} ended in the state {attempt.state}: {attempt.reason or 'no reason given'}"
    page = f"https://console.cloud.google.com/ai/platform/locations/{cloud.region}/training/{job}"
    return (
        f"{gcloud.explain('train', ended)} Its log is at {page}?project={cloud.project}, or show it with "
        f"`gcloud ai custom-jobs stream-logs {job} {_region(cloud)} --project={cloud.project}`."
    )


def _reserve(gcloud: Gcloud, storage: Storage, name: str, request: Request) -> Request:
    """Reserves the name of a job. A name with the same settings is reserved again, unless a process is using it."""
    attempts = find_attempts(gcloud, name)
    ended = tuple(attempt.name for attempt in attempts if attempt.ended)
    request = replace(request, earlier=ended, id=uuid.uuid4().hex, started=_now())
    other = read_request(storage)
    if other is None:
        return _write(storage, name, None, request)
    if other.settings != request.settings:
        differing = [
            key
            for key in {**request.settings, **other.settings}
            if request.settings.get(key) != other.settings.get(key)
        ]
        raise CloudError(
            f"The name {name} is taken by a job with other settings: "
            + "; ".join(f"{key} {other.settings.get(key)!r}, not {request.settings.get(key)!r}" for key in differing)
            + ". Choose a different name with cloud.train.job, or repeat the settings to resume that job."
        )
    if is_starting(other, attempts):
        raise CloudError(
            f"Another process is starting the job {name} since {other.started}. Run the command again later. If that "
            f"process was killed, its start counts for {LEASE.seconds // 60} minutes."
        )
    return _write(storage, name, other, request)


def _renew(storage: Storage, name: str, request: Request) -> Request:
    """Extends the reservation of a name, unless another process has taken it over."""
    return _write(storage, name, request, replace(request, started=_now()))


def _write(storage: Storage, name: str, before: Request | None, after: Request) -> Request:
    """Replaces the request of a job if no other process has done so."""
    try:
        state = storage.state(REQUEST) if before else None
        if before and read_request(storage) != before:
            state = None  # has changed, so the file cannot be created
        storage.create(REQUEST, (to_json(asdict(after), indent=2) + "\n").encode(), replaces=state)
    except (FileExistsInStorageError, MissingFileError) as error:
        raise CloudError(
            f"Another process is starting the job {name} at the same time. Run the command again later."
        ) from error
    return after


def _start_once(gcloud: Gcloud, name: str, earlier: Collection[str], job_file: Path) -> str:
    created, error = "", None
    attempts = _later(gcloud, name, earlier)  # the response to the start before this one may be lost
    if not attempts:
        try:
            created = gcloud.run(
                "start the training job",
                *("ai", "custom-jobs", "create", _region(gcloud.cloud), f"--display-name={name}"),
                *(f"--config={job_file}", "--format=value(name)"),
                attempts=1,
            )
        except CloudError as failed:
            error = failed
        attempts = _later(gcloud, name, earlier)
    running = [attempt for attempt in attempts if not attempt.ended]
    if attempts:
        return keep_first(gcloud, running).name if running else attempts[0].name
    if error:
        raise error
    return created  # not in the list yet


def _later(gcloud: Gcloud, name: str, earlier: Collection[str]) -> list[Attempt]:
    return [attempt for attempt in find_attempts(gcloud, name) if attempt.name not in earlier]


def _region(cloud: CloudConfig) -> str:
    return f"--region={cloud.region}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
