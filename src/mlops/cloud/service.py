"""The Cloud Run service: its revisions, and how much of the traffic each one gets."""

import json
from dataclasses import dataclass
from typing import Any

from src.mlops.cloud.bootstrap import PLACEHOLDER
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import PREVIOUS, Names
from src.mlops.errors import CloudError

CANDIDATE = "candidate"  # tag of a revision under test, which gives it a separate address
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
    """

    url: str
    serving: str
    created: str
    tagged: dict[str, str]
    addresses: dict[str, str]

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
        return State("URL", "CURRENT", "NEW", {PREVIOUS: "PREVIOUS"}, {})
    status: dict[str, Any] = json.loads(answer)["status"]
    traffic = status.get("traffic", [])
    tagged = [entry for entry in traffic if entry.get("tag")]
    shares = [entry for entry in traffic if entry.get("percent")]
    return State(
        url=str(status["url"]),
        serving=str(max(shares, key=lambda entry: entry["percent"])["revisionName"]) if shares else "",
        created=str(status.get("latestCreatedRevisionName", "")),
        tagged={entry["tag"]: str(entry["revisionName"]) for entry in tagged},
        addresses={entry["tag"]: str(entry["url"]) for entry in tagged},
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


def models_of_revisions(gcloud: Gcloud, names: Names) -> dict[str, str]:
    """Returns the models of all revisions that are ready, newest first; the placeholder has none."""
    answer = gcloud.run(
        "list the revisions",
        *("run", "revisions", "list", f"--service={names.service}", f"--region={names.cloud.region}"),
        *("--sort-by=~metadata.creationTimestamp", "--format=json"),
    )
    if gcloud.dry_run:
        return {}
    found = {}
    for revision in json.loads(answer):
        ready = any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in revision["status"]["conditions"]
        )
        [container] = revision["spec"]["containers"]
        variables = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
        if ready and variables.get("MLOPS_MODEL"):
            found[str(revision["metadata"]["name"])] = str(variables["MLOPS_MODEL"])
    return found


def require_deployed(names: Names, state: State) -> None:
    """Raises an error if nothing was deployed yet."""
    if state.is_new or not state.serving:
        raise CloudError(f"Nothing is deployed to {names.service} yet. Deploy first with `inv gcp.deploy`.")
