"""Finds the model that the service of a stage should serve."""

from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import PREVIOUS, Names
from src.mlops.errors import CloudError, StorageError
from src.mlops.io.storage import open_storage
from src.mlops.modelfile.locate import BUNDLED
from src.mlops.modelfile.store import SCHEME, model_name, read_stage

PROMOTED = "promoted"  # value of `cloud.serve.model`


def model_to_serve(gcloud: Gcloud, names: Names) -> str:
    """Returns the name of the model for a new revision.

    A revision names a version and not a stage: otherwise its next instance would load another model after a promotion,
    without a check, and a rollback to the revision would not bring back its model.

    Raises:
        CloudError: The store of the models cannot be read, or the setting is only for rollbacks.
        RegistryError: The file of the stage is corrupted.
    """
    settings = names.cloud.serve
    if settings.model == PREVIOUS:
        raise CloudError(f"cloud.serve.model={PREVIOUS} is only for `inv gcp.rollback`. Use {PROMOTED} or a version.")
    if settings.model != PROMOTED:
        return settings.model
    if gcloud.dry_run:
        return f"{SCHEME}{model_name()}@VERSION"
    try:
        promoted = read_stage(open_storage(names.cloud.models), settings.stage)
    except StorageError as error:
        raise CloudError(gcloud.explain(f"find the model in {settings.stage}", str(error))) from error
    return f"{SCHEME}{model_name()}@{promoted.version}" if promoted else BUNDLED
