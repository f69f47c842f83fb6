"""Names of all resources in Google Cloud, derived from `cloud.name`; and the templates in `cloud/`."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf

from src.mlops import ROOT
from src.mlops.config import CloudConfig
from src.mlops.errors import GitError
from src.mlops.io.files import write_atomically
from src.mlops.io.git import git

TEMPLATES = ROOT / "cloud"
SECRET = "wandb-api-key"  # noqa: S105 - the name of the secret, not its content
JOBS = "jobs"  # folder of the bucket for the output of training jobs
RAW = ("gtsrb/dvc", "gtsrb/raw")  # folders of the bucket for raw data: of `inv data.push`, and of own archives
PROCESSED = "gtsrb/data"  # folder of the bucket for prepared data, see configshydra/data/gcs.yaml
NEWEST = "newest"  # value of `cloud.tag`
SHORT_COMMIT = 12  # characters of a commit in the tag of a container image
PLACEHOLDER = "placeholder"  # ends the name of the revision that answers until the first deployment
PORT = 8080  # of the service in Cloud Run; the port that Google's Prometheus sidecar reads without a configuration
PREVIOUS = "previous"  # value of `cloud.serve.model` for rollbacks, and tag of the revision that served before


Stage = Literal["staging", "production"]


@dataclass(frozen=True)
class Names:
    """Names of the resources in one project.

    Args:
        cloud: Section `cloud` of the configuration.
    """

    cloud: CloudConfig

    @property
    def bucket(self) -> str:
        """URL of the bucket for data and models."""
        return f"gs://{self.cloud.bucket}"

    @property
    def builds(self) -> str:
        """URL of the bucket for sources and logs of Cloud Build. Accounts that read data have no access to it."""
        return f"{self.bucket}-builds"

    @property
    def images(self) -> str:
        """Address of the container image repository in Artifact Registry."""
        return self.repository(self.cloud.name)

    @property
    def cache(self) -> str:
        """Name of the repository for layers that later builds use; its tags move, unlike those of the images."""
        return f"{self.cloud.name}-cache"

    def repository(self, name: str) -> str:
        """Returns the address of a repository in Artifact Registry."""
        return f"{self.cloud.region}-docker.pkg.dev/{self.cloud.project}/{name}"

    @property
    def tag(self) -> str:
        """Tag of the container images: `cloud.tag` or, by default, the checked-out commit."""
        return self.cloud.tag or commit()

    def image(self, kind: str) -> str:
        """Returns the address of the container image `api`, `train` or `drift`."""
        return f"{self.images}/{kind}:{self.tag}"

    @property
    def drift_job(self) -> str:
        """Name of the drift job in Cloud Run, and of its schedule."""
        return f"{self.cloud.name}-drift"

    @property
    def log(self) -> str:
        """URL of the prediction log of the service; empty if predictions are not recorded, as in staging."""
        return (self.cloud.serve.stage == "production" and self.cloud.prediction_log) or ""

    @property
    def metrics(self) -> bool:
        """Whether a sidecar sends the metrics of the service to Cloud Monitoring, as in production only."""
        return self.cloud.serve.metrics and self.cloud.serve.stage == "production"

    @property
    def prefix(self) -> str:
        """Start of the names of the metrics that Cloud Logging counts."""
        return self.cloud.name.replace("-", "_")

    @property
    def reports(self) -> str:
        """URL of the folder for drift reports, in the prediction log."""
        return f"{self.cloud.prediction_log}/reports"

    def folder(self, url: str) -> str:
        """Returns the folder of the bucket that a URL names."""
        return url.removeprefix(f"{self.bucket}/")

    def account(self, role: str) -> str:
        """Returns the e-mail address of a service account, such as train or serve."""
        return f"{self.cloud.name}-{role}@{self.cloud.project}.iam.gserviceaccount.com"

    def service_in(self, stage: str) -> str:
        """Returns the name of the Cloud Run service of a stage."""
        return self.cloud.name if stage == "production" else f"{self.cloud.name}-{stage}"

    def in_stage(self, stage: Stage) -> "Names":
        """Returns the names for the service of another stage."""
        return Names(self.cloud.model_copy(update={"serve": self.cloud.serve.model_copy(update={"stage": stage})}))

    @property
    def service(self) -> str:
        """Name of the Cloud Run service of the stage `cloud.serve.stage`."""
        return self.service_in(self.cloud.serve.stage)

    @property
    def public(self) -> bool:
        """Whether this service is open to everyone with an API key."""
        return self.cloud.serve.public and self.cloud.serve.stage == "production"

    @property
    def api_keys(self) -> str:
        """Name of the secret with the API keys of a public service."""
        return f"{self.cloud.name}-api-keys"

    @property
    def admin_token(self) -> str:
        """Name of the secret with the admin token of a public service."""
        return f"{self.cloud.name}-admin-token"


def render(template: str, cloud: CloudConfig, **values: Any) -> Path:
    """Fills in a template as `fill` does, and writes the result to `data/cloud/`. Returns the path as `write` does."""
    return write(Path(template).stem, fill(template, cloud, **values))


def fill(template: str, cloud: CloudConfig, **values: Any) -> Any:
    """Returns the content of a YAML template of `cloud/` with values instead of placeholders.

    Args:
        template: File name of the template.
        cloud: Values of `${cloud.…}`.
        values: Values of other placeholders, `${name}`.
    """
    tree = OmegaConf.create({"cloud": cloud.model_dump(mode="json"), **values, "file": _read(TEMPLATES / template)})
    return OmegaConf.to_container(tree, resolve=True)["file"]  # type: ignore[index,call-overload]


def write(stem: str, tree: Any) -> Path:
    """Writes plain values as YAML to `data/cloud/`.

    Returns:
        The path of the written file. Its name consists of `stem` and a hash of the content.
    """
    text = yaml.safe_dump(tree, sort_keys=False)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = ROOT / "data" / "cloud" / f"{stem}-{digest}.yaml"
    write_atomically(path, text.encode())  # another process may be reading the same file
    return path


def commit() -> str:
    """Returns the short hash of the checked-out commit; `dev` outside a repository."""
    try:
        return git(ROOT, "rev-parse", f"--short={SHORT_COMMIT}", "HEAD")
    except GitError:
        return "dev"


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())
