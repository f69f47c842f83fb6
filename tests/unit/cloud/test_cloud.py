"""Google Cloud without an account: order and arguments of commands, retries, errors, rollback."""

import json
import logging
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.cloud import promoted as promoted_module
from src.mlops.cloud.bootstrap import bootstrap
from src.mlops.cloud.build import build
from src.mlops.cloud.deploy import deploy
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.names import JOBS
from src.mlops.cloud.rollback import rollback
from src.mlops.cloud.teardown import teardown
from src.mlops.config import CloudConfig
from src.mlops.errors import CloudError, ConfigError, ServiceError, UnreachableError
from src.mlops.io.git import git
from src.mlops.io.storage import Folder
from tests.helpers.gcloud_record import Double, positions, robot
from tests.helpers.tiny import quick_config


@cache
def cloud(*overrides: str) -> CloudConfig:
    return quick_config([f"cloud.{override}" for override in ("tag=abc", *overrides)]).cloud


IMAGES = "europe-west4-docker.pkg.dev/my-project/gtsrb"
OWN = "gs://my-project-gtsrb/gtsrb/raw/x.zip"
GITHUB = ("github=owner/name", "github_id=11", "github_owner_id=22")


def works(*_: object) -> None:
    """A smoke test that succeeds, and a comparison that finds no difference."""


def never(*_: object) -> None:
    raise AssertionError("there is nothing to compare with")


def fails(bad: str) -> Callable[[str, object], None]:
    """Returns a smoke test that fails at one address."""

    def ask(url: str, _: object) -> None:
        if url == bad:
            raise ServiceError("The answer is 500.")

    return ask


