"""Has Cloud Build test, build and deploy the working copy: `python -m src.mlops.cloud.build`, or `inv gcp-build`."""

from src.mlops import ROOT
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import Names
from src.mlops.config import CloudConfig, Config, hydra_main


def build(cloud: CloudConfig) -> None:
    """Sends the working copy to Cloud Build and waits for the end of `cloudbuild.yaml`.

    Raises:
        CloudError: A step failed.
    """
    gcloud, names = Gcloud(cloud), Names(cloud)
    gcloud.login()
    values = {
        "_IMAGES": names.images,
        "_TAG": names.tag,
        "_TRAIN": str(cloud.build.train).lower(),
        "_DEPLOY": str(cloud.build.deploy).lower(),
        "_OPTIONS": f"cloud.project={cloud.project} cloud.region={cloud.region} cloud.bucket={cloud.bucket} "
        f"cloud.name={cloud.name} cloud.tag={names.tag}",
    }
    gcloud.run(
        "test, build and deploy in Cloud Build",
        *("builds", "submit", str(ROOT), f"--config={ROOT / 'cloudbuild.yaml'}", f"--region={cloud.region}"),
        f"--substitutions={','.join(f'{name}={value}' for name, value in values.items())}",
        f"--service-account=projects/{cloud.project}/serviceAccounts/{names.account('build')}",
        f"--gcs-source-staging-dir={names.bucket}/builds",
    )


def main(config: Config) -> None:
    """Runs `build` from the command line."""
    build(config.cloud)


if __name__ == "__main__":
    hydra_main(main)
