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
from src.mlops.cloud import submit as submit_module
from src.mlops.cloud.bootstrap import bootstrap
from src.mlops.cloud.build import build
from src.mlops.cloud.deploy import deploy
from src.mlops.cloud.drift_job import run_drift_job
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import JOBS, Names
from src.mlops.cloud.submit import fetch_model, job_file, train
from src.mlops.cloud.teardown import teardown
from src.mlops.config import CloudConfig
from src.mlops.errors import CheckpointError, CloudError, ConfigError, ServiceError
from src.mlops.io.storage import open_storage
from tests.helpers.gcloud_record import Double, positions
from tests.helpers.storage_emulator import Cloud
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


LOG = "prediction_log=gs://my-project-gtsrb/prediction_log"


class TestPredictionLog:
    @staticmethod
    def variables(gcloud: Double) -> dict[str, str]:
        [path] = [words[3] for words in gcloud.arguments() if words[:3] == ["run", "services", "replace"]]
        [container] = yaml.safe_load(Path(path).read_text())["spec"]["template"]["spec"]["containers"]
        return {entry["name"]: entry["value"] for entry in container["env"]}

    def test_is_off_by_default(self, gcloud: Double) -> None:
        bootstrap(cloud())
        deploy(cloud(), works)
        assert self.variables(gcloud)["MLOPS_LOG_URL"] == ""
        assert not any("resource.name" in call or "run jobs" in call for call in gcloud.calls())

    def test_is_passed_to_the_service(self, gcloud: Double) -> None:
        deploy(cloud(LOG), works)
        assert self.variables(gcloud)["MLOPS_LOG_URL"] == "gs://my-project-gtsrb/prediction_log"

    def test_the_service_can_write_there_only(self, gcloud: Double) -> None:
        bootstrap(cloud(LOG))
        written = {
            call.partition("serviceAccount:gtsrb-")[2].partition("@")[0]: call.partition("startsWith(")[2].split(")")[0]
            for call in gcloud.calls()
            if "--condition=title" in call and "--role=roles/storage.objectUser" in call
        }
        objects = "projects/_/buckets/my-project-gtsrb/objects/prediction_log"
        assert written == {"serve": f'"{objects}/"', "drift": f'"{objects}/reports/"'}
        # gcloud refuses a binding without a condition if the policy has conditions, unless it is told so.
        for words in gcloud.arguments():
            if words[:3] == ["storage", "buckets", "add-iam-policy-binding"]:
                assert any(word.startswith("--condition=") for word in words)

    def test_old_versions_of_erased_records_are_deleted(self) -> None:
        rules = json.loads((ROOT / "cloud/lifecycle.json").read_text())["rule"]
        [rule] = [rule for rule in rules if rule["condition"].get("matchesPrefix") == ["prediction_log/"]]
        assert (rule["action"]["type"], rule["condition"]["daysSinceNoncurrentTime"]) == ("Delete", 1)
        assert "age" not in rule["condition"]  # current records stay

    @pytest.mark.parametrize(
        "url", ["gs://my-project-gtsrb", "gs://other/prediction_log", "log", "gs://my-project-gtsrb/prediction_log/"]
    )
    def test_another_place_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigError, match="prediction_log must be null, gs://my-project-gtsrb/prediction_log or"):
            cloud(f"prediction_log={url}")


class TestDriftJob:
    def job(self, gcloud: Double) -> dict[str, Any]:
        paths = [words[3] for words in gcloud.arguments() if words[:3] == ["run", "jobs", "replace"]]
        task: dict[str, Any] = yaml.safe_load(Path(paths[-1]).read_text())["spec"]["template"]["spec"]["template"]
        return task["spec"]

    def test_order(self, gcloud: Double) -> None:
        run_drift_job(cloud(LOG))
        order = positions(
            gcloud.calls(),
            "images describe europe-west4-docker.pkg.dev/my-project/gtsrb/drift:abc",
            "run jobs replace",
            "run jobs execute gtsrb-drift --region=europe-west4 --wait",
            "run jobs add-iam-policy-binding gtsrb-drift",
            "scheduler jobs create http gtsrb-drift",
        )
        assert order == sorted(order)
        [schedule] = [words for words in gcloud.arguments() if words[:3] == ["scheduler", "jobs", "create"]]
        assert "--schedule=0 6 * * *" in schedule
        assert any(
            word.endswith("/v2/projects/my-project/locations/europe-west4/jobs/gtsrb-drift:run") for word in schedule
        )

    def test_runs_the_command_with_its_own_account(self, gcloud: Double) -> None:
        run_drift_job(cloud(LOG, "serve.model=models:/gtsrb@production", "drift.window=7d"))
        job = self.job(gcloud)
        assert job["serviceAccountName"] == "gtsrb-drift@my-project.iam.gserviceaccount.com"
        [container] = job["containers"]
        log = "gs://my-project-gtsrb/prediction_log"
        model = "--model=models:/gtsrb@production"
        assert container["args"] == [f"--log={log}", model, "--window=7d", f"--out={log}/reports"]
        assert container["command"] == ["python", "-m", "src.mlops.monitoring.drift"]

    def test_a_second_run_updates_the_schedule(self, gcloud: Double) -> None:
        run_drift_job(cloud(LOG))
        run_drift_job(cloud(LOG, "drift.schedule=0 7 * * *"))
        assert "scheduler jobs update http gtsrb-drift" in gcloud.calls()[-1]
        run_drift_job(cloud(LOG, "drift.schedule=null"))
        assert "scheduler jobs delete gtsrb-drift" in gcloud.calls()[-1]

    def test_a_failed_job(self, gcloud: Double) -> None:
        gcloud.fails("jobs execute", "ERROR: (gcloud.run.jobs.execute) The execution failed.")
        with pytest.raises(CloudError, match="'run the drift job' failed"):
            run_drift_job(cloud(LOG))

    def test_without_a_log(self, gcloud: Double) -> None:
        with pytest.raises(
            CloudError, match=r"cloud\.prediction_log is null\. Set it to gs://my-project-gtsrb/prediction"
        ):
            run_drift_job(cloud())
        assert not (gcloud.folder / "calls.jsonl").exists()

    def test_a_deployment_updates_the_job(self, gcloud: Double) -> None:
        deploy(cloud(LOG), works)
        assert self.job(gcloud)["containers"][0]["image"].endswith("/gtsrb/drift:abc")
        assert not any("jobs execute" in call for call in gcloud.calls())

    def test_no_image(self, gcloud: Double) -> None:
        gcloud.fails("images describe .*/drift:", "ERROR: Image not found.")
        with pytest.raises(CloudError, match=r"/gtsrb/drift:abc.*inv gcp\.build"):
            deploy(cloud(LOG), works)
        assert not any("replace" in call for call in gcloud.calls())

    def test_dry_run(self, gcloud: Double, capsys: pytest.CaptureFixture[str]) -> None:
        run_drift_job(cloud(LOG, "dry_run=true"))
        printed = capsys.readouterr().out.splitlines()
        assert sum("run jobs" in line or "scheduler jobs" in line for line in printed) == 4
        assert gcloud.calls() == []


