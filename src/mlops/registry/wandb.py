"""Publishes registered versions as artifacts of Weights & Biases (W&B)."""

import logging
import os
from pathlib import Path
from typing import Any

from src.mlops.config import Config
from src.mlops.modelfile.store import model_name
from src.mlops.training.tracking import first_line

logger = logging.getLogger(__name__)


def publish_model(
    config: Config, version: str, files: list[Path], facts: dict[str, Any], stage: str | None = None
) -> None:
    """Publishes a registered version to W&B as an artifact with the same version and stage, if W&B is online.

    W&B reserves names such as `v3` for its own versions, so the alias is `gtsrb-v3`. A failure is only logged, because
    the registry is complete without W&B.

    Args:
        config: `tracking` sets project and entity. Nothing happens unless `tracking.backend` is wandb.
        version: The version, such as `v3`.
        files: Files of a new version. If empty, the alias of the stage moves to an existing version.
        facts: Manifest of the version.
        stage: New stage of the version.
    """
    if config.tracking.backend != "wandb":
        return
    try:
        import wandb

        if os.environ.get("WANDB_MODE", "online") != "online" or not wandb.login(prompt=False):
            logger.info("W&B is offline: %s is only in the registry", version)
            return
        name = model_name()
        alias = f"{name}-{version}"
        if files:
            metadata = {key: facts[key] for key in ("commit", "data_fingerprint", "files", "created")}
            artifact = wandb.Artifact(name, type="model", metadata=metadata)
            for file in files:
                artifact.add_file(str(file))
            with wandb.init(project=config.tracking.project, entity=config.tracking.entity, job_type="register") as run:
                run.log_artifact(artifact, aliases=[alias])
        else:
            where = "/".join(filter(None, [config.tracking.entity, config.tracking.project, f"{name}:{alias}"]))
            found = wandb.Api().artifact(where)
            found.aliases.append(str(stage))
            found.save()
    except Exception as error:  # no failure of W&B may undo the registration
        logger.warning("Cannot publish %s to W&B: %s", version, first_line(error))
