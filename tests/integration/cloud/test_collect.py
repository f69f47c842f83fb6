"""Models of training jobs are registered once, whatever fails, is killed or happens at the same time."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.mlops import ROOT
from src.mlops.cloud import collect as collect_module
from src.mlops.cloud.collect import Collected, collect
from src.mlops.cloud.submit import train
from src.mlops.errors import CloudError, MissingFileError, MlopsError, RegistryError
from src.mlops.modelfile.checkpoint import read_plain, write_content
from src.mlops.modelfile.onnx_export import export
from src.mlops.registry import register as registration
from src.mlops.registry import registry, tags
from src.mlops.registry.gate import Check
from tests.helpers.gcloud_record import Double
from tests.helpers.once import made_once
from tests.helpers.storage_emulator import BUCKET, Cloud
from tests.helpers.tiny import quick_config, tiny_overrides, write_collected, zipped
from tests.helpers.versions import LENIENT, commit, git, identify, make_models, make_repository

MODELS = "gtsrb/models"
LONG_AGO = "2020-01-01T00:00:00+00:00"
Start = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    """Skips all figures, which take longer than everything else."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_robustness", "draw_corrupted", "draw_stickers"):
            patch.setattr(f"src.mlops.evaluation.robustness.{name}", lambda *_: None)
        patch.setattr("src.mlops.evaluation.evaluate.draw_evaluation", lambda *_: None)
        patch.setattr("src.mlops.training.train.draw_learning_curves", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, no_figures: None) -> Path:
    return made_once(tmp_path_factory, "collected_models", make_models)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Returns a clone whose checked-out commit is newer than that of the training code."""
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    clone = commit(make_repository(tmp_path / "clone"))
    git(clone, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(clone, "push", "--quiet", "origin", "HEAD:refs/heads/main")
    return clone


@pytest.fixture(autouse=True)
def _project(ready: Double) -> None:
    """Bootstraps the project and builds the container images."""


@pytest.fixture(autouse=True)
def _project(ready: Double) -> None:
    """Bootstraps the project and builds the container images."""


@pytest.fixture
def start(gcloud: Double, cloud: Cloud, models: Path, tmp_path: Path) -> Start:
    """Returns a function that starts a job in a state, and uploads its model if it has one."""

    def submit(
        name: str, state: str = "JOB_STATE_RUNNING", model: str | Path | None = None, *overrides: str, **options: Any
    ) -> None:
        gcloud.set_state(job_state=state)
        words = [word for word in tiny_overrides(models, models / "raw") if not word.startswith("data.processed_dir")]
        words += options.get("more", [])
        own = [f"cloud.train.job={name}", "cloud.tag=abc", f"cloud.train.action={options.get('action', 'start')}"]
        config = quick_config([*own, *overrides]).cloud
        train(config.model_copy(update={"train": config.train.model_copy(update={"options": words})}), tmp_path)
        if model:
            put_model(cloud, name, models / model)

    return submit


def put_model(cloud: Cloud, name: str, folder: Path) -> None:
    """Uploads a model as the last step of a job does."""
    sums = ""
    for path in sorted(folder.glob("best_model.*")):
        cloud.put(f"jobs/gtsrb-{name}/model/{path.name}", path.read_bytes())
        sums += f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    cloud.put(f"jobs/gtsrb-{name}/model/SHA256SUMS", sums.encode())


@pytest.fixture
def measured(models: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces the measurements by those of the models. Returns the configurations that were used."""
    used: list[Any] = []

    def evaluate(config: Any) -> None:
        used.append(config)
        found = [models / name for name in ("good", "equal", "bad")]
        content = config.ckpt_path.read_bytes()
        for folder in found:
            if (folder / "best_model.pth").read_bytes() == content:
                shutil.copytree(folder / "reports", config.evaluation.reports_dir)

    monkeypatch.setattr(collect_module, "evaluate", evaluate)
    monkeypatch.setattr(collect_module, "robustness", lambda _: None)
    return used


def read(cloud: Cloud, name: str) -> Any:
    return json.loads(cloud.objects()[name])


def outcome(cloud: Cloud, name: str) -> dict[str, Any]:
    return dict(read(cloud, f"jobs/gtsrb-{name}/outcome.json"))


def manifests(cloud: Cloud) -> list[str]:
    return sorted(name.split("/")[3] for name in cloud.objects(MODELS) if name.endswith("/manifest.json"))