class TestTrain:
    @pytest.fixture(autouse=True)
    def _no_polling(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(submit_module, "POLL_SECONDS", 0)

    def test_waits_and_fetches(self, gcloud: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fetched: list[str] = []
        monkeypatch.setattr(submit_module, "fetch_model", lambda url, _: fetched.append(url))
        gcloud.script({"match": "custom-jobs describe", "stdout": "JOB_STATE_RUNNING\t\n", "code": 0, "times": 3})
        train(cloud(), tmp_path)
        assert sum("custom-jobs describe 77" in call for call in gcloud.calls()) == 4
        assert fetched[0].startswith("gs://my-project-gtsrb/jobs/gtsrb-")

    def test_the_model_of_a_successful_job_is_fetched_without_a_new_job(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = quick_config(["cloud.tag=abc", "cloud.train.job=run-7"]).cloud
        fetched: list[str] = []
        monkeypatch.setattr(submit_module, "fetch_model", lambda url, _: fetched.append(url))
        train(settings, tmp_path)
        assert any("custom-jobs create" in call and "--display-name=gtsrb-run-7" in call for call in gcloud.calls())
        gcloud.forget()
        cloud.put("jobs/gtsrb-run-7/model/SHA256SUMS", b"complete")
        train(settings, tmp_path)
        assert gcloud.calls() == []
        assert fetched == ["gs://my-project-gtsrb/jobs/gtsrb-run-7/model"] * 2

    def test_a_failed_job(self, gcloud: Double, tmp_path: Path) -> None:
        out = "JOB_STATE_FAILED\tThe replica exited with a non-zero status of 1.\n"
        gcloud.script({"match": "custom-jobs describe", "stdout": out, "code": 0})
        with pytest.raises(CloudError, match=r"'train'.*JOB_STATE_FAILED.*The replica .*stream-logs 77"):
            train(cloud(), tmp_path)

    def test_no_quota(self, gcloud: Double, tmp_path: Path) -> None:
        gcloud.fails("custom-jobs create", "ERROR: RESOURCE_EXHAUSTED: custom_model_training_nvidia_l4_gpus")
        with pytest.raises(CloudError, match=r"'start the training job'.*RESOURCE_EXHAUSTED.*quota"):
            train(cloud(), tmp_path)

    def test_no_image(self, gcloud: Double, tmp_path: Path) -> None:
        gcloud.fails("images describe", "ERROR: Image not found.")
        with pytest.raises(CloudError, match=r"/train:abc.*inv gcp\.build"):
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

    def test_an_incomplete_model_is_rejected(self, tmp_path: Path) -> None:
        source = open_storage(str(tmp_path / "job"))
        source.write("best_model.onnx", b"half")
        with pytest.raises(CheckpointError, match=r"job.*SHA256SUMS"):
            fetch_model(str(tmp_path / "job"), tmp_path / "latest")
        source.write("SHA256SUMS", b"0" * 64 + b"  best_model.onnx\n")
        with pytest.raises(CheckpointError, match=r"best_model\.onnx .*SHA-256 .*0000"):
            fetch_model(str(tmp_path / "job"), tmp_path / "latest")


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
            assert set(rule["condition"]["matchesPrefix"]) <= {
                f"{JOBS}/",
                "builds/",
                "gtsrb/data/processed/",
                "prediction_log/",
            }


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
