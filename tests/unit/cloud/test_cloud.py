"""Google Cloud without an account: order, arguments, repetition, errors, rolling back."""

import ast
import importlib
import json
import logging
import re
import shlex
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.cloud import train as train_module
from src.mlops.cloud.bootstrap import bootstrap
from src.mlops.cloud.build import build
from src.mlops.cloud.deploy import deploy
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import JOBS, Names
from src.mlops.cloud.teardown import teardown
from src.mlops.cloud.train import fetch_model, job_file, train
from src.mlops.config import CloudConfig, hydra_main, load_config
from src.mlops.errors import CheckpointError, CloudError, ConfigError, ServiceError
from src.mlops.storage import open_storage
from tests.emulator import Cloud
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
        [pool] = [words for words in gcloud.arguments() if "create-oidc" in words]
        assert "--attribute-condition=assertion.repository=='owner/name'" in pool
        trusted = "assertion.ref=='refs/heads/main' || assertion.ref.startsWith('refs/tags/gtsrb')"
        assert f"--attribute-mapping=google.subject=assertion.sub,attribute.role={trusted} ? 'build' : 'report'" in pool
        strangers = [call for call in calls if "principalSet" in call]
        assert [("gtsrb-build@" in call, "attribute.role/build" in call) for call in strangers] == [
            (True, True),
            (False, False),
        ]

    def test_who_only_reads_cannot_write(self, gcloud: Double) -> None:
        bootstrap(cloud("github=owner/name"))
        member = "--member=serviceAccount:gtsrb-report@my-project.iam.gserviceaccount.com"
        given = [words[words.index(member) + 1] for words in gcloud.arguments() if member in words]
        assert given == ["--role=roles/storage.objectViewer"]

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

    def test_a_real_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if sys.platform == "win32":
            pytest.skip("it is a Unix program")
        (tmp_path / "gcloud").write_text(
            '#!/bin/sh\necho "$@"\ncat\ntest "$1" != bad || { echo ERROR: no >&2; exit 1; }\n'
        )
        (tmp_path / "gcloud").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        gcloud = Gcloud(cloud())
        assert gcloud.run("step", "good", "a b", stdin="hidden") == "good a b --project=my-project\nhidden"
        with pytest.raises(CloudError, match="step 'step': expected it to succeed, found: ERROR: no"):
            gcloud.run("step", "bad")

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

    def test_an_account_of_a_service_makes_itself_a_token(self, gcloud: Double) -> None:
        account = "gtsrb-build@my-project.iam.gserviceaccount.com"
        gcloud.script({"match": "auth list", "stdout": f"{account}\n", "code": 0})
        deploy(cloud(), works)
        [call] = [call for call in gcloud.calls() if "print-identity-token" in call]
        assert call.endswith(f"--impersonate-service-account={account} --audiences=https://service")

    def test_names_of_models_are_looked_up_in_the_bucket(self, gcloud: Double) -> None:
        deploy(cloud("serve.model=models:/gtsrb@production"), works)
        [path] = [words[3] for words in gcloud.arguments() if words[:3] == ["run", "services", "replace"]]
        [container] = yaml.safe_load(Path(path).read_text())["spec"]["template"]["spec"]["containers"]
        told = {entry["name"]: entry["value"] for entry in container["env"]}
        assert told["MLOPS_MODEL"] == "models:/gtsrb@production"
        assert told["MLOPS_MODEL_STORE"] == "gs://my-project-gtsrb/gtsrb/models"

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

    def test_a_named_job_that_ended_well_is_only_fetched(
        self, gcloud: Double, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = load_config(["cloud.tag=abc", "cloud.train.job=run-7"]).cloud
        fetched: list[str] = []
        monkeypatch.setattr(train_module, "fetch_model", lambda url, _: fetched.append(url))
        train(settings, tmp_path)
        assert any("custom-jobs create" in call and "--display-name=gtsrb-run-7" in call for call in gcloud.calls())
        gcloud.forget()
        cloud.put("jobs/gtsrb-run-7/model/SHA256SUMS", b"whole")
        train(settings, tmp_path)
        assert gcloud.calls() == []
        assert fetched == ["gs://my-project-gtsrb/jobs/gtsrb-run-7/model"] * 2

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
    settings = cloud(
        "build.train=true", "train.options=['data=gcs','training.size_schedule=[[1,2]]']", "serve.memory=2Gi"
    )
    build(settings)
    [words] = [word for word in gcloud.arguments()[-1] if word.startswith("--substitutions=^|^")]
    given = dict(entry.split("=", 1) for entry in words.removeprefix("--substitutions=^|^").split("|"))
    assert given["_IMAGES"] == "europe-west4-docker.pkg.dev/my-project/gtsrb"
    assert (given["_TAG"], given["_TRAIN"], given["_DEPLOY"]) == ("abc", "true", "true")
    # A command of the build that is given these options sees the same settings.
    there = load_config(shlex.split(given["_OPTIONS"])).cloud
    assert there == settings.model_copy(update={"build": load_config().cloud.build})
    text = (ROOT / "cloudbuild.yaml").read_text()
    assert set(re.findall(r"(?<!\$)\$(_[A-Z]+)", text)) == set(given)  # each is given, none is given in vain


def test_the_group_cloud_has_what_its_commands_import() -> None:
    """Cloud Build installs that group only, so that nothing of the training stack is fetched there."""
    program = (
        "import sys, src.mlops.cloud.build, src.mlops.cloud.train, src.mlops.cloud.deploy\n"
        "print(*(m.__file__ for n, m in list(sys.modules.items()) if n.startswith('src.') and m.__file__), sep='\\n')"
    )
    options = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
    own = subprocess.run([sys.executable, "-c", program], **options).stdout.split()  # type: ignore[call-overload]
    groups = ["--no-default-groups", "--group=cloud", "--group=gcs", "--no-hashes", "--frozen", "--offline", "--quiet"]
    exported = subprocess.run(["uv", "export", *groups], **options).stdout  # type: ignore[call-overload]
    installed = set(re.findall(r"^[\w.-]+", exported, flags=re.MULTILINE))
    packages = packages_distributions()
    for path in own:
        for node in ast.parse(Path(path).read_text()).body:
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in (str(name).partition(".")[0] for name in names):
                known = {package.lower().replace("_", "-") for package in packages.get(name, [])}
                assert name == "src" or name in sys.stdlib_module_names or known & installed, f"{path} imports {name}"


def test_old_versions_that_something_points_to_are_kept() -> None:
    """DVC and the registry name what lies in the bucket, old versions of archives too."""
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
