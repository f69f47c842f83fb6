"""Finds a container image and its digest, which never refers to another image later, unlike a tag."""

from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import NEWEST, SHORT_COMMIT, Names
from src.mlops.errors import CloudError


def pinned_image(gcloud: Gcloud, names: Names, kind: str) -> str:
    """Returns the address of the container image `api`, `train` or `drift` with its digest.

    Raises:
        CloudError: The container image does not exist.
    """
    step, base = "find the container image", f"{names.images}/{kind}"
    if gcloud.dry_run:
        return f"{base}@sha256:DIGEST"
    images = ("artifacts", "docker", "images")
    missing = f"Step {step!r} failed: {{}} does not exist. Build it with `inv gcp.build`, or choose another cloud.tag."
    if names.tag == NEWEST:
        # Without a filter, the list also has trials, and the parts of each image, such as its provenance.
        which = ("--include-tags", f"--filter=tags~^[0-9a-f]{{{SHORT_COMMIT}}}$")
        order = ("--sort-by=~UPDATE_TIME", "--limit=1", "--format=value(version)")
        digest = gcloud.run(step, *images, "list", base, *which, *order)
    else:
        describe = (*images, "describe", names.image(kind))
        if not gcloud.exists(step, *describe):
            raise CloudError(missing.format(names.image(kind)))
        digest = gcloud.run("read its digest", *describe, "--format=value(image_summary.digest)")
    if not digest:
        raise CloudError(missing.format(f"a container image of a commit in {base}"))
    return f"{base}@{digest}"
