"""Google Cloud without an account: order and arguments of commands, retries, errors, rollback."""

import json
import logging
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.cloud.bootstrap import bootstrap
from src.mlops.cloud.build import build
from src.mlops.cloud.deploy import deploy
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import JOBS
from src.mlops.cloud.teardown import teardown
from src.mlops.config import CloudConfig
from src.mlops.errors import CloudError, ConfigError, ServiceError
from tests.helpers.gcloud_record import Double, positions
from tests.helpers.tiny import quick_config


@cache
def cloud(*overrides: str) -> CloudConfig:
    return quick_config([f"cloud.{override}" for override in ("tag=abc", *overrides)]).cloud


def works(url: str, token: str) -> None:
    """A smoke test that succeeds."""


class TestBootstrap:
    def test_order(self, gcloud: Double) -> None:
        bootstrap(cloud("github=owner/name"))
        calls = gcloud.calls()
        order = positions(
            calls,
            "auth list",
            "projects describe",
            "services enable",
            "service-accounts create gtsrb-train",
            "buckets create gs://my-project-gtsrb --location=europe-west4 --uniform-bucket-level-access",
            "--versioning --lifecycle-file=",
            "repositories create gtsrb",
            "set-cleanup-policies",
            "secrets create wandb-api-key",
            "projects add-iam-policy-binding",
            "create-oidc",
            "budgets create",
        )
        assert order == sorted(order)
        assert all("--project=my-project" in call for call in calls[1:])
        [pool] = [words for words in gcloud.arguments() if "create-oidc" in words]
        assert "--attribute-condition=assertion.repository=='owner/name'" in pool
        trusted = "assertion.ref=='refs/heads/main' || assertion.ref.startsWith('refs/tags/gtsrb')"
        assert f"--attribute-mapping=google.subject=assertion.sub,attribute.role={trusted} ? 'build' : 'report'" in pool
        workflows = [call for call in calls if "principalSet" in call]
        assert [("gtsrb-build@" in call, "attribute.role/build" in call) for call in workflows] == [
            (True, True),
            (False, False),
        ]

    def test_the_account_report_can_only_read(self, gcloud: Double) -> None:
        bootstrap(cloud("github=owner/name"))
        member = "--member=serviceAccount:gtsrb-report@my-project.iam.gserviceaccount.com"
        given = [words[words.index(member) + 1] for words in gcloud.arguments() if member in words]
        assert given == ["--role=roles/storage.objectViewer"]

    def test_a_second_run_changes_nothing(self, gcloud: Double) -> None:
        bootstrap(cloud("github=owner/name"))
        before = gcloud.state()
        gcloud.forget()
        bootstrap(cloud("github=owner/name"))
        assert [call for call in gcloud.calls() if " create" in call or " versions add " in call] == []
        assert gcloud.state() == before

    def test_no_account_is_an_owner_or_editor(self, gcloud: Double) -> None:
        bootstrap(cloud())
        roles = {word for words in gcloud.arguments() for word in words if word.startswith("--role=")}
        assert roles
        assert not roles & {"--role=roles/owner", "--role=roles/editor", "--role=roles/storage.admin"}

    def test_dry_run_prints_and_runs_nothing(self, gcloud: Double, capsys: pytest.CaptureFixture[str]) -> None:
        bootstrap(cloud("dry_run=true"))
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) > 25
        assert all(line.startswith("gcloud ") for line in printed)
        assert gcloud.calls() == []

    def test_steps_are_retried_until_a_new_account_is_known(self, gcloud: Double) -> None:
        gcloud.fails("buckets add-iam", "ERROR: HTTPError 400: Service account gtsrb-serve@x does not exist.", times=2)
        bootstrap(cloud())
        assert sum("buckets add-iam-policy-binding" in call and "gtsrb-serve" in call for call in gcloud.calls()) == 3

    def test_a_resource_may_be_created_concurrently(self, gcloud: Double) -> None:
        gcloud.fails("buckets create", "ERROR: HTTPError 409: Your previous request to create it succeeded")
        bootstrap(cloud())

    def test_the_secret_is_never_an_argument(self, gcloud: Double) -> None:
        bootstrap(cloud())
        [call] = [call for call in gcloud.calls() if "versions add" in call]
        assert "--data-file=-" in call

    @pytest.mark.parametrize(
        ("match", "stderr", "step", "advice"),
        [
            (
                "auth list",
                "ERROR: You do not currently have an active account selected.",
                "'log in'",
                "gcloud auth login",
            ),
            (
                "projects describe",
                "ERROR: [me] does not have permission to access projects instance [my-project] (or it may not exist): "
                "PERMISSION_DENIED",
                "'find the project'",
                "Check that the project my-project exists",
            ),
            (
                "services enable",
                "ERROR: FAILED_PRECONDITION: Billing account for project is not found.",
                "'enable the services'",
                "gcloud billing projects link my-project",
            ),
            (
                "buckets create",
                "ERROR: HTTPError 403: me does not have storage.buckets.create access; Permission denied",
                "'create the bucket'",
                "docs/cloud.md",
            ),
            ("budgets create", "ERROR: something else", "'create the budget'", "--dry-run"),
        ],
    )
    def test_errors_have_step_and_advice(self, gcloud: Double, match: str, stderr: str, step: str, advice: str) -> None:
        gcloud.fails(match, stderr)
        with pytest.raises(CloudError) as caught:
            bootstrap(cloud())
        assert step in str(caught.value)
        assert advice in str(caught.value)
        assert "\n" not in str(caught.value)
        assert match in gcloud.calls()[-1]  # nothing after it

    def test_no_account_is_logged_in(self, gcloud: Double) -> None:
        gcloud.script({"match": "auth list", "stdout": "", "code": 0})
        with pytest.raises(CloudError, match=r"'log in'.*account.*gcloud auth login"):
            bootstrap(cloud())

    def test_a_real_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if sys.platform == "win32":
            pytest.skip("the program needs Unix")
        (tmp_path / "gcloud").write_text(
            '#!/bin/sh\necho "$@"\ncat\ntest "$1" != bad || { echo ERROR: no >&2; exit 1; }\n'
        )
        (tmp_path / "gcloud").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        gcloud = Gcloud(cloud())
        assert gcloud.run("step", "good", "a b", stdin="hidden") == "good a b --project=my-project\nhidden"
        with pytest.raises(CloudError, match=r"'step'.*ERROR: no\."):
            gcloud.run("step", "bad")

    def test_no_gcloud(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(CloudError, match=r"gcloud.*https://cloud\.google\.com/sdk"):
            bootstrap(cloud())


class TestDeploy:
    def test_the_first_deployment(self, gcloud: Double) -> None:
        asked = []
        deploy(cloud(), lambda url, token: asked.append((url, token)))
        assert asked == [("https://service", "token-of-me")]
        assert gcloud.state()["service"]["traffic"] == [{"revisionName": "r1", "percent": 100}]

    def test_a_service_account_creates_a_token_for_itself(self, gcloud: Double) -> None:
        account = "gtsrb-build@my-project.iam.gserviceaccount.com"
        gcloud.script({"match": "auth list", "stdout": f"{account}\n", "code": 0})
        deploy(cloud(), works)
        [call] = [call for call in gcloud.calls() if "print-identity-token" in call]
        assert call.endswith(f"--impersonate-service-account={account} --audiences=https://service")

    def test_names_of_models_are_looked_up_in_the_bucket(self, gcloud: Double) -> None:
        deploy(cloud("serve.model=models:/gtsrb@production"), works)
        [path] = [words[3] for words in gcloud.arguments() if words[:3] == ["run", "services", "replace"]]
        [container] = yaml.safe_load(Path(path).read_text())["spec"]["template"]["spec"]["containers"]
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        assert variables["MLOPS_MODEL"] == "models:/gtsrb@production"
        assert variables["MLOPS_MODEL_STORE"] == "gs://my-project-gtsrb/gtsrb/models"

    def test_a_revision_gets_traffic_after_the_smoke_test(self, gcloud: Double) -> None:
        deploy(cloud(), works)
        seen: list[Any] = []
        deploy(cloud(), lambda url, _: seen.append((url, gcloud.state()["service"]["traffic"][0]["revisionName"])))
        assert seen == [("https://candidate", "r1"), ("https://service", "r2")]

    @pytest.mark.parametrize("bad", ["https://candidate", "https://service"])
    def test_a_failed_smoke_test_rolls_back(self, gcloud: Double, bad: str) -> None:
        deploy(cloud(), works)

        def fails(url: str, token: str) -> None:
            if url == bad:
                raise ServiceError("The answer is 500.")

        with pytest.raises(CloudError, match=r"'test the .*'.*The answer is 500\. .*r1\b"):
            deploy(cloud(), fails)
        assert gcloud.state()["service"]["traffic"] == [{"revisionName": "r1", "percent": 100}]
        assert "update-traffic gtsrb --region=europe-west4 --to-revisions=r1=100" in gcloud.calls()[-1]

    def test_a_revision_that_does_not_start_gets_no_traffic(self, gcloud: Double) -> None:
        deploy(cloud(), works)
        gcloud.fails("services replace", "ERROR: Revision r2 is not ready and cannot serve traffic.")
        with pytest.raises(CloudError, match=r"'start the new revision'.*r2 is not ready"):
            deploy(cloud(), works)
        assert gcloud.state()["service"]["traffic"] == [{"revisionName": "r1", "percent": 100}]

    def test_a_failed_traffic_update_is_rolled_back(self, gcloud: Double) -> None:
        deploy(cloud(), works)
        gcloud.fails("--to-revisions=r2", "ERROR: PERMISSION_DENIED")
        with pytest.raises(CloudError, match=r"'move the traffic to the new revision'.*PERMISSION_DENIED.*r1\b"):
            deploy(cloud(), works)

    def test_no_image(self, gcloud: Double) -> None:
        gcloud.fails("images describe", "ERROR: Image not found.")
        with pytest.raises(CloudError, match=r"'find the container image'.*/gtsrb/api:abc.*inv gcp\.build"):
            deploy(cloud(), works)
        assert not any("replace" in call for call in gcloud.calls())

    def test_public(self, gcloud: Double) -> None:
        asked = []
        deploy(cloud("serve.public=true"), lambda _, token: asked.append(token))
        assert asked == [""]
        assert any("--member=allUsers" in call for call in gcloud.calls())


class TestTeardown:
    def test_needs_confirmation(self, gcloud: Double) -> None:
        with pytest.raises(CloudError, match=r"cloud\.teardown\.confirm=my-project"):
            teardown(cloud())
        assert gcloud.calls() == []

    def test_deletes_all_resources_except_the_bucket(self, gcloud: Double) -> None:
        bootstrap(cloud())
        teardown(cloud("teardown.confirm=my-project"))
        left = {kind for kind, _ in gcloud.state()["things"]}
        assert left == {"storage buckets", "billing budgets", "secrets versions"}

    def test_missing_resources_are_no_error(self, gcloud: Double) -> None:
        teardown(cloud("teardown.confirm=my-project", "teardown.data=true"))
        assert gcloud.calls()[-1].startswith("storage rm --recursive gs://my-project-gtsrb")


def test_build(gcloud: Double) -> None:
    settings = cloud(
        "build.train=true", "train.options=['data=gcs','training.size_schedule=[[1,2]]']", "serve.memory=2Gi"
    )
    build(settings)
    [words] = [word for word in gcloud.arguments()[-1] if word.startswith("--substitutions=^|^")]
    given = dict(entry.split("=", 1) for entry in words.removeprefix("--substitutions=^|^").split("|"))
    assert given["_IMAGES"] == "europe-west4-docker.pkg.dev/my-project/gtsrb"
    assert (given["_TAG"], given["_TRAIN"], given["_DEPLOY"]) == ("abc", "true", "true")
    # A command with these options composes the same settings.
    there = quick_config(shlex.split(given["_OPTIONS"])).cloud
    assert there == settings.model_copy(update={"build": quick_config().cloud.build})
    text = (ROOT / "cloudbuild.yaml").read_text()
    assert set(re.findall(r"(?<!\$)\$(_[A-Z]+)", text)) == set(given)  # all substitutions are set and used


def test_old_versions_that_are_in_use_are_kept() -> None:
    """DVC and the registry refer to objects in the bucket, including old versions of archives."""
    for rule in json.loads((ROOT / "cloud/lifecycle.json").read_text())["rule"]:
        if rule["action"]["type"] == "Delete":
            assert set(rule["condition"]["matchesPrefix"]) <= {f"{JOBS}/", "builds/", "gtsrb/data/processed/"}


@pytest.mark.parametrize(
    "override",
    [
        "project=My_Project",
        "region=europe",
        "serve.cpu=3",
        "serve.memory=1GB",
        "serve.min_instances=9",
        "serve.concurrency=0",
        "train.data=/home/me",
        "train.replicas=0",
        "train.hours=1000",
        "github=name",
        "budget=0",
        "tag='a b'",
    ],
)
def test_invalid_settings(override: str) -> None:
    with pytest.raises(ConfigError, match=f"cloud.{override.split('=')[0]}".replace("serve.min_instances", "serve")):
        cloud(override)


def test_names_are_defined_once() -> None:
    """Only the configuration contains project and region, so a change needs one edit."""
    names = cloud()
    for path in [ROOT / "cloudbuild.yaml", *(ROOT / "cloud").iterdir(), *(ROOT / "src/mlops/cloud").glob("*.py")]:
        text = path.read_text()
        assert names.project not in text, path
        assert names.region not in text, path


def test_steps_are_logged(gcloud: Double, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        bootstrap(cloud())
    assert "Create the bucket" in caplog.messages
