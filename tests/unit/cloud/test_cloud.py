"""Google Cloud without an account: order, arguments, repetition, errors, rolling back."""

import importlib
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.cloud import train as train_module
from src.mlops.cloud.bootstrap import bootstrap
from src.mlops.cloud.build import build
from src.mlops.cloud.deploy import deploy
from src.mlops.cloud.names import Names
from src.mlops.cloud.teardown import teardown
from src.mlops.cloud.train import fetch_model, job_file, train
from src.mlops.config import CloudConfig, hydra_main, load_config
from src.mlops.errors import CheckpointError, CloudError, ConfigError, ServiceError
from src.mlops.storage import open_storage
from tests.unit.cloud.conftest import Double, positions


def cloud(*overrides: str) -> CloudConfig:
    return load_config([f"cloud.{override}" for override in ("tag=abc", *overrides)]).cloud


def works(url: str, token: str) -> None:
    """A service that answers."""


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
        assert any("principalSet" in call and "attribute.repository/owner/name" in call for call in calls)

    def test_twice_changes_nothing(self, gcloud: Double) -> None:
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

    def test_a_new_account_is_waited_for(self, gcloud: Double) -> None:
        gcloud.fails("buckets add-iam", "ERROR: HTTPError 400: Service account gtsrb-serve@x does not exist.", times=2)
        bootstrap(cloud())
        assert sum("buckets add-iam-policy-binding" in call and "gtsrb-serve" in call for call in gcloud.calls()) == 3

    def test_what_another_made_meanwhile_is_fine(self, gcloud: Double) -> None:
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
                "step 'log in'",
                "gcloud auth login",
            ),
            (
                "projects describe",
                "ERROR: [me] does not have permission to access projects instance [my-project] (or it may not exist): "
                "PERMISSION_DENIED",
                "step 'find the project'",
                "Check that the project my-project exists",
            ),
            (
                "services enable",
                "ERROR: FAILED_PRECONDITION: Billing account for project is not found.",
                "step 'enable the services'",
                "gcloud billing projects link my-project",
            ),
            (
                "buckets create",
                "ERROR: HTTPError 403: me does not have storage.buckets.create access; Permission denied",
                "step 'make the bucket'",
                "ask its owner for the role",
            ),
            ("budgets create", "ERROR: something else", "step 'send mails", "--dry-run"),
        ],
    )
    def test_what_fails_is_named(self, gcloud: Double, match: str, stderr: str, step: str, advice: str) -> None:
        gcloud.fails(match, stderr)
        with pytest.raises(CloudError) as caught:
            bootstrap(cloud())
        assert step in str(caught.value)
        assert advice in str(caught.value)
        assert "\n" not in str(caught.value)
        assert match in gcloud.calls()[-1]  # nothing after it

    def test_nobody_is_logged_in(self, gcloud: Double) -> None:
        gcloud.script({"match": "auth list", "stdout": "", "code": 0})
        with pytest.raises(CloudError, match=r"step 'log in': expected an account, found none.*gcloud auth login"):
            bootstrap(cloud())

    def test_no_gcloud(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(CloudError, match="expected the command gcloud"):
            bootstrap(cloud())


class TestDeploy:
    def test_the_first_time(self, gcloud: Double) -> None:
        asked = []
        deploy(cloud(), lambda url, token: asked.append((url, token)))
        assert asked == [("https://service", "token-of-me")]
        assert gcloud.state()["service"]["traffic"] == [{"revisionName": "r1", "percent": 100}]

    def test_traffic_comes_after_the_answer(self, gcloud: Double) -> None:
        deploy(cloud(), works)
        seen: list[Any] = []
        deploy(cloud(), lambda url, _: seen.append((url, gcloud.state()["service"]["traffic"][0]["revisionName"])))
        assert seen == [("https://candidate", "r1"), ("https://service", "r2")]

    @pytest.mark.parametrize("bad", ["https://candidate", "https://service"])
    def test_a_failed_smoke_test_rolls_back(self, gcloud: Double, bad: str) -> None:
        deploy(cloud(), works)

        def fails(url: str, token: str) -> None:
            if url == bad:
                raise ServiceError("it answers 500.")

        with pytest.raises(CloudError, match=r"step 'ask the .*': it answers 500\. Rolled back: r1 serves"):
            deploy(cloud(), fails)
        assert gcloud.state()["service"]["traffic"] == [{"revisionName": "r1", "percent": 100}]
        assert "update-traffic gtsrb --region=europe-west4 --to-revisions=r1=100" in gcloud.calls()[-1]

    def test_a_revision_that_does_not_start_gets_nothing(self, gcloud: Double) -> None:
        deploy(cloud(), works)
        gcloud.fails("services replace", "ERROR: Revision r2 is not ready and cannot serve traffic.")
        with pytest.raises(CloudError, match="step 'start the new revision'"):
            deploy(cloud(), works)
        assert gcloud.state()["service"]["traffic"] == [{"revisionName": "r1", "percent": 100}]

    def test_shifting_fails(self, gcloud: Double) -> None:
        deploy(cloud(), works)
        gcloud.fails("--to-revisions=r2", "ERROR: PERMISSION_DENIED")
        with pytest.raises(CloudError, match=r"step 'give the new revision the traffic'.*Rolled back: r1 serves"):
            deploy(cloud(), works)

    def test_no_image(self, gcloud: Double) -> None:
        gcloud.fails("images describe", "ERROR: Image not found.")
        with pytest.raises(CloudError, match=r"step 'find the image': expected .*/gtsrb/api:abc.*inv gcp-build"):
            deploy(cloud(), works)
        assert not any("replace" in call for call in gcloud.calls())

    def test_public(self, gcloud: Double) -> None:
        asked = []
        deploy(cloud("serve.public=true"), lambda _, token: asked.append(token))
        assert asked == [""]
        assert any("--member=allUsers" in call for call in gcloud.calls())

    def test_drift_by_schedule(self, gcloud: Double) -> None:
        settings = cloud("drift.command=[python,-m,json.tool]")
        deploy(settings, works)
        deploy(settings, works)
        kinds = [call.split()[2] for call in gcloud.calls() if call.startswith("scheduler jobs")]
        assert kinds == ["describe", "create", "describe", "update"]


class TestTrain:
    @pytest.fixture(autouse=True)
    def _no_polling(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(train_module, "POLL_SECONDS", 0)

    def test_waits_and_fetches(self, gcloud: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fetched: list[str] = []
        monkeypatch.setattr(train_module, "fetch_model", lambda url, _: fetched.append(url))
        gcloud.script({"match": "custom-jobs describe", "stdout": "JOB_STATE_RUNNING\t\n", "code": 0, "times": 3})
        train(cloud(), tmp_path)
        assert sum("custom-jobs describe 77" in call for call in gcloud.calls()) == 4
        assert fetched[0].startswith("gs://my-project-gtsrb/jobs/gtsrb-")

    def test_a_failed_job(self, gcloud: Double, tmp_path: Path) -> None:
        out = "JOB_STATE_FAILED\tThe replica exited with a non-zero status of 1.\n"
        gcloud.script({"match": "custom-jobs describe", "stdout": out, "code": 0})
        with pytest.raises(CloudError, match=r"step 'train': .*JOB_STATE_FAILED: The replica .*stream-logs 77"):
            train(cloud(), tmp_path)

    def test_no_quota(self, gcloud: Double, tmp_path: Path) -> None:
        gcloud.fails("custom-jobs create", "ERROR: RESOURCE_EXHAUSTED: custom_model_training_nvidia_l4_gpus")
        with pytest.raises(CloudError, match=r"step 'start the training job'.*Ask for quota"):
            train(cloud(), tmp_path)

    def test_no_image(self, gcloud: Double, tmp_path: Path) -> None:
        gcloud.fails("images describe", "ERROR: Image not found.")
        with pytest.raises(CloudError, match=r"expected .*/train:abc, found none"):
            train(cloud(), tmp_path)

    def test_the_job(self) -> None:
        job = yaml.safe_load(job_file(Names(cloud("train.data=gs://b/x.zip")), "gs://b/jobs/1").read_text())
        [pool] = job["workerPoolSpecs"]
        assert pool["machineSpec"] == {
            "machineType": "g2-standard-8",
            "acceleratorType": "NVIDIA_L4",
            "acceleratorCount": 1,
        }
        assert pool["containerSpec"]["args"] == ["--data", "gs://b/x.zip", "data=synthetic"]
        assert job["scheduling"]["timeout"] == "21600s"
        assert "WANDB_API_KEY" not in str(job)

    def test_several_machines_and_no_gpu(self) -> None:
        names = Names(cloud("train.replicas=3", "train.accelerator=null"))
        first, others = yaml.safe_load(job_file(names, "gs://b/jobs/1").read_text())["workerPoolSpecs"]
        assert (first["replicaCount"], others["replicaCount"]) == (1, 2)
        assert first["machineSpec"] == {"machineType": "g2-standard-8"}

    def test_half_a_model_is_refused(self, tmp_path: Path) -> None:
        source = open_storage(str(tmp_path / "job"))
        source.write("best_model.onnx", b"half")
        with pytest.raises(CheckpointError, match="expected a whole model"):
            fetch_model(str(tmp_path / "job"), tmp_path / "latest")
        source.write("SHA256SUMS", b"0" * 64 + b"  best_model.onnx\n")
        with pytest.raises(CheckpointError, match=r"best_model\.onnx with SHA-256 0000"):
            fetch_model(str(tmp_path / "job"), tmp_path / "latest")


class TestTeardown:
    def test_needs_a_word(self, gcloud: Double) -> None:
        with pytest.raises(CloudError, match=r"expected cloud\.teardown\.confirm=my-project"):
            teardown(cloud())
        assert gcloud.calls() == []

    def test_what_bootstrap_made_is_gone_but_the_bucket(self, gcloud: Double) -> None:
        bootstrap(cloud())
        teardown(cloud("teardown.confirm=my-project"))
        left = {kind for kind, _ in gcloud.state()["things"]}
        assert left == {"storage buckets", "billing budgets", "secrets versions"}

    def test_twice_is_fine(self, gcloud: Double) -> None:
        teardown(cloud("teardown.confirm=my-project", "teardown.data=true"))
        assert gcloud.calls()[-1].startswith("storage rm --recursive gs://my-project-gtsrb")


def test_build(gcloud: Double) -> None:
    build(cloud("build.train=true"))
    call = gcloud.calls()[-1]
    assert "_IMAGES=europe-west4-docker.pkg.dev/my-project/gtsrb,_TAG=abc,_TRAIN=true,_DEPLOY=true" in call
    used = set(yaml.safe_load((ROOT / "cloudbuild.yaml").read_text()).get("substitutions", {}))
    assert used == set()  # all of them are given here


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
        "drift.schedule=daily",
        "github=name",
        "budget=0",
        "tag='a b'",
    ],
)
def test_bad_settings(override: str) -> None:
    with pytest.raises(ConfigError, match=f"cloud.{override.split('=')[0]}".replace("serve.min_instances", "serve")):
        cloud(override)


def test_names_stand_once() -> None:
    """A project, region or bucket that another file repeats would be forgotten there when it changes."""
    names = cloud()
    for path in [ROOT / "cloudbuild.yaml", *(ROOT / "cloud").iterdir(), *(ROOT / "src/mlops/cloud").glob("*.py")]:
        text = path.read_text()
        assert names.project not in text, path
        assert names.region not in text, path


def test_steps_are_told(gcloud: Double, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        bootstrap(cloud())
    assert "make the bucket" in caplog.messages


@pytest.mark.parametrize("name", ["bootstrap", "build", "train", "deploy", "teardown"])
def test_command_lines(name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [name, "cloud.dry_run=true"])
    hydra_main(importlib.import_module(f"src.mlops.cloud.{name}").main)
    printed = capfd.readouterr().out.splitlines()
    assert len(printed) > 2
    assert all(line.startswith("gcloud ") for line in printed)