class TestBootstrap:
    def test_order(self, gcloud: Double) -> None:
        bootstrap(cloud(*GITHUB))
        calls = gcloud.calls()
        order = positions(
            calls,
            "auth list",
            "services enable",
            "service-accounts create gtsrb-train",
            "buckets create gs://my-project-gtsrb --location=europe-west4 --uniform-bucket-level-access",
            "--versioning --lifecycle-file=",
            "buckets create gs://my-project-gtsrb-builds",
            "repositories create gtsrb",
            "--immutable-tags",
            "set-cleanup-policies",
            "secrets create wandb-api-key",
            "projects add-iam-policy-binding",
            "run services replace",
            "create-oidc",
            "budgets create",
        )
        assert order == sorted(order)
        assert all("--project=my-project" in call for call in calls[1:])

    @pytest.mark.parametrize("service", ["cloudresourcemanager", "iam", "sts", "monitoring"])
    def test_all_services_are_enabled(self, gcloud: Double, service: str) -> None:
        bootstrap(cloud())
        assert service in gcloud.state()["enabled"]

    def test_a_login_needs_no_resource_manager(self, gcloud: Double) -> None:
        gcloud.fails("projects describe", "ERROR: PERMISSION_DENIED")
        Gcloud(cloud()).login()

    def test_a_service_that_was_enabled_just_now_is_retried(self, gcloud: Double) -> None:
        said = "ERROR: HTTPError 403: Run API has not been used. If you enabled this API recently, wait a few minutes."
        gcloud.fails("run services describe", said, times=0)
        gcloud.fails("run services replace", said, times=3)
        bootstrap(cloud())
        assert "gtsrb" in gcloud.state()["services"]

    def test_a_second_run_changes_nothing(self, gcloud: Double) -> None:
        bootstrap(cloud(*GITHUB))
        before = gcloud.state()
        gcloud.forget()
        bootstrap(cloud(*GITHUB))
        assert [call for call in gcloud.calls() if " create" in call or " add " in call or " replace " in call] == []
        assert gcloud.state() | {"needed": []} == before | {"needed": []}

    def test_no_account_is_an_owner_or_editor(self, gcloud: Double) -> None:
        bootstrap(cloud())
        project = gcloud.state()["policies"]["project"]
        assert project
        assert not {role for _, role, _ in project} & {"roles/owner", "roles/editor", "roles/storage.admin"}

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
        said = "ERROR: HTTPError 409: Your previous request to create it succeeded"
        gcloud.script({"match": "buckets create", "stderr": said, "acts": True})
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
                "services enable",
                "ERROR: [me] does not have permission to access projects instance [my-project] (or it may not exist): "
                "PERMISSION_DENIED",
                "'enable the services'",
                "Check that the project my-project exists",
            ),
            (
                "services enable",
                "ERROR: FAILED_PRECONDITION: Billing account for project '1' is not found.",
                "'enable the services'",
                "gcloud billing projects link my-project",
            ),
            (
                "buckets create",
                "ERROR: HTTPError 403: me does not have storage.buckets.create access; Permission denied",
                "'create the bucket gs://my-project-gtsrb'",
                "me@example.com has the permission storage.buckets.create",
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


def container(gcloud: Double) -> dict[str, Any]:
    """Returns the container in the last file that was sent to Cloud Run."""
    [found] = sent(gcloud)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def sent(gcloud: Double) -> dict[str, Any]:
    """Returns the last file that was sent to Cloud Run."""
    path = [words[3] for words in gcloud.arguments() if words[:3] == ["run", "services", "replace"]][-1]
    return dict(yaml.safe_load(Path(path).read_text()))


@pytest.mark.usefixtures("ready")
class TestDeploy:
    @pytest.fixture(autouse=True)
    def _registry(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.store = Folder(tmp_path / "store")
        monkeypatch.setattr(promoted_module, "open_storage", lambda _: self.store)

    def promote(self, version: str) -> None:
        record = {"version": version, "manifest_sha256": "0" * 64}
        self.store.write("stages/production.json", json.dumps(record).encode())

    def test_the_first_deployment(self, gcloud: Double) -> None:
        asked = []
        deploy(cloud(), lambda url, headers: asked.append((url, headers)), never)
        token = {"Authorization": "Bearer id-token-of-me"}
        assert asked == [("https://candidate---gtsrb", token), ("https://gtsrb", token)]
        assert gcloud.traffic() == {"gtsrb-r2": 100}
        assert container(gcloud)["image"] == f"{IMAGES}/api@sha256:api"

    def test_a_first_deployment_that_fails_gets_no_traffic(self, gcloud: Double) -> None:
        with pytest.raises(CloudError, match=r"The answer is 500\. Rolled back to gtsrb-placeholder"):
            deploy(cloud(), fails("https://gtsrb"), never)
        assert gcloud.traffic() == {"gtsrb-placeholder": 100}

    def test_a_service_account_creates_a_token_for_itself(self, gcloud: Double) -> None:
        gcloud.log_in("build")
        deploy(cloud(), gcloud.ask, never)
        assert not any("print-identity-token" in call for call in gcloud.calls())
        assert ["build", "iam.serviceAccounts.getAccessToken"] not in gcloud.state()["needed"]

    def test_gcloud_would_need_an_access_token(self, gcloud: Double) -> None:
        """The reason why gcloud is not asked for the token of a service account."""
        gcloud.log_in("build")
        words = ("auth", "print-identity-token", f"--impersonate-service-account={robot('build')}", "--audiences=x")
        with pytest.raises(CloudError, match="getAccessToken"):
            Gcloud(cloud()).run("get a token", *words, project=False)

    def test_nothing_was_ever_promoted(self, gcloud: Double) -> None:
        deploy(cloud(), works, never)
        assert {"name": "MLOPS_MODEL", "value": "models/pretrained/signnet.onnx"} in container(gcloud)["env"]

    def test_the_promoted_version_is_the_default(self, gcloud: Double) -> None:
        self.promote("v3")
        deploy(cloud(), works, never)
        variables = {entry["name"]: entry["value"] for entry in container(gcloud)["env"]}
        assert variables["MLOPS_MODEL"] == "models:/gtsrb@v3"
        assert variables["MLOPS_MODEL_STORE"] == "gs://my-project-gtsrb/gtsrb/models"
        deploy(cloud("serve.stage=staging"), works, never)
        assert {"name": "MLOPS_MODEL", "value": "models/pretrained/signnet.onnx"} in container(gcloud)["env"]

    def test_an_unreachable_registry_deploys_nothing(self, gcloud: Double, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreachable(_: str) -> Any:
            raise UnreachableError("Cannot access gs://b: 503.")

        monkeypatch.setattr(promoted_module, "open_storage", unreachable)
        with pytest.raises(CloudError, match=r"'find the model in production'.*Cannot access gs://b: 503"):
            deploy(cloud(), works)
        assert not any("replace" in call for call in gcloud.calls())

    def test_a_revision_gets_traffic_after_the_smoke_test(self, gcloud: Double) -> None:
        deploy(cloud(), works, never)
        seen: list[Any] = []

        def compared(*urls: object) -> None:
            seen.append((*urls[:2], gcloud.traffic()))

        deploy(cloud(), lambda url, _: seen.append((url, gcloud.traffic())), compared)
        assert seen == [
            ("https://candidate---gtsrb", {"gtsrb-r2": 100}),
            ("https://candidate---gtsrb", "https://current---gtsrb", {"gtsrb-r2": 90, "gtsrb-r3": 10}),
            ("https://gtsrb", {"gtsrb-r3": 100}),
        ]
        assert gcloud.state()["services"]["gtsrb"]["status"]["traffic"][1:] == [
            {"revisionName": "gtsrb-r2", "tag": "previous", "url": "https://previous---gtsrb"}
        ]

    def test_a_revision_without_traffic_keeps_no_instances(self, gcloud: Double) -> None:
        """A minimum in the template holds for each revision that has a tag, so the previous one would be paid, too."""
        deploy(cloud("serve.min_instances=1"), works, never)
        service = sent(gcloud)
        assert service["metadata"]["annotations"]["run.googleapis.com/minScale"] == "1"
        assert not any("minScale" in name for name in service["spec"]["template"]["metadata"]["annotations"])

    def test_no_canary_in_staging_or_without_a_share(self, gcloud: Double) -> None:
        for override in ("serve.stage=staging", "canary.share=0"):
            deploy(cloud(override), works, never)
            deploy(cloud(override), works, never)
        assert gcloud.traffic("gtsrb-staging") == {"gtsrb-staging-r3": 100}

    def test_a_worse_revision_loses_its_traffic(self, gcloud: Double) -> None:
        deploy(cloud(), works, never)
        deploy(cloud(), works, works)

        def worse(*_: object) -> None:
            raise ServiceError("The new revision is worse.")

        with pytest.raises(CloudError, match=r"'compare the .*'.*The new revision is worse\. Rolled back to gtsrb-r3"):
            deploy(cloud(), works, worse)
        assert gcloud.traffic() == {"gtsrb-r3": 100}
        tags = [entry.get("tag") for entry in gcloud.state()["services"]["gtsrb"]["status"]["traffic"]]
        assert tags == [None, "previous"]  # still a revision to return to

    @pytest.mark.parametrize("bad", ["https://candidate---gtsrb", "https://gtsrb"])
    def test_a_failed_smoke_test_rolls_back(self, gcloud: Double, bad: str) -> None:
        deploy(cloud(), works, never)
        with pytest.raises(CloudError, match=r"'test the .*'.*The answer is 500\. .*gtsrb-r2\b"):
            deploy(cloud(), fails(bad), works)
        assert gcloud.traffic() == {"gtsrb-r2": 100}
        assert "update-traffic gtsrb --region=europe-west4 --to-revisions=gtsrb-r2=100" in gcloud.calls()[-1]

    def test_a_revision_that_does_not_start_gets_no_traffic(self, gcloud: Double) -> None:
        deploy(cloud(), works, never)
        gcloud.fails("services replace", "ERROR: Revision r2 is not ready and cannot serve traffic.")
        with pytest.raises(CloudError, match=r"'start the new revision'.*r2 is not ready"):
            deploy(cloud(), works)
        assert gcloud.traffic() == {"gtsrb-r2": 100}

    def test_a_failed_traffic_update_is_rolled_back(self, gcloud: Double) -> None:
        deploy(cloud(), works, never)
        gcloud.fails("--to-revisions=gtsrb-r3", "ERROR: PERMISSION_DENIED")
        with pytest.raises(CloudError, match=r"'move the traffic to the new revision'.*PERMISSION_DENIED.*gtsrb-r2\b"):
            deploy(cloud(), works, works)

    def test_the_previous_revision_is_only_for_rollbacks(self, gcloud: Double) -> None:
        with pytest.raises(CloudError, match=r"cloud\.serve\.model=previous is only for `inv gcp\.rollback`"):
            deploy(cloud("serve.model=previous"), works)
        assert not any("replace" in call for call in gcloud.calls())

    def test_no_image(self, gcloud: Double) -> None:
        with pytest.raises(CloudError, match=r"'find the container image'.*/gtsrb/api:other.*inv gcp\.build"):
            deploy(cloud("tag=other"), works)
        assert not any("replace" in call for call in gcloud.calls())

    def test_the_newest_image(self, gcloud: Double) -> None:
        state = gcloud.state()
        with pytest.raises(CloudError, match=r"a container image of a commit in .*/gtsrb/api does not exist"):
            deploy(cloud("tag=newest"), works, never)
        state["images"][f"{IMAGES}/api:0123456789ab"] = "sha256:newest"
        state["images"][f"{IMAGES}/api:trial-1"] = "sha256:trial"  # may have uncommitted changes
        gcloud.write(state)
        deploy(cloud("tag=newest"), works, never)
        assert container(gcloud)["image"] == f"{IMAGES}/api@sha256:newest"


class TestRollback:
    """r2, r3 and r4 serve v1, v2 and v3."""

    @pytest.fixture(autouse=True)
    def _deployed(self, ready: Double, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.store = Folder(tmp_path / "store")
        monkeypatch.setattr(promoted_module, "open_storage", lambda _: self.store)
        for version in ("v1", "v2", "v3"):
            self.promote(version)
            deploy(cloud(), works, works)
        ready.forget()

    def promote(self, version: str) -> None:
        record = {"version": version, "manifest_sha256": "0" * 64}
        self.store.write("stages/production.json", json.dumps(record).encode())

    def test_the_version_that_the_registry_returned_to(self, gcloud: Double) -> None:
        asked: list[dict[str, int]] = []
        self.promote("v2")
        rollback(cloud(), lambda *_: asked.append(gcloud.traffic()))
        assert asked == [{"gtsrb-r3": 100}]  # the test comes after the traffic moved
        self.promote("v1")
        rollback(cloud(), works)
        assert gcloud.traffic() == {"gtsrb-r2": 100}
        self.promote("v3")
        rollback(cloud(), works)
        assert gcloud.traffic() == {"gtsrb-r4": 100}
        assert not any("replace" in call or "images" in call for call in gcloud.calls())

    def test_a_second_rollback_changes_nothing(self, gcloud: Double) -> None:
        self.promote("v2")
        for _ in range(2):
            rollback(cloud(), works)
        assert gcloud.traffic() == {"gtsrb-r3": 100}

    def test_a_version_whose_deployment_failed(self, gcloud: Double) -> None:
        """The service never left v3, so it must not return to v2."""
        self.promote("v4")
        with pytest.raises(CloudError, match="Rolled back to gtsrb-r4"):
            deploy(cloud(), works, lambda *_: fails("x")("x", None))
        self.promote("v3")
        rollback(cloud(), works)
        assert gcloud.traffic() == {"gtsrb-r4": 100}

    def test_during_a_comparison(self, gcloud: Double) -> None:
        """The deployment was killed while the new revision got a part of the traffic."""

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        self.promote("v4")
        with pytest.raises(KeyboardInterrupt):
            deploy(cloud(), works, killed)
        assert gcloud.traffic() == {"gtsrb-r4": 90, "gtsrb-r5": 10}
        self.promote("v3")
        rollback(cloud(), works)
        assert gcloud.traffic() == {"gtsrb-r4": 100}

    @pytest.mark.parametrize("finds", [works, fails("https://candidate---gtsrb")])
    def test_a_deployment_does_not_undo_it(self, gcloud: Double, finds: Callable[[str, object], None]) -> None:
        """The deployment goes on after the rollback, for example in Cloud Build."""

        def compared(candidate: str, *_: object) -> None:
            self.promote("v2")
            rollback(cloud(), works)
            finds(candidate, None)

        with pytest.raises(CloudError, match=r"The traffic stays where it is: another command moved it") as caught:
            deploy(cloud(), works, compared)
        assert gcloud.traffic() == {"gtsrb-r3": 100}
        assert "Rolled back" not in str(caught.value)

    def test_a_deployment_does_not_undo_a_return_to_the_current_revision(self, gcloud: Double) -> None:
        self.promote("v4")

        def compared(*_: object) -> None:
            self.promote("v3")
            rollback(cloud(), works)

        with pytest.raises(CloudError, match=r"changed the traffic of gtsrb in the meantime, to gtsrb-r4 100 %\."):
            deploy(cloud(), works, compared)
        assert gcloud.traffic() == {"gtsrb-r4": 100}

    def test_the_revision_before_the_last_deployment(self, gcloud: Double, caplog: pytest.LogCaptureFixture) -> None:
        rollback(cloud("serve.model=previous"), works)
        assert gcloud.traffic() == {"gtsrb-r3": 100}
        assert "inv registry.rollback" in caplog.text
        with pytest.raises(CloudError, match=r"No deployment to gtsrb came before that of gtsrb-r3"):
            rollback(cloud("serve.model=previous"), works)

    def test_the_registry_is_unreachable(self, gcloud: Double, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreachable(_: str) -> Any:
            raise UnreachableError("Cannot access gs://b: 503.")

        monkeypatch.setattr(promoted_module, "open_storage", unreachable)
        with pytest.raises(CloudError, match=r"Cannot access gs://b: 503.*cloud\.serve\.model=previous"):
            rollback(cloud(), works)
        rollback(cloud("serve.model=previous"), works)
        assert gcloud.traffic() == {"gtsrb-r3": 100}

    def test_a_version_that_was_never_deployed(self, gcloud: Double) -> None:
        self.promote("v9")
        with pytest.raises(CloudError, match=r"no revision with models:/gtsrb@v9.*@v3.*@v1.*inv gcp\.deploy"):
            rollback(cloud(), works)
        assert gcloud.traffic() == {"gtsrb-r4": 100}

    def test_nothing_is_deployed(self, gcloud: Double) -> None:
        with pytest.raises(CloudError, match=r"Nothing is deployed to gtsrb-staging yet"):
            rollback(cloud("serve.stage=staging"), works)
        assert not any("staging" in call and "update-traffic" in call for call in gcloud.calls())

    def test_the_service_fails_afterwards(self, gcloud: Double) -> None:
        self.promote("v2")
        with pytest.raises(CloudError, match=r"traffic is at gtsrb-r3, but the service does not work: The answer is 5"):
            rollback(cloud(), fails("https://gtsrb"))
        assert gcloud.traffic() == {"gtsrb-r3": 100}


class TestTeardown:
    def test_needs_confirmation(self, gcloud: Double) -> None:
        with pytest.raises(CloudError, match=r"cloud\.teardown\.confirm=my-project"):
            teardown(cloud())
        assert gcloud.calls() == []

    def test_deletes_all_resources_except_the_bucket(self, gcloud: Double) -> None:
        bootstrap(cloud())
        teardown(cloud("teardown.confirm=my-project"))
        left = {kind for kind, _ in gcloud.state()["things"]}
        assert left == {"storage buckets", "billing budgets"}
        assert gcloud.state()["services"] == {}
        assert gcloud.state()["policies"].keys() >= {"project"}
        assert not any(gcloud.state()["policies"].values())

    def test_missing_resources_are_no_error(self, gcloud: Double) -> None:
        bootstrap(cloud())
        for _ in range(2):
            teardown(cloud("teardown.confirm=my-project", "teardown.data=true"))
        assert gcloud.calls()[-1].startswith("storage rm --recursive gs://my-project-gtsrb")


@pytest.fixture
def working_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a repository with one commit, which is uploaded instead of this one."""
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "cloudbuild.yaml").write_text("steps: []")
    for words in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -q -m one"):
        git(folder, *words.split())
    monkeypatch.setattr("src.mlops.cloud.build.ROOT", folder)
    return folder


def test_an_own_bucket_and_a_log_that_is_shown(
    ready: Double, working_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(cloud("tag=def"))
    [call] = [call for call in ready.calls() if call.startswith("builds submit")]
    assert "--gcs-source-staging-dir=gs://my-project-gtsrb-builds/source" in call
    assert "the log of the build" in capsys.readouterr().out
    assert working_copy.name in call


def test_uncommitted_changes_need_a_name_of_their_own(ready: Double, working_copy: Path) -> None:
    (working_copy / "new.py").write_text("x = 1")
    unnamed = cloud().model_copy(update={"tag": None})
    with pytest.raises(CloudError, match=r"uncommitted changes in new\.py.*cloud\.tag=trial-1"):
        build(unnamed)
    assert not any(call.startswith("builds submit") for call in ready.calls())
    build(cloud("tag=trial-1"))
    assert f"{IMAGES}/api:trial-1" in ready.state()["images"]


@pytest.mark.parametrize("has_repository", [True, False])
def test_a_name_that_is_taken_is_not_deployed_with_its_former_content(
    ready: Double, working_copy: Path, has_repository: bool
) -> None:
    (working_copy / "new.py").write_text("x = 1")
    git(working_copy, "add", ".")
    git(working_copy, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "two")
    if not has_repository:
        shutil.rmtree(working_copy / ".git")
    with pytest.raises(CloudError, match=r"gtsrb/api:abc exists.*`inv gcp\.deploy`, or.*cloud\.tag=trial-1"):
        build(cloud())
    assert not any(call.startswith("builds submit") for call in ready.calls())


def test_a_build_is_never_submitted_twice(ready: Double, working_copy: Path) -> None:
    assert working_copy
    ready.script({"match": "builds submit", "stderr": "ERROR: UNAVAILABLE: 503", "acts": True, "times": 9})
    with pytest.raises(CloudError, match="UNAVAILABLE"):
        build(cloud("tag=def"))
    assert sum(call.startswith("builds submit") for call in ready.calls()) == 1


@pytest.mark.usefixtures("working_copy")
def test_build(ready: Double) -> None:
    settings = cloud(
        "tag=def", "build.train=true", "train.options=['data=gcs','training.size_schedule=[[1,2]]']", "serve.memory=2Gi"
    )
    build(settings)
    gcloud = ready
    [words] = [word for word in gcloud.arguments()[-1] if word.startswith("--substitutions=^|^")]
    given = dict(entry.split("=", 1) for entry in words.removeprefix("--substitutions=^|^").split("|"))
    assert given["_IMAGES"] == "europe-west4-docker.pkg.dev/my-project/gtsrb"
    assert (given["_TAG"], given["_TRAIN"], given["_DEPLOY"]) == ("def", "true", "true")
    # A command with these options composes the same settings.
    there = quick_config(shlex.split(given["_OPTIONS"])).cloud
    # A build only starts the training.
    assert there == settings.model_copy(
        update={
            "build": quick_config().cloud.build,
            "train": settings.train.model_copy(update={"action": "start"}),
        }
    )
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
        "train.action=wait",
        "serve.stage=test",
        "canary.share=90",
        "canary.max_slowdown=0.5",
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
    for path in [ROOT / "cloudbuild.yaml", *(ROOT / "cloud").rglob("*.*"), *(ROOT / "src/mlops/cloud").glob("*.py")]:
        text = path.read_text()
        assert names.project not in text, path
        assert names.region not in text, path


def test_steps_are_logged(gcloud: Double, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        bootstrap(cloud())
    assert "Create the bucket gs://my-project-gtsrb" in caplog.messages
