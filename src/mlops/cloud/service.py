"""The Cloud Run service: its revisions, and how much of the traffic each one gets."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import PLACEHOLDER, PREVIOUS, Names
from src.mlops.errors import CloudError

CANDIDATE = "candidate"  # tag of a revision under test, which gives it a separate address
API_KEYS = "MLOPS_API_KEYS"  # environment variable of revisions that ask for an API key
CURRENT = "current"  # tag of the revision that it is compared to


@dataclass(frozen=True)
class State:
    """The state of the service.

    Attributes:
        url: Address of the service.
        serving: The revision with the most traffic.
        created: The revision that was created last.
        tagged: Revisions by tag.
        addresses: Addresses of revisions by tag.
        shares: Percent of the traffic by revision, without those that get none.
    """

    url: str
    serving: str
    created: str
    tagged: dict[str, str]
    addresses: dict[str, str]
    shares: dict[str, int]

    @property
    def is_new(self) -> bool:
        """Whether nothing was deployed yet, so that a page of Google answers."""
        return self.serving.endswith(f"-{PLACEHOLDER}")


def describe(gcloud: Gcloud, names: Names) -> State:
    """Returns the state of the service; made-up names in a dry run.

    Raises:
        CloudError: The service does not exist, or the account cannot read it.
    """
    words = ("run", "services", "describe", names.service, f"--region={names.cloud.region}", "--format=json")
    answer = gcloud.run("describe the service", *words)
    if gcloud.dry_run:
        return State("URL", "CURRENT", "NEW", {PREVIOUS: "PREVIOUS"}, {}, {})
    status: dict[str, Any] = json.loads(answer)["status"]
    traffic = status.get("traffic", [])
    tagged = [entry for entry in traffic if entry.get("tag")]
    shares = {str(entry["revisionName"]): int(entry["percent"]) for entry in traffic if entry.get("percent")}
    return State(
        url=str(status["url"]),
        serving=max(shares, key=shares.__getitem__, default=""),
        created=str(status.get("latestCreatedRevisionName", "")),
        tagged={entry["tag"]: str(entry["revisionName"]) for entry in tagged},
        addresses={entry["tag"]: str(entry["url"]) for entry in tagged},
        shares=shares,
    )


def shift(gcloud: Gcloud, names: Names, step: str, shares: dict[str, int], tags: dict[str, str]) -> None:
    """Sets the traffic and the tags of the service at once.

    Args:
        gcloud: Commands of the account.
        names: Names of the resources.
        step: Purpose in the imperative.
        shares: Percent of the traffic by revision.
        tags: All tags of the service with their revisions.
    """
    named = ",".join(f"{tag}={revision}" for tag, revision in tags.items())
    gcloud.run(
        step,
        *("run", "services", "update-traffic", names.service, f"--region={names.cloud.region}"),
        f"--to-revisions={','.join(f'{revision}={percent}' for revision, percent in shares.items())}",
        f"--set-tags={named}" if named else "--clear-tags",
    )


def require_unchanged(gcloud: Gcloud, names: Names, shares: dict[str, int]) -> None:
    """Checks that the traffic still is what this command set, so that it does not undo a rollback.

    Raises:
        CloudError: Another command has changed the traffic.
    """
    if not gcloud.dry_run and (found := describe(gcloud, names).shares) != shares:
        raise CloudError(f"Another command changed the traffic of {names.service} in the meantime, to {_list(found)}.")


def _list(shares: dict[str, int]) -> str:
    return ", ".join(f"{revision} {percent} %" for revision, percent in shares.items())


def models_of_revisions(gcloud: Gcloud, names: Names) -> dict[str, str]:
    """Returns the models of all revisions that are ready and ask for API keys if the service is public, newest first.

    The placeholder has none.
    """
    return {
        revision: model
        for revision, variables, is_ready in _revisions(gcloud, names)
        if is_ready and (model := variables.get("MLOPS_MODEL")) and (API_KEYS in variables or not names.public)
    }


def open_revisions(gcloud: Gcloud, names: Names) -> set[str]:
    """Returns the revisions that ask for no API key, except the placeholder."""
    return {
        revision
        for revision, variables, _ in _revisions(gcloud, names)
        if "MLOPS_MODEL" in variables and API_KEYS not in variables
    }


def _revisions(gcloud: Gcloud, names: Names) -> Iterator[tuple[str, dict[str, str | None], bool]]:
    """Yields name and environment variables of all revisions, newest first, and whether they are ready."""
    answer = gcloud.run(
        "list the revisions",
        *("run", "revisions", "list", f"--service={names.service}", f"--region={names.cloud.region}"),
        *("--sort-by=~metadata.creationTimestamp", "--format=json"),
    )
    for revision in json.loads(answer or "[]"):
        is_ready = any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in revision["status"]["conditions"]
        )
        containers = revision["spec"]["containers"]
        # With a sidecar, the container of the service is the one that has a port.
        container = next((one for one in containers if one.get("ports")), containers[0])
        variables = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
        yield str(revision["metadata"]["name"]), variables, is_ready


def require_deployed(names: Names, state: State) -> None:
    """Raises an error if nothing was deployed yet."""
    if state.is_new or not state.serving:
        raise CloudError(f"Nothing is deployed to {names.service} yet. Deploy first with `inv gcp.deploy`.")
