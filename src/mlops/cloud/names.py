"""What things in Google Cloud are called, derived from `cloud.name` and nowhere else; and the files of `cloud/`."""

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from src.mlops import ROOT
from src.mlops.config import CloudConfig

TEMPLATES = ROOT / "cloud"
SECRET = "wandb-api-key"  # noqa: S105 - its name, not its content
JOBS = "jobs"  # folder of the bucket: what training jobs leave


@dataclass(frozen=True)
class Names:
    """Names of one project.

    Args:
        cloud: The section `cloud` of the configuration.
    """

    cloud: CloudConfig

    @property
    def bucket(self) -> str:
        """URL of the bucket."""
        return f"gs://{self.cloud.bucket}"

    @property
    def images(self) -> str:
        """Address of the images' repository in Artifact Registry."""
        return f"{self.cloud.region}-docker.pkg.dev/{self.cloud.project}/{self.cloud.name}"

    @property
    def drift_job(self) -> str:
        """The Cloud Run job that looks for drift, and its schedule."""
        return f"{self.cloud.name}-drift"

    @property
    def tag(self) -> str:
        """Tag of the images: the checked-out commit unless the configuration names another."""
        return self.cloud.tag or commit()

    def image(self, kind: str) -> str:
        """Returns the address of an image, `api` or `train`."""
        return f"{self.images}/{kind}:{self.tag}"

    def account(self, role: str) -> str:
        """Returns the address of a service account: train, serve, build or schedule."""
        return f"{self.cloud.name}-{role}@{self.cloud.project}.iam.gserviceaccount.com"


def render(template: str, cloud: CloudConfig, **values: Any) -> Path:
    """Fills in a YAML file of `cloud/` and writes it below `data/cloud/`, where it can be looked at.

    Args:
        template: Name of the file.
        cloud: What `${cloud.…}` stands for.
        values: What `${name}` stands for besides.

    Returns:
        The written file. Its name tells its content, so that it is the same as long as nothing changes.
    """
    tree = OmegaConf.create({"cloud": cloud.model_dump(mode="json"), **values, "file": _read(TEMPLATES / template)})
    text = yaml.safe_dump(OmegaConf.to_container(tree, resolve=True)["file"], sort_keys=False)  # type: ignore[index,call-overload]
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = ROOT / "data" / "cloud" / f"{Path(template).stem}-{digest}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def commit() -> str:
    """Returns the short name of the checked-out commit, `dev` where there is none."""
    found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)  # noqa: S607
    return found.stdout.strip() or "dev"


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())
