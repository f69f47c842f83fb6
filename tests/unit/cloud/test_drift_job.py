"""The prediction log of the service, and the job in Cloud Run that reports drift."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.cloud import promoted as promoted_module
from src.mlops.cloud.bootstrap import bootstrap
from src.mlops.cloud.deploy import deploy
from src.mlops.cloud.drift_job import run_drift_job
from src.mlops.config import CloudConfig
from src.mlops.errors import CloudError, ConfigError
from src.mlops.io.storage import Folder
from tests.helpers.gcloud_record import Double, positions
from tests.helpers.tiny import quick_config

LOG = "prediction_log=gs://my-project-gtsrb/prediction_log"


@cache
def cloud(*overrides: str) -> CloudConfig:
    return quick_config([f"cloud.{override}" for override in ("tag=abc", *overrides)]).cloud


def works(*_: object) -> None:
    """A smoke test that succeeds, and a comparison that finds no difference."""


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(promoted_module, "open_storage", lambda _: Folder(tmp_path / "store"))


class TestPredictionLog:
    @staticmethod
    def variables(gcloud: Double) -> dict[str, str]:
        path = [words[3] for words in gcloud.arguments() if words[:3] == ["run", "services", "replace"]][-1]
        [container] = yaml.safe_load(Path(path).read_text())["spec"]["template"]["spec"]["containers"]
        return {entry["name"]: entry["value"] for entry in container["env"]}

    def test_is_off_by_default(self, ready: Double) -> None:
        deploy(cloud(), works)
        assert self.variables(ready)["MLOPS_LOG_URL"] == ""
        assert not any("run jobs" in call for call in ready.calls())

    def test_is_passed_to_the_service(self, ready: Double) -> None:
        deploy(cloud(LOG), works)
        assert self.variables(ready)["MLOPS_LOG_URL"] == "gs://my-project-gtsrb/prediction_log"

    def test_staging_records_nothing(self, ready: Double) -> None:
        deploy(cloud(LOG, "serve.stage=staging"), works)
        assert self.variables(ready)["MLOPS_LOG_URL"] == ""

    def test_the_service_can_write_there_only(self, ready: Double) -> None:
        may = {
            f"{role} {name}": ready.may(role, "storage.objects.create", f"prediction_log/{name}")
            for role in ("serve", "drift", "build", "train", "measure", "report")
            for name in ("2026/1.jsonl", "reports/drift.html")
        }
        assert [name for name, allowed in may.items() if allowed] == [
            "serve 2026/1.jsonl",
            "serve reports/drift.html",
            "drift reports/drift.html",
        ]
        assert ready.may("drift", "storage.objects.list", "prediction_log/2026/*")
        assert ready.may("drift", "storage.objects.get", "gtsrb/models/versions/v1/best_model.onnx")
        assert not ready.may("report", "storage.objects.get", "prediction_log/2026/1.jsonl")

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


class TestSchedule:
    """Set by the bootstrap, because the account that deploys may not set policies."""

    def test_order(self, gcloud: Double) -> None:
        bootstrap(cloud(LOG))
        order = positions(
            gcloud.calls(),
            "run jobs replace",
            "run jobs add-iam-policy-binding gtsrb-drift",
            "scheduler jobs create http gtsrb-drift",
        )
        assert order == sorted(order)
        [schedule] = [words for words in gcloud.arguments() if words[:3] == ["scheduler", "jobs", "create"]]
        assert "--schedule=0 6 * * *" in schedule
        assert any(
            word.endswith("/v2/projects/my-project/locations/europe-west4/jobs/gtsrb-drift:run") for word in schedule
        )

    def test_a_second_run_updates_the_schedule_and_keeps_the_job(self, ready: Double) -> None:
        bootstrap(cloud(LOG, "drift.schedule=0 7 * * *"))
        assert any("scheduler jobs update http gtsrb-drift" in call for call in ready.calls())
        assert not any("run jobs replace" in call for call in ready.calls())
        bootstrap(cloud(LOG, "drift.schedule=null"))
        assert any("scheduler jobs delete gtsrb-drift" in call for call in ready.calls())

    def test_there_is_none_without_a_log(self, gcloud: Double) -> None:
        bootstrap(cloud())
        assert not any("run jobs" in call or "scheduler jobs create" in call for call in gcloud.calls())


class TestDriftJob:
    def job(self, gcloud: Double) -> dict[str, Any]:
        paths = [words[3] for words in gcloud.arguments() if words[:3] == ["run", "jobs", "replace"]]
        task: dict[str, Any] = yaml.safe_load(Path(paths[-1]).read_text())["spec"]["template"]["spec"]["template"]
        return task["spec"]

    def test_the_account_that_deploys_can_run_it(self, ready: Double) -> None:
        ready.log_in("build")
        run_drift_job(cloud(LOG))
        order = positions(
            ready.calls(),
            "images describe europe-west4-docker.pkg.dev/my-project/gtsrb/drift:abc",
            "run jobs replace",
            "run jobs execute gtsrb-drift --region=europe-west4 --wait",
        )
        assert order == sorted(order)

    def test_runs_the_command_with_its_own_account(self, ready: Double) -> None:
        run_drift_job(cloud(LOG, "serve.model=models:/gtsrb@v3", "drift.window=7d"))
        job = self.job(ready)
        assert job["serviceAccountName"] == "gtsrb-drift@my-project.iam.gserviceaccount.com"
        [container] = job["containers"]
        log = "gs://my-project-gtsrb/prediction_log"
        model = "--model=models:/gtsrb@v3"
        assert container["args"] == [f"--log={log}", model, "--window=7d", f"--out={log}/reports"]
        assert container["command"] == ["python", "-m", "src.mlops.monitoring.drift"]

    def test_a_failed_job(self, ready: Double) -> None:
        ready.fails("jobs execute", "ERROR: (gcloud.run.jobs.execute) The execution failed.")
        with pytest.raises(CloudError, match="'run the drift job' failed"):
            run_drift_job(cloud(LOG))

    def test_without_a_log(self, gcloud: Double) -> None:
        with pytest.raises(
            CloudError, match=r"cloud\.prediction_log is null\. Set it to gs://my-project-gtsrb/prediction"
        ):
            run_drift_job(cloud())
        assert not (gcloud.folder / "calls.jsonl").exists()

    def test_a_deployment_updates_the_job(self, ready: Double) -> None:
        deploy(cloud(LOG), works)
        assert self.job(ready)["containers"][0]["image"].endswith("/gtsrb/drift@sha256:drift")
        assert not any("jobs execute" in call for call in ready.calls())

    def test_no_image(self, ready: Double) -> None:
        ready.fails("images describe .*/drift:", "ERROR: Image not found.")
        with pytest.raises(CloudError, match=r"/gtsrb/drift:abc.*inv gcp\.build"):
            deploy(cloud(LOG), works)
        assert not any("replace" in call for call in ready.calls())

    def test_dry_run(self, gcloud: Double, capsys: pytest.CaptureFixture[str]) -> None:
        run_drift_job(cloud(LOG, "dry_run=true"))
        printed = capsys.readouterr().out.splitlines()
        assert sum("run jobs" in line for line in printed) == 2
        assert gcloud.calls() == []