def test_a_finished_job_is_evaluated_and_registered_once(
    start: Start, cloud: Cloud, repository: Path, models: Path, tmp_path: Path
) -> None:
    start("one", "JOB_STATE_SUCCEEDED", "good")
    before = (models / "processed").stat().st_mtime_ns
    assert collect([], repository, push=True) == Collected(["v1"])
    manifest = read(cloud, f"{MODELS}/versions/v1/manifest.json")
    assert manifest["metrics"]["Accuracy"] == 1.0
    assert manifest["robustness"]["images"] == 12
    code = git(repository, "rev-parse", "HEAD~1")
    assert manifest["commit"] == manifest["provenance"]["git_commit"] == code
    for place in (repository, tmp_path / "origin.git"):
        assert git(place, "rev-parse", "gtsrb@v1.0.0^{commit}") == code
    assert outcome(cloud, "one")["version"] == "v1"
    everything = cloud.objects()
    assert collect([], repository, push=True) == Collected()
    assert cloud.objects() == everything
    assert (models / "processed").stat().st_mtime_ns == before


class TestFailures:
    def test_a_failed_job_is_reported_once_with_its_log(
        self, start: Start, gcloud: Double, cloud: Cloud, repository: Path, measured: list[Any]
    ) -> None:
        start("bad", "JOB_STATE_FAILED")
        start("good", "JOB_STATE_SUCCEEDED", "good")
        start("slow", "JOB_STATE_RUNNING")
        done = collect([], repository)
        assert done.versions == ["v1"]
        [problem] = done.problems
        assert "gtsrb-bad ended in the state JOB_STATE_FAILED" in problem
        assert "https://console.cloud.google.com/ai/platform/locations/europe-west4/training/77?project=" in problem
        assert collect([], repository) == Collected()
        gcloud.job_ends("JOB_STATE_CANCELLED", "Stopped\nby a person.")
        [problem] = collect([], repository).problems
        assert "gtsrb-slow ended in the state JOB_STATE_CANCELLED: Stopped by a person. " in problem
        assert collect([], repository) == Collected()

    def test_a_job_that_ends_while_others_are_registered_is_no_failure(
        self,
        start: Start,
        gcloud: Double,
        cloud: Cloud,
        repository: Path,
        models: Path,
        measured: list[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        start("a", "JOB_STATE_SUCCEEDED", "equal")
        start("b", "JOB_STATE_RUNNING")

        def ends(_: object) -> None:
            gcloud.job_ends("JOB_STATE_SUCCEEDED")
            put_model(cloud, "b", models / "good")

        monkeypatch.setattr(collect_module, "robustness", ends)  # of the first job
        assert collect([], repository) == Collected(["v1"])
        assert collect([], repository) == Collected(["v2"])

    def test_a_failed_job_that_is_started_again_is_registered(
        self, start: Start, gcloud: Double, cloud: Cloud, repository: Path, models: Path, measured: list[Any]
    ) -> None:
        start("one", "JOB_STATE_FAILED")
        assert collect([], repository).problems
        start("one", "JOB_STATE_RUNNING")
        assert collect([], repository) == Collected()
        gcloud.job_ends("JOB_STATE_SUCCEEDED")
        put_model(cloud, "one", models / "good")
        assert collect([], repository) == Collected(["v1"])

    def test_a_start_that_was_killed_is_reported_after_ten_minutes(
        self, start: Start, gcloud: Double, cloud: Cloud, repository: Path
    ) -> None:
        start("one")
        gcloud.set_state(jobs=[])
        assert collect([], repository) == Collected()
        request = read(cloud, "jobs/gtsrb-one/request.json")
        cloud.put("jobs/gtsrb-one/request.json", json.dumps({**request, "started": LONG_AGO}).encode())
        [problem] = collect([], repository).problems
        assert re.search("gtsrb-one was never started.*cloud.train.job=one", problem)
        assert collect([], repository) == Collected()

    def test_a_job_that_somebody_waits_for_is_not_registered(
        self, start: Start, gcloud: Double, cloud: Cloud, repository: Path, models: Path
    ) -> None:
        with pytest.raises(MlopsError):  # its model is missing
            start("one", "JOB_STATE_SUCCEEDED", action="run")
        put_model(cloud, "one", models / "good")
        put_model(cloud, "earlier-release", models / "equal")
        gcloud.forget()
        assert collect([], repository) == Collected()

    def test_a_corrupted_model_is_reported_once(
        self, start: Start, cloud: Cloud, repository: Path, measured: list[Any]
    ) -> None:
        start("one", "JOB_STATE_SUCCEEDED", "good")
        start("two", "JOB_STATE_SUCCEEDED", "equal")
        cloud.put("jobs/gtsrb-one/model/best_model.pth", b"half")
        done = collect([], repository)
        assert done.versions == ["v1"]
        assert re.search(r"best_model\.pth is corrupted: its SHA-256", done.problems[0])
        assert collect([], repository) == Collected()

    @pytest.mark.parametrize("recorded", [None, "a" * 40 + "+changes"])
    def test_a_model_of_code_that_is_no_commit(
        self, start: Start, cloud: Cloud, repository: Path, models: Path, tmp_path: Path, recorded: str | None
    ) -> None:
        self._with_commit(models, tmp_path / "own", recorded)
        start("one", "JOB_STATE_SUCCEEDED", tmp_path / "own")
        [problem] = collect([], repository).problems
        assert "its training code is not a commit" in problem
        assert collect([], repository) == Collected()

    def test_a_commit_that_the_clone_does_not_have_is_tried_again(
        self, start: Start, cloud: Cloud, repository: Path, models: Path, tmp_path: Path
    ) -> None:
        self._with_commit(models, tmp_path / "own", "a" * 40)
        start("one", "JOB_STATE_SUCCEEDED", tmp_path / "own")
        for _ in range(2):
            [problem] = collect([], repository).problems
            assert re.search("commit aaaaaaaa.*fetch-depth: 0", problem)
        assert manifests(cloud) == []

    @staticmethod
    def _with_commit(models: Path, folder: Path, recorded: str | None) -> None:
        content = read_plain(models / "good" / "best_model.pth")
        content["provenance"] = {**content["provenance"], "git_commit": recorded}
        folder.mkdir()
        write_content(folder / "best_model.pth", content)
        export(folder / "best_model.pth")

    @pytest.mark.parametrize("content", [b"{", b"[1]", b'{"earlier": []}'])
    def test_corrupted_records_do_not_stop_other_jobs(
        self, start: Start, cloud: Cloud, repository: Path, measured: list[Any], content: bytes
    ) -> None:
        start("a", "JOB_STATE_SUCCEEDED", "bad")
        start("b", "JOB_STATE_SUCCEEDED", "good")
        cloud.put("jobs/gtsrb-a/request.json", content)
        cloud.put("jobs/gtsrb-b/outcome.json", content)
        done = collect([], repository)
        assert done.versions == ["v1"]
        assert "gtsrb-a/request.json is corrupted" in done.problems[0]

    def test_options_of_a_job_cannot_change_the_registry(
        self, start: Start, cloud: Cloud, repository: Path, measured: list[Any], tmp_path: Path
    ) -> None:
        hostile = [f"registry.store={tmp_path}/theirs", "ckpt_path=x.pth", "cloud.bucket=their-bucket", "seed=7"]
        start("one", "JOB_STATE_SUCCEEDED", "good", more=[*hostile, "data.split.seed=5"])
        assert collect([], repository) == Collected(["v1"])
        [config] = measured
        assert (config.data.split.seed, config.seed) == (5, 42)
        assert config.registry.store == f"gs://{BUCKET}/{MODELS}"
        assert config.data.processed_url is None

    def test_own_data_of_a_job(
        self, start: Start, cloud: Cloud, repository: Path, models: Path, measured: list[Any]
    ) -> None:
        cloud.put("gtsrb/raw/own.zip", zipped(models / "raw"))
        start("one", "JOB_STATE_SUCCEEDED", "good", f"cloud.train.data=gs://{BUCKET}/gtsrb/raw/own.zip")
        assert collect([], repository) == Collected(["v1"])
        assert measured[0].data.source == "local"
        assert measured[0].data.raw_dir.name == "images"

    def test_uncommitted_changes(self, start: Start, cloud: Cloud, repository: Path) -> None:
        start("one", "JOB_STATE_SUCCEEDED", "good")
        (repository / "README.md").write_text("changed")
        with pytest.raises(RegistryError, match=r"README\.md"):
            collect([], repository)

    def test_no_remote(self, start: Start, cloud: Cloud, repository: Path) -> None:
        git(repository, "remote", "remove", "origin")
        with pytest.raises(RegistryError, match="Cannot fetch the tags of the registry from origin"):
            collect([], repository, push=True)


class TestRetraining:
    """The model of a job with collected images goes to staging by the gate."""

    URL = f"gs://{BUCKET}/jobs/gtsrb-retrain-1/collected.zip"

    @pytest.fixture
    def retrained(self, start: Start, cloud: Cloud, measured: list[Any], tmp_path: Path) -> None:
        cloud.put("jobs/gtsrb-retrain-1/collected.zip", zipped(write_collected(tmp_path / "labels", ["0", "1"])))
        start("retrain-1", "JOB_STATE_SUCCEEDED", "good", f"cloud.train.collected={self.URL}")

    @pytest.fixture
    def gate(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Replaces the gate by one that lets models pass until the list has something that is false."""
        seen: list[Any] = []

        def run_gate(config: Any, *_: object) -> list[Check]:
            passed = False not in seen
            seen.append(config)
            return [Check("better than production on collected images", "p = 0.4", "p < 0.05", passed)]

        monkeypatch.setattr(registry, "run_gate", run_gate)
        return seen

    def test_passes(self, retrained: None, cloud: Cloud, repository: Path, tmp_path: Path, measured: list[Any]) -> None:
        lenient = [*LENIENT, "gate.min_robustness=0"]
        assert collect(lenient, repository, push=True) == Collected(["v1"])
        assert measured[0].data.collected.name == "images"
        for place in (repository, tmp_path / "origin.git"):
            assert git(place, "tag").split() == ["gtsrb#staging#1", "gtsrb@v1.0.0"]
        assert read(cloud, f"{MODELS}/stages/staging.json")["version"] == "v1"
        assert f"{MODELS}/stages/production.json" not in cloud.objects()
        assert "gate" not in outcome(cloud, "retrain-1")
        assert collect(lenient, repository, push=True) == Collected()

    def test_other_jobs_are_only_registered(
        self, start: Start, cloud: Cloud, repository: Path, measured: list[Any], gate: list[Any]
    ) -> None:
        start("one", "JOB_STATE_SUCCEEDED", "good")
        assert collect([], repository, push=True) == Collected(["v1"])
        assert gate == []
        assert git(repository, "tag") == "gtsrb@v1.0.0"

    def test_fails_the_gate(
        self, retrained: None, start: Start, cloud: Cloud, repository: Path, gate: list[Any]
    ) -> None:
        gate.append(False)
        start("z", "JOB_STATE_SUCCEEDED", "equal")
        done = collect([], repository, push=True)
        assert done.versions == ["v1", "v2"]  # the other job is not affected
        [problem] = done.problems
        assert re.search("gtsrb-retrain-1: v1 failed the gate for staging: better than production", problem)
        assert "failed the gate" in outcome(cloud, "retrain-1")["gate"]
        assert cloud.objects(f"{MODELS}/stages") == {}  # what is served stays
        assert git(repository, "tag").split() == ["gtsrb@v1.0.0", "gtsrb@v2.0.0"]
        assert collect([], repository, push=True) == Collected()  # reported once

    @pytest.mark.parametrize(
        "step",
        [(collect_module, "_stage"), (registry, "tag_stage"), (registry, "write_stage"), (collect_module, "_record")],
        ids=lambda step: step[1],
    )
    @pytest.mark.parametrize("fresh", [False, True])
    def test_killed_before_each_step(
        self,
        retrained: None,
        cloud: Cloud,
        repository: Path,
        gate: list[Any],
        tmp_path: Path,
        step: tuple[Any, str],
        fresh: bool,
    ) -> None:
        def end(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*step, end)
            patch.setattr(tags, "take_back", lambda *_: None)
            with pytest.raises(KeyboardInterrupt):
                collect([], repository, push=True)
        if fresh:  # another machine goes on
            git(tmp_path, "clone", "--quiet", "--branch", "main", str(tmp_path / "origin.git"), "second")
            identify(tmp_path / "second", "B")
            repository = tmp_path / "second"
        assert collect([], repository, push=True) == Collected(["v1"])
        assert git(tmp_path / "origin.git", "tag").split() == ["gtsrb#staging#1", "gtsrb@v1.0.0"]
        assert read(cloud, f"{MODELS}/stages/staging.json")["version"] == "v1"
        assert outcome(cloud, "retrain-1")["version"] == "v1"
        assert collect([], repository, push=True) == Collected()

    def test_the_archive_is_gone(
        self, retrained: None, cloud: Cloud, repository: Path, gate: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(collect_module, "fetch", missing)
        [problem] = collect([], repository, push=True).problems
        assert "collected.zip does not exist" in problem
        assert git(repository, "tag") == ""


def missing(url: str, _: Path) -> Path:
    raise MissingFileError(f"The file {url} does not exist.")


class TestInterruptions:
    STEPS = (
        (collect_module, "fetch_model"),
        (collect_module, "evaluate"),
        (registration, "_require_alone"),
        (registration, "_upload"),
        (registration, "_tag"),
        (registration, "publish_model"),  # after the tag
        (collect_module, "_record"),
    )

    @pytest.mark.parametrize("step", STEPS, ids=lambda step: step[1])
    def test_killed_before_each_step(
        self, step: tuple[Any, str], start: Start, cloud: Cloud, repository: Path, measured: list[Any], tmp_path: Path
    ) -> None:
        start("one", "JOB_STATE_SUCCEEDED", "good")

        def end(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*step, end)
            for module in (registration, tags):
                patch.setattr(module, "take_back", lambda *_: None)
            with pytest.raises(KeyboardInterrupt):
                collect([], repository, push=True)
        assert collect([], repository, push=True).problems == []
        make_old(cloud)
        collect([], repository, push=True)
        assert len(manifests(cloud)) == 1
        assert len(git(tmp_path / "origin.git", "tag").split()) == 1
        assert outcome(cloud, "one")["version"] == manifests(cloud)[0]

    def test_killed_between_tag_and_push(
        self, start: Start, cloud: Cloud, repository: Path, measured: list[Any], tmp_path: Path
    ) -> None:
        start("one", "JOB_STATE_SUCCEEDED", "good")
        assert collect([], repository) == Collected(["v1"])  # without a push
        everything = cloud.objects()
        cloud.put("jobs/gtsrb-one/outcome.json", b"")
        assert collect([], repository, push=True) == Collected(["v1"])
        assert git(tmp_path / "origin.git", "tag") == "gtsrb@v1.0.0"
        assert cloud.objects() == everything

    @pytest.mark.parametrize("step", ["_require_alone", "_upload", "_tag"])
    def test_two_calls_at_the_same_time(
        self, step: str, start: Start, cloud: Cloud, repository: Path, measured: list[Any], tmp_path: Path
    ) -> None:
        """Another clone does the same while this one is registering the model."""
        start("one", "JOB_STATE_SUCCEEDED", "good")
        git(tmp_path, "clone", "--quiet", "--branch", "main", str(tmp_path / "origin.git"), "second")
        identify(tmp_path / "second", "B")
        original = getattr(registration, step)
        results: list[Collected] = []

        def second(*arguments: Any, **options: Any) -> Any:
            patch.setattr(registration, step, original)
            results.append(collect([], tmp_path / "second", push=True))
            return original(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registration, step, second)
            assert collect([], repository, push=True) == Collected(["v1"])
        assert results == [Collected()]
        assert manifests(cloud) == ["v1"]
        assert git(tmp_path / "origin.git", "tag") == "gtsrb@v1.0.0"
        assert collect([], tmp_path / "second", push=True) == Collected()

    @pytest.mark.slow
    def test_kill_9(
        self, start: Start, cloud: Cloud, repository: Path, measured: list[Any], tmp_path: Path, gcloud: Double
    ) -> None:
        start("one", "JOB_STATE_SUCCEEDED", "good")
        program = (
            "import os, signal, sys\nfrom pathlib import Path\nfrom src.mlops.cloud import collect\n"
            "from src.mlops.registry import register\n"
            "collect.Gcloud.login = lambda self: None\n"
            "register._tag = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
            "collect.collect([], Path(sys.argv[1]), push=True)"
        )
        environment = {**os.environ, "STORAGE_EMULATOR_HOST": cloud.url}
        command = [sys.executable, "-c", program, str(repository)]
        result = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        assert result.returncode == -signal.SIGKILL
        assert manifests(cloud) == ["v1"]
        assert git(repository, "tag") == ""
        make_old(cloud)
        assert collect([], repository, push=True) == Collected(["v1"])
        assert manifests(cloud) == ["v1"]


def make_old(cloud: Cloud) -> None:
    """Makes all unfinished registrations look old."""
    for name, content in cloud.objects(MODELS).items():
        if name.endswith(".json"):
            cloud.put(name, re.sub(rb'("created": ")20[^"]*', rb"\g<1>2020-01-01T00:00:00+00:00", content))


def test_the_command_prints_versions_and_fails_with_the_problems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collect_module, "collect", lambda *_, **__: Collected(["v3", "v4"], ["gtsrb-x: It failed."]))
    with pytest.raises(CloudError, match=r"Jobs with a problem: 1\. gtsrb-x: It failed\."):
        collect_module.main([], push=True)
    assert capsys.readouterr().out == "v3\nv4\n"
