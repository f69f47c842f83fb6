"""The way from an empty project to a service with a rolled back version, as each account that walks a part of it.

The double of Google Cloud refuses what an account has no permission for, and what is not enabled.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from src.mlops.cloud import jobs as jobs_module
from src.mlops.cloud import load_test as load_test_module
from src.mlops.cloud import promoted as promoted_module
from src.mlops.cloud import smoke_test
from src.mlops.cloud import submit as submit_module
from src.mlops.cloud.bootstrap import SERVICES, bootstrap
from src.mlops.cloud.build import build
from src.mlops.cloud.deploy import deploy
from src.mlops.cloud.load_test import run_load_test
from src.mlops.cloud.monitoring import monitor
from src.mlops.cloud.rollback import rollback
from src.mlops.cloud.submit import train
from src.mlops.cloud.teardown import teardown
from src.mlops.config import CanaryConfig, CloudConfig
from src.mlops.errors import CloudError, MlopsError, ServiceError
from tests.helpers.gcloud_record import Double, robot
from tests.helpers.google_iam import DeniedError, role_of_workflow
from tests.helpers.google_roles import ROLES
from tests.helpers.guarded_storage import GuardedStorage
from tests.helpers.tiny import quick_config

GITHUB = ("github=owner/name", "github_id=11", "github_owner_id=22")
PRINCIPALS = (
    "principalSet://iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/github/attribute.role"
)
LOG = "prediction_log=gs://my-project-gtsrb/prediction_log"
ALWAYS = ("tag=abc", LOG, *GITHUB, "serve.metrics=true", "alert_email=me@example.com")
MODELS = "gs://my-project-gtsrb/gtsrb/models"


@cache
def settings(*overrides: str) -> CloudConfig:
    return quick_config([f"cloud.{override}" for override in (*ALWAYS, *overrides)]).cloud


class Walk:
    """Walks the way with one double."""

    def __init__(self, double: Double, target: Path) -> None:
        self.double, self.target = double, target
        self.model_of_revision: dict[str, str] = {}

    def ask(self, url: str, headers: Mapping[str, str]) -> None:
        """Runs the smoke test against the double."""

        def answer(request: httpx.Request) -> httpx.Response:
            try:
                self.double.ask(url, headers)
            except DeniedError:
                return httpx.Response(403, request=request)
            good = b"no image" not in request.content
            body = {"predicted_class": 3, "probability": 0.5, "model_version": "abc"}
            return httpx.Response(200 if good else 415, json=body, request=request)

        class Client(httpx.Client):
            def __init__(self, **options: Any) -> None:
                super().__init__(transport=httpx.MockTransport(answer), **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(smoke_test.httpx, "Client", Client)
            smoke_test.smoke(url, headers, patience=0)

    def bootstrap(self) -> None:
        self.double.log_in("owner")
        bootstrap(settings())

    def build(self) -> None:
        self.double.log_in("build")
        build(settings())

    def train(self) -> None:
        self.double.log_in("build")
        train(settings("train.action=start", "train.job=one"), self.target)
        if self.double.state()["jobs"][0]["state"] == "JOB_STATE_SUCCEEDED":
            self.double.log_in("train")
            job = GuardedStorage(self.double, "gs://my-project-gtsrb/jobs/gtsrb-one/model")
            job.write("best_model.onnx", b"model")
            job.write("SHA256SUMS", f"{hashlib.sha256(b'model').hexdigest()}  best_model.onnx\n".encode())
        self.double.log_in("build")
        train(settings("train.action=fetch", "train.job=one"), self.target)

    def register(self, version: str) -> None:
        self.double.log_in("build")
        GuardedStorage(self.double, MODELS).write(f"versions/{version}/manifest.json", b"{}")

    def promote(self, stage: str, version: str) -> None:
        self.double.log_in("build")
        content = {"version": version, "manifest_sha256": "0" * 64}
        GuardedStorage(self.double, MODELS).write(f"stages/{stage}.json", json.dumps(content).encode())

    def deploy(self, stage: str, comparison: Callable[..., None] | None = None) -> None:
        self.double.log_in("build")
        deploy(settings(f"serve.stage={stage}"), self.ask, comparison or self.same)

    def same(self, candidate: str, current: str, headers: Mapping[str, str], _: CanaryConfig) -> None:
        self.ask(candidate, headers)
        self.ask(current, headers)

    def worse(self, *_: object) -> None:
        raise ServiceError("The new revision is worse than the current one: 5.0% of its responses are server errors.")

    def load_test(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.double.log_in("build")
        monkeypatch.setattr(load_test_module, "load_test", lambda url, *_, headers: self.ask(url, headers))
        run_load_test(settings("serve.stage=staging"))

    def monitor(self) -> None:
        self.double.log_in("owner")
        monitor(settings())

    def rollback(self) -> None:
        self.double.log_in("build")
        rollback(settings(), self.ask)

    def teardown(self) -> None:
        self.double.log_in("owner")
        teardown(settings("teardown.confirm=my-project", "teardown.data=true"))

    def all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bootstrap()
        self.bootstrap()
        self.build()
        self.train()
        for number in (1, 2, 3):
            version = f"v{number}"
            self.register(version)
            self.promote("staging", version)
            self.deploy("staging")
            self.load_test(monkeypatch)
            self.promote("production", version)
            if number < 3:
                self.deploy("production")
        self.monitor()
        with pytest.raises(CloudError, match=r"5\.0% of its responses are server errors.*Rolled back to gtsrb-r3"):
            self.deploy("production", self.worse)
        self.promote("production", "v1")
        self.rollback()
        self.teardown()


@pytest.fixture
def walk(gcloud: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Walk:
    def open_guarded(url: str) -> GuardedStorage:
        return GuardedStorage(gcloud, url)

    monkeypatch.setattr(submit_module, "open_storage", open_guarded)
    monkeypatch.setattr(jobs_module, "open_storage", open_guarded)
    monkeypatch.setattr(promoted_module, "open_storage", open_guarded)
    monkeypatch.setattr(submit_module, "POLL_SECONDS", 0)
    return Walk(gcloud, tmp_path / "model")


# What the accounts need on the way, one permission each. Without `train` and `serve`, it is the account that is logged
# in; code in a job or a service acts as those two.
NEEDED = {
    "owner": """
        artifactregistry.repositories.create artifactregistry.repositories.delete artifactregistry.repositories.get
        artifactregistry.repositories.getIamPolicy artifactregistry.repositories.setIamPolicy
        artifactregistry.repositories.update billing.budgets.create billing.budgets.list
        iam.googleapis.com/workloadIdentityPoolProviders.create iam.googleapis.com/workloadIdentityPoolProviders.get
        iam.googleapis.com/workloadIdentityPoolProviders.update iam.googleapis.com/workloadIdentityPools.create
        iam.googleapis.com/workloadIdentityPools.get iam.serviceAccounts.actAs iam.serviceAccounts.create
        iam.serviceAccounts.delete iam.serviceAccounts.get iam.serviceAccounts.getIamPolicy
        iam.serviceAccounts.setIamPolicy resourcemanager.projects.get resourcemanager.projects.getIamPolicy
        resourcemanager.projects.setIamPolicy run.services.create run.services.delete run.services.get
        run.services.getIamPolicy run.services.setIamPolicy secretmanager.secrets.create secretmanager.secrets.delete
        secretmanager.secrets.get secretmanager.secrets.getIamPolicy secretmanager.secrets.setIamPolicy
        secretmanager.versions.add secretmanager.versions.get run.jobs.create run.jobs.delete run.jobs.get
        run.jobs.getIamPolicy run.jobs.setIamPolicy cloudscheduler.jobs.create cloudscheduler.jobs.delete
        cloudscheduler.jobs.get cloudscheduler.jobs.update serviceusage.services.enable storage.buckets.create
        storage.buckets.delete storage.buckets.get storage.buckets.getIamPolicy storage.buckets.setIamPolicy
        storage.buckets.update storage.objects.delete storage.objects.list
        logging.logMetrics.create logging.logMetrics.delete logging.logMetrics.list monitoring.alertPolicies.create
        monitoring.alertPolicies.delete monitoring.alertPolicies.list monitoring.dashboards.create
        monitoring.dashboards.delete monitoring.dashboards.list monitoring.notificationChannels.create
        monitoring.notificationChannels.delete monitoring.notificationChannels.list
        monitoring.uptimeCheckConfigs.create monitoring.uptimeCheckConfigs.delete monitoring.uptimeCheckConfigs.list
    """,
    "build": """
        aiplatform.customJobs.create aiplatform.customJobs.list artifactregistry.repositories.uploadArtifacts
        artifactregistry.tags.get artifactregistry.versions.get cloudbuild.builds.create cloudbuild.builds.get
        iam.serviceAccounts.actAs iam.serviceAccounts.getOpenIdToken run.jobs.get run.jobs.update run.revisions.list
        run.routes.invoke run.services.get run.services.update secretmanager.versions.access serviceusage.services.use
        storage.buckets.get storage.objects.create storage.objects.delete storage.objects.get storage.objects.list
    """,
    "train": """
        artifactregistry.repositories.downloadArtifacts logging.logEntries.create secretmanager.versions.access
        storage.objects.create storage.objects.get storage.objects.list
    """,
    "serve": "monitoring.timeSeries.create storage.objects.get",
}
SILENT = ("serve", "monitoring.timeSeries.create")  # the sidecar only logs that it is missing
OFF = {*SERVICES} - {"sts"}  # no command of this repository calls those


def test_the_whole_way(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    walk.all(monkeypatch)
    state = walk.double.state()
    assert {(role, name) for role, name in state["needed"]} == {
        (role, name) for role, names in NEEDED.items() for name in names.split()
    }
    kinds = {kind for kind, _ in state["things"]}
    assert kinds == {"billing budgets", "iam workload-identity-pools", "iam workload-identity-pools providers"}
    assert state["services"] == {}
    assert not any(state["monitoring"].values())


@pytest.mark.parametrize(
    ("role", "permission"),
    [(role, name) for role, names in NEEDED.items() for name in names.split() if (role, name) != SILENT],
)
def test_a_missing_permission(
    walk: Walk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], role: str, permission: str
) -> None:
    walk.double.write({"denied": [role, permission]})
    with pytest.raises(MlopsError) as caught:
        walk.all(monkeypatch)
    message = str(caught.value) + capsys.readouterr().out  # the log of a build is shown while it runs
    assert permission in message
    assert re.search(r"inv gcp\.bootstrap|your access to it", message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("service", sorted(OFF))
def test_a_service_that_is_not_enabled(walk: Walk, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    walk.double.write({"off": service})
    with pytest.raises(CloudError, match=rf"Enable the service {service}\.googleapis\.com with `inv gcp\.bootstrap`"):
        walk.all(monkeypatch)


FOLDERS = {
    "raw": "gtsrb/dvc/data/raw/archives/train.zip",
    "own": "gtsrb/raw/gtsrb.zip",
    "prepared": "gtsrb/data/processed/1/arrays.npz",
    "model": "gtsrb/models/versions/v1/best_model.onnx",
    "job": "jobs/gtsrb-one/model/best_model.pth",
    "log": "prediction_log/images/date=2026-11-28/a.png",
    "other": "gtsrb/database.sqlite",
}
READS = {
    "train": "raw own prepared job",
    "serve": "model log",
    "build": "raw own prepared model job log",
    "measure": "raw own prepared model job",
    "report": "raw own prepared",
}
WRITES = {"train": "prepared job", "serve": "log", "build": "prepared model job", "measure": "", "report": ""}


class TestAccess:
    """Which objects each account can use after a bootstrap."""

    def test_each_account_can_use_its_folders_only(self, walk: Walk) -> None:
        walk.bootstrap()
        for permission, expected in (
            ("storage.objects.get", READS),
            ("storage.objects.create", WRITES),
            ("storage.objects.delete", WRITES),
        ):
            found = {
                role: " ".join(kind for kind, name in FOLDERS.items() if walk.double.may(role, permission, name))
                for role in expected
            }
            assert found == expected, permission
        lists = {
            role: " ".join(
                kind
                for kind, name in FOLDERS.items()
                if walk.double.may(role, "storage.objects.list", f"{name.rpartition('/')[0]}/*")
            )
            for role in READS
        }
        assert lists == READS
        assert not any(walk.double.may(role, "storage.objects.list", "*") for role in READS)

    def test_only_build_can_read_the_uploaded_source(self, walk: Walk) -> None:
        walk.bootstrap()
        policies = walk.double.state()["policies"]
        assert policies["buckets/my-project-gtsrb-builds"] == [
            [f"serviceAccount:{robot('build')}", "roles/storage.admin", None]
        ]

    def test_access_of_earlier_releases_is_removed(self, walk: Walk) -> None:
        walk.bootstrap()
        state = walk.double.state()
        former = [f"serviceAccount:{robot('report')}", "roles/storage.objectViewer", None]
        state["policies"]["buckets/my-project-gtsrb"].append(former)
        walk.double.write(state)
        assert walk.double.may("report", "storage.objects.get", FOLDERS["model"])
        walk.bootstrap()
        assert not walk.double.may("report", "storage.objects.get", FOLDERS["model"])

    def test_no_account_may_change_a_policy_or_create_access_tokens(self, walk: Walk) -> None:
        walk.bootstrap()
        state = walk.double.state()
        granted = {
            (resource, who, permission)
            for resource, bindings in state["policies"].items()
            for who, role, _ in bindings
            for permission in ROLES.get(role, ())
            if permission.endswith(".setIamPolicy") or permission == "iam.serviceAccounts.getAccessToken"
        }
        workflows = {
            (f"serviceAccounts/{robot(role)}", f"{PRINCIPALS}/{role}", "iam.serviceAccounts.getAccessToken")
            for role in ("build", "measure", "report")
        }
        builds = ("buckets/my-project-gtsrb-builds", f"serviceAccount:{robot('build')}", "storage.buckets.setIamPolicy")
        assert granted == workflows | {builds}


DEPLOY = {
    "sub": "repo:owner/name:environment:production",
    "repository_id": "11",
    "repository_owner_id": "22",
    "ref": "refs/heads/main",
    "workflow_ref": "owner/name/.github/workflows/deploy.yaml@refs/heads/main",
    "environment": "production",
}


class TestWorkflows:
    """Which account a workflow can act as."""

    def role(self, walk: Walk, **claims: str | None) -> str | None:
        provider = walk.double.state()["provider"]
        given = {name: value for name, value in (DEPLOY | claims).items() if value is not None}
        return role_of_workflow(provider["attribute-mapping"], provider["attribute-condition"], given)

    def test_roles(self, walk: Walk) -> None:
        walk.bootstrap()
        here = "owner/name/.github/workflows"
        assert self.role(walk) == "build"
        assert self.role(walk, environment="staging") == "build"
        assert self.role(walk, environment="rollback", workflow_ref=f"{here}/rollout.yaml@refs/heads/main") == "build"
        assert self.role(walk, environment="other") == "report"
        assert self.role(walk, environment=None) == "report"
        assert self.role(walk, environment=None, workflow_ref=f"{here}/rollout.yaml@refs/heads/main") == "measure"
        assert self.role(walk, workflow_ref=f"{here}/tests.yaml@refs/heads/main") == "report"
        for file in ("deploy.yaml", "rollout.yaml"):  # a tag can contain another workflow file
            tag = {"ref": "refs/tags/gtsrb@v1.0.0", "workflow_ref": f"{here}/{file}@refs/tags/gtsrb@v1.0.0"}
            assert self.role(walk, **tag) == "report"
        branch = {"ref": "refs/heads/x", "workflow_ref": f"{here}/deploy.yaml@refs/heads/x"}
        assert self.role(walk, **branch) == "report"
        assert self.role(walk, ref="refs/pull/1/merge", workflow_ref=f"{here}/x@refs/pull/1/merge") == "report"
        assert self.role(walk, repository_id="12") is None
        assert self.role(walk, repository_owner_id="23") is None

    def test_a_changed_repository_is_applied(self, walk: Walk) -> None:
        walk.bootstrap()
        bootstrap(settings("github=new/name", "github_id=33"))
        assert self.role(walk) is None
        ref = "new/name/.github/workflows/deploy.yaml@refs/heads/main"
        assert self.role(walk, repository_id="33", workflow_ref=ref) == "build"
        bootstrap(settings("github=null"))
        assert "disabled" in walk.double.state()["provider"]
        bootstrap(settings())
        assert "disabled" not in walk.double.state()["provider"]

    def test_numbers_are_required(self, walk: Walk) -> None:
        with pytest.raises(CloudError, match=r"cloud\.github_id.*gh api repos/owner/name --jq '\.id, \.owner\.id'"):
            bootstrap(settings("github_id=null"))


class TestPublic:
    PUBLIC = ("serve.public=true",)

    def test_keys_come_from_secret_manager(self, walk: Walk) -> None:
        bootstrap(settings(*self.PUBLIC))
        keys = walk.double.state()["secrets"]
        assert len(keys["gtsrb-api-keys"]) > 40
        assert keys["gtsrb-api-keys"] != keys["gtsrb-admin-token"]
        walk.build()
        deploy(settings(*self.PUBLIC), walk.ask, walk.same)
        assert walk.double.traffic() == {"gtsrb-r2": 100}
        walk.double.ask("https://gtsrb", {"X-API-Key": keys["gtsrb-api-keys"]})
        with pytest.raises(DeniedError, match="401"):
            walk.double.ask("https://gtsrb", {})
        assert not any(key in call for key in keys.values() if key != "none" for call in walk.double.calls())
        walk.double.log_in("owner")
        bootstrap(settings(*self.PUBLIC))
        assert walk.double.state()["secrets"] == keys

    def test_a_private_service_stays_closed_until_its_revision_asks_for_keys(
        self, walk: Walk, caplog: pytest.LogCaptureFixture
    ) -> None:
        walk.bootstrap()
        walk.build()
        walk.deploy("production")
        walk.double.log_in("owner")
        bootstrap(settings(*self.PUBLIC))
        assert "gtsrb stays closed, because gtsrb-r2 asks for no API key. Run `inv gcp.deploy`" in caplog.text
        with pytest.raises(DeniedError, match="403"):
            walk.double.ask("https://gtsrb", {})
        walk.double.log_in("build")
        deploy(settings(*self.PUBLIC), walk.ask, walk.same)
        walk.double.log_in("owner")
        bootstrap(settings(*self.PUBLIC))
        with pytest.raises(DeniedError, match="401"):
            walk.double.ask("https://gtsrb", {})
        with pytest.raises(StopIteration):  # the tag of the revision without keys is gone
            walk.double.ask("https://previous---gtsrb", {})
        with pytest.raises(CloudError, match="No deployment to gtsrb came before"):
            rollback(settings(*self.PUBLIC, "serve.model=previous"), walk.ask)

    def test_no_rollback_to_a_revision_without_keys(self, walk: Walk) -> None:
        walk.bootstrap()
        walk.build()
        walk.register("v1")
        walk.promote("production", "v1")
        walk.deploy("production")
        walk.register("v2")
        walk.promote("production", "v2")
        walk.double.log_in("owner")
        bootstrap(settings(*self.PUBLIC))
        walk.double.log_in("build")
        deploy(settings(*self.PUBLIC), walk.ask, walk.same)
        walk.promote("production", "v1")
        with pytest.raises(CloudError, match=r"no revision with models:/gtsrb@v1.*inv gcp\.deploy"):
            rollback(settings(*self.PUBLIC), walk.ask)

    def test_staging_stays_private(self, walk: Walk) -> None:
        bootstrap(settings(*self.PUBLIC))
        walk.build()
        deploy(settings(*self.PUBLIC, "serve.stage=staging"), walk.ask)
        with pytest.raises(DeniedError, match="403"):
            walk.double.ask("https://gtsrb-staging", {})

    def test_the_service_is_closed_again(self, walk: Walk) -> None:
        bootstrap(settings(*self.PUBLIC))
        bootstrap(settings())
        assert not any(who == "allUsers" for who, *_ in walk.double.state()["policies"]["services/gtsrb"])

    @pytest.mark.parametrize("permission", ["secretmanager.versions.access"])
    def test_the_service_may_not_read_its_keys(self, walk: Walk, permission: str) -> None:
        bootstrap(settings(*self.PUBLIC))
        walk.build()
        walk.double.write(walk.double.state() | {"denied": ["serve", permission]})
        with pytest.raises(CloudError, match=r"roles/secretmanager\.secretAccessor.*inv gcp\.bootstrap"):
            deploy(settings(*self.PUBLIC), walk.ask)
        assert walk.double.traffic() == {"gtsrb-placeholder": 100}
