"""Versions, stages and the gate with a real Git repository, a folder and a bucket, and their failures."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from gto import api as gto
from rich.console import Console

from src.mlops import ROOT
from src.mlops.config import Config
from src.mlops.errors import BusyError, DataError, GateError, MlopsError, RegistryError, StorageError, UnreachableError
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import sha256
from src.mlops.io.storage import open_storage
from src.mlops.modelfile.checkpoint import read_plain, write_content
from src.mlops.modelfile.locate import locate_model
from src.mlops.modelfile.onnx_export import export
from src.mlops.modelfile.store import SERVED, STORE, model_name, versions
from src.mlops.registry import register as registration
from src.mlops.registry import registry, tags
from src.mlops.registry.register import register
from src.mlops.registry.registry import promote, rollback, sync, table
from src.mlops.training.train import train
from tests.helpers.once import made_once
from tests.helpers.recording import store_shadowed
from tests.helpers.storage_emulator import BUCKET, Cloud
from tests.helpers.tiny import quick_config, tiny_overrides
from tests.helpers.versions import LENIENT, commit, git, identify, make_models, make_repository

REMOTE_STORE = f"gs://{BUCKET}/gtsrb/models"
Make = Callable[..., Config]


@pytest.fixture(scope="module", autouse=True)
def no_figures() -> Iterator[None]:
    """Skips the figures of an evaluation, which take longer than everything else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mlops.evaluation.evaluate.draw_evaluation", lambda *_: None)
        patch.setattr("src.mlops.training.train.draw_learning_curves", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, no_figures: None) -> Path:
    """Returns the parent of the model folders `good`, `equal` and `bad`."""
    return made_once(tmp_path_factory, "registry_models", make_models)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "clone")


@pytest.fixture
def make(models: Path, tmp_path: Path) -> Make:
    """Returns a function that composes a config for one of the models and a local store."""

    def compose(model: str = "good", *overrides: str, store: str = str(tmp_path / "store")) -> Config:
        own = [
            *tiny_overrides(models, models / "raw"),
            f"ckpt_path={models / model / 'best_model.pth'}",
            f"evaluation.reports_dir={models / model / 'reports'}",
            f"registry.store={store}",
        ]
        return quick_config([*own, *LENIENT, *overrides])

    return compose


def stored(store: Path, stage: str = "production") -> dict[str, Any]:
    """Returns what services read about a stage."""
    return dict(json.loads((store / "stages" / f"{stage}.json").read_text()))


def state(repository: Path, store: str | Path) -> tuple[list[str], dict[str, bytes]]:
    """Returns all tags and the complete content of a store."""
    storage = open_storage(str(store))
    return git(repository, "tag", "--list").split(), {name: storage.read(name) for name in storage.names()}


class TestRegister:
    def test_writes_files_manifest_and_tag(self, make: Make, repository: Path, tmp_path: Path) -> None:
        config = make()
        assert register(config, repository) == "v1"
        assert git(repository, "tag", "--list") == "gtsrb@v1.0.0"
        assert git(repository, "rev-parse", "gtsrb@v1.0.0^{commit}") == git(repository, "rev-parse", "HEAD")
        folder = tmp_path / "store" / "versions" / "v1"
        manifest = json.loads((folder / "manifest.json").read_text())
        for name in ("best_model.onnx", "best_model.pth"):
            assert (
                manifest["files"][name]["sha256"] == sha256(folder / name) == sha256(config.ckpt_path.with_name(name))
            )
        assert manifest["commit"] == git(repository, "rev-parse", "HEAD")
        assert manifest["metrics"]["Accuracy"] == 1.0
        assert manifest["config"]["model"]["width"] == 4
        assert manifest["data_fingerprint"] == Classifier.load(folder / SERVED).info.provenance["data_fingerprint"]
        message = json.loads(git(repository, "tag", "--list", "--format=%(contents)"))
        assert message["manifest_sha256"] == sha256(folder / "manifest.json")
        assert git(repository, "status", "--porcelain") == ""

    def test_numbers_the_versions(self, make: Make, repository: Path) -> None:
        assert register(make("good"), repository) == "v1"
        assert register(make("bad"), commit(repository)) == "v2"
        with pytest.raises(RegistryError, match=r"model file.*v1"):
            register(make("good"), commit(repository))

    def test_a_commit_may_have_several_versions(self, make: Make, repository: Path, tmp_path: Path) -> None:
        """New data is a reason to train again, although the code is the same."""
        head = git(repository, "rev-parse", "HEAD")
        assert [register(make(model), repository) for model in ("good", "equal", "bad")] == ["v1", "v2", "v3"]
        for version in ("v1", "v2", "v3"):
            manifest = json.loads((tmp_path / "store" / "versions" / version / "manifest.json").read_text())
            assert manifest["commit"] == head
            assert git(repository, "diff", head, f"gtsrb@{version}.0.0") == ""
            assert git(repository, "merge-base", head, f"gtsrb@{version}.0.0") == head
        promote(make("good"), "production", "v2", repository=repository)
        promote(make("good"), "production", "v1", repository=repository)
        assert rollback(make("good"), "production", repository) == "v2"
        # GTO accepts only one version per commit, so each further version has a commit of its own.
        assert len({git(repository, "rev-parse", f"gtsrb@v{number}.0.0^{{commit}}") for number in (1, 2, 3)}) == 3
        events = [(event["event"], event["version"]) for event in gto.history(str(repository))]
        assert sorted(events) == [
            ("assignment", "v1.0.0"),
            ("assignment", "v2.0.0"),
            ("assignment", "v2.0.0"),
            *(("registration", f"v{number}.0.0") for number in (1, 2, 3)),
        ]

    def test_another_commit_can_be_tagged(self, make: Make, repository: Path, tmp_path: Path) -> None:
        first = git(repository, "rev-parse", "HEAD")
        commit(repository)
        register(make(), repository, commit=first)
        assert git(repository, "rev-parse", "gtsrb@v1.0.0^{commit}") == first
        for unknown in ("f" * 40, "--help", "no^such", ""):
            with pytest.raises(RegistryError, match="git fetch origin"):
                register(make("bad"), repository, commit=unknown)
        assert len(state(repository, tmp_path / "store")[0]) == 1

    def test_rejects_uncommitted_changes(self, make: Make, repository: Path, tmp_path: Path) -> None:
        (repository / "README.md").write_text("changed")
        with pytest.raises(RegistryError, match=r"(?i)README\.md.*commit"):
            register(make(), repository)
        assert state(repository, tmp_path / "store") == ([], {})

    def test_credentials_of_a_workflow_are_no_change(self, make: Make, repository: Path) -> None:
        """google-github-actions/auth writes them into the working copy."""
        shutil.copy(ROOT / ".gitignore", repository)
        git(repository, "add", ".gitignore")
        git(repository, "commit", "--quiet", "-m", "second")
        (repository / "gha-creds-0123456789abcdef.json").touch()
        assert register(make(), repository) == "v1"

    def test_a_folder_without_git(self, make: Make, tmp_path: Path) -> None:
        (tmp_path / "plain").mkdir()
        with pytest.raises(RegistryError, match=rf"{re.escape(str(tmp_path / 'plain'))}.*Git"):
            register(make(), tmp_path / "plain")

    def test_rejects_a_model_without_results(self, make: Make, repository: Path, tmp_path: Path, models: Path) -> None:
        config = make("good", f"evaluation.reports_dir={tmp_path / 'none'}")
        with pytest.raises(DataError, match=rf"{re.escape(str(tmp_path / 'none' / 'metrics.json'))}.*inv evaluate"):
            register(config, repository)
        with pytest.raises(DataError, match=r"bad/reports/metrics\.json.*good/best_model\.pth"):
            register(make("good", f"evaluation.reports_dir={models / 'bad' / 'reports'}"), repository)
        assert state(repository, tmp_path / "store") == ([], {})

    def test_undoes_everything_if_git_cannot_tag(
        self, make: Make, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        git(repository, "config", "--unset", "user.name")
        git(repository, "config", "--unset", "user.email")
        git(repository, "config", "user.useConfigOnly", "true")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
        with pytest.raises(RegistryError, match=r"gtsrb@v1\.0\.0.*(?i:identity|tell me who you are)"):
            register(make(), repository)
        assert state(repository, tmp_path / "store") == ([], {})


class TestInterruptedRegistration:
    """A registration that is killed, or that happens twice at the same time."""

    @staticmethod
    def attempt(config: Config, repository: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            register(config, repository)

    @staticmethod
    def age(store: Path) -> None:
        """Makes all claims and manifests look old."""
        for path in store.glob("versions/*/*.json"):
            path.write_text(re.sub(r'("created": ")20[^"]*', r"\g<1>2020-01-01T00:00:00+00:00", path.read_text()))

    @pytest.mark.parametrize("step", ["_require_alone", "_upload"])
    def test_before_the_manifest(self, step: str, make: Make, repository: Path, tmp_path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            self._kill(patch, step)
            self.attempt(make(), repository)
        with pytest.raises(BusyError, match=r"as v1 by another process since.*15 minutes.*delete versions/v1 in"):
            register(make(), repository)
        assert register(make("bad"), repository) == "v2"  # another file need not wait
        self.age(tmp_path / "store")
        assert register(make(), repository) == "v3"
        assert git(repository, "tag").split() == ["gtsrb@v2.0.0", "gtsrb@v3.0.0"]

    def test_between_the_manifest_and_the_tag(self, make: Make, repository: Path, tmp_path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            self._kill(patch, "_tag")
            self.attempt(make(), repository)
        first = git(repository, "rev-parse", "HEAD")
        with pytest.raises(BusyError, match=r"as v1 since"):
            register(make(), commit(repository))
        store = tmp_path / "store"
        self.age(store)
        before = state(repository, store)[1]
        assert register(make(), repository) == "v1"
        assert state(repository, store) == (["gtsrb@v1.0.0"], before)
        assert git(repository, "rev-parse", "gtsrb@v1.0.0^{commit}") == first
        assert promote(make(), "staging", repository=repository)[0] == "v1"

    def test_a_tag_that_is_on_the_remote_is_not_made_again(self, make: Make, repository: Path, tmp_path: Path) -> None:
        git(tmp_path, "init", "--quiet", "--bare", "origin.git")
        git(repository, "remote", "add", "origin", str(tmp_path / "origin.git"))
        register(make(), repository, push=True)
        git(repository, "tag", "--delete", "gtsrb@v1.0.0")
        self.age(tmp_path / "store")
        with pytest.raises(RegistryError, match=r"as v1\. Fetch its tag"):
            register(make(), repository)
        assert git(repository, "tag") == ""

    def test_two_registrations_of_one_file(self, make: Make, repository: Path, tmp_path: Path) -> None:
        """Another clone registers the file after this one has reserved a number and before it has uploaded anything."""
        git(tmp_path, "clone", "--quiet", str(repository), "second")
        identify(tmp_path / "second", "B")
        upload, refused = registration._upload, []  # noqa: SLF001 - the moment cannot be chosen otherwise

        def second_first(*arguments: Any) -> Any:
            patch.setattr(registration, "_upload", upload)
            with pytest.raises(BusyError, match="being registered as v1") as caught:
                register(make(), tmp_path / "second")
            refused.append(caught)
            return upload(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registration, "_upload", second_first)
            assert register(make(), repository) == "v1"
        assert len(refused) == 1
        assert versions(open_storage(str(tmp_path / "store"))) == ["v1"]
        assert git(tmp_path / "second", "tag") == ""

    @pytest.mark.slow
    def test_kill_9(self, make: Make, repository: Path, tmp_path: Path, models: Path) -> None:
        program = (
            "import os, signal, sys\nfrom pathlib import Path\nfrom src.mlops.config import load_config\n"
            "from src.mlops.registry import register\n"
            "register._tag = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
            "register.register(load_config(sys.argv[2:]), Path(sys.argv[1]))"
        )
        own = [
            *tiny_overrides(models, models / "raw"),
            f"ckpt_path={models}/good/best_model.pth",
            f"evaluation.reports_dir={models}/good/reports",
            f"registry.store={tmp_path}/store",
        ]
        result = subprocess.run([sys.executable, "-c", program, str(repository), *own], cwd=ROOT, check=False)
        assert result.returncode == -9
        assert git(repository, "tag") == ""
        self.age(tmp_path / "store")
        assert register(make(), repository) == "v1"

    @staticmethod
    def _kill(patch: pytest.MonkeyPatch, step: str) -> None:
        """Lets the next registration end before a step, without undoing anything."""

        def end(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(registration, step, end)
        for module in (registration, tags):
            patch.setattr(module, "take_back", lambda *_: None)


class TestPromote:
    def test_stages_follow_promotions_and_rollbacks(self, make: Make, repository: Path, tmp_path: Path) -> None:
        register(make("good"), repository)
        register(make("equal"), commit(repository))
        assert promote(make("good"), "production", "v1", repository=repository)[0] == "v1"
        assert promote(make("good"), "production", repository=repository)[0] == "v2"
        assert stored(tmp_path / "store")["version"] == "v2"
        assert rollback(make("good"), "production", repository) == "v1"
        assert stored(tmp_path / "store")["version"] == "v1"
        with pytest.raises(RegistryError, match=r"production.*v1"):
            rollback(make("good"), "production", repository)
        assert promote(make("good"), "production", "v2.0.0", repository=repository)[0] == "v2"
        assert [path.name for path in (tmp_path / "store" / "stages").glob("*.json")] == ["production.json"]
        assert len([tag for tag in git(repository, "tag").split() if tag.startswith("gtsrb#production#")]) == 4
        assert rollback(make("good"), "production", repository) == "v1"
        with pytest.raises(RegistryError, match=r"production.*v1"):
            rollback(make("good"), "production", repository)

    def test_gto_reads_the_tags(self, make: Make, repository: Path) -> None:
        register(make("good"), repository)
        promote(make("good"), "production", repository=repository)
        promote(make("good"), "staging", repository=repository)
        shown_by_gto = [(event["event"], event["version"], event["stage"]) for event in gto.history(str(repository))]
        assert sorted(shown_by_gto, key=str) == [
            ("assignment", "v1.0.0", "production"),
            ("assignment", "v1.0.0", "staging"),
            ("registration", "v1.0.0", None),
        ]

    def test_the_first_check_compares_with_production(self, make: Make, repository: Path) -> None:
        register(make("good"), repository)
        promote(make("good"), "production", repository=repository)
        register(make("equal"), commit(repository))
        _, checks = promote(make("equal"), "staging", repository=repository)
        assert checks[0].name == "not worse than production"
        wrong, difference = checks[0].found.split("; ")
        assert wrong == "0 of 12 misclassified, production 0"
        assert difference == "0 right only in production, 0 only in the candidate, p = 1"
        assert all(check.passed for check in checks)

    def test_a_worse_model_fails_the_gate(self, make: Make, repository: Path, tmp_path: Path) -> None:
        register(make("good"), repository)
        promote(make("good"), "production", repository=repository)
        register(make("bad"), commit(repository))
        before = state(repository, tmp_path / "store")
        with pytest.raises(GateError, match=r"v2.*production.*not worse than production"):
            promote(make("bad"), "production", repository=repository)
        assert state(repository, tmp_path / "store") == before

    def test_production_needs_images_answered_as_a_shadow(
        self, make: Make, repository: Path, models: Path, tmp_path: Path
    ) -> None:
        """Staging does not, because the model that is in staging can be the shadow."""
        config = make("good", f"gate.shadow_log={tmp_path / 'log'}", "gate.shadow_images=5")
        register(config, repository)
        promote(config, "staging", repository=repository)
        with pytest.raises(GateError, match=r"v1.*production: images answered as a shadow"):
            promote(config, "production", repository=repository)
        store_shadowed(str(tmp_path / "log"), Classifier.load(models / "good" / SERVED).version, 5)
        _, checks = promote(config, "production", repository=repository)
        assert next(check.found for check in checks if "shadow" in check.name).startswith("5,")

    def test_force_is_recorded(self, make: Make, repository: Path, tmp_path: Path) -> None:
        register(make("bad"), repository)
        config = make("bad", "gate.min_class_f1=0.5")
        promote(config, "staging", repository=repository, force=True)
        message = json.loads(git(repository, "tag", "--list", "gtsrb#*", "--format=%(contents)"))
        assert message["forced"] is True
        assert [check["name"] for check in message["checks"] if not check["passed"]] == ["F1 of the weakest class"]
        assert stored(tmp_path / "store", "staging") == {"tag": "gtsrb#staging#1", **message}

    def test_a_rollback_to_a_forced_version_says_so(
        self, make: Make, repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        register(make("bad"), repository)
        register(make("good"), repository)
        strict = make("bad", "gate.min_class_f1=0.5")
        promote(strict, "production", "v1", repository=repository, force=True)
        assert "production (forced)" in shown(make(), repository)
        promote(make("good"), "production", "v2", repository=repository)
        assert "(forced)" not in shown(make(), repository)
        rollback(make("good"), "production", repository)
        assert re.search(r"gtsrb@v1 .*--force.*: F1 of the weakest class", caplog.text)
        message = stored(tmp_path / "store")
        assert (message["event"], message["version"], message["forced"]) == ("rollback", "v1", True)
        assert [check["name"] for check in message["checks"] if not check["passed"]] == ["F1 of the weakest class"]

    def test_a_rollback_to_a_version_that_passed_is_not_forced(
        self, make: Make, repository: Path, tmp_path: Path
    ) -> None:
        register(make("good"), repository)
        register(make("equal"), repository)
        strict = make("good", "gate.max_size_mb=0.01")
        promote(strict, "production", "v1", repository=repository, force=True)
        promote(make("good"), "production", "v2", repository=repository)
        promote(make("good"), "production", "v1", repository=repository)  # later, it passed
        promote(make("good"), "production", "v2", repository=repository)
        rollback(make("good"), "production", repository)
        assert "forced" not in stored(tmp_path / "store")

    @pytest.mark.parametrize(
        ("override", "reason"),
        [
            ("gate.max_size_mb=0.01", "size of the ONNX file"),
            ("gate.max_latency_ms=0.0001", "median time of one image"),
            ("gate.max_calibration_error=0", "expected calibration error"),
            ("gate.min_robustness=0.95", "accuracy under corruptions"),
        ],
    )
    def test_each_limit_fails_the_gate(self, override: str, reason: str, make: Make, repository: Path) -> None:
        model = "bad" if reason == "expected calibration error" else "good"  # the good one is perfectly calibrated
        register(make(model), repository)
        with pytest.raises(GateError, match=f"v1.*staging: {reason}"):
            promote(make(model, override), "staging", repository=repository)

    def test_missing_robustness_and_uncommitted_code_fail_the_gate(
        self, make: Make, repository: Path, models: Path, tmp_path: Path
    ) -> None:
        content = read_plain(models / "good" / "best_model.pth")
        content["provenance"] = {**content["provenance"], "git_commit": "b" * 40 + "+changes"}
        path = tmp_path / "own" / "best_model.pth"
        path.parent.mkdir()
        write_content(path, content)
        export(path)
        config = make("good", f"ckpt_path={path}", f"evaluation.reports_dir={tmp_path / 'reports'}")
        evaluate(config)
        register(config, repository)
        with pytest.raises(GateError, match="staging: commit of the training code, accuracy under corruptions"):
            promote(config, "staging", repository=repository)

    def test_rejects_images_of_the_training(self, make: Make, repository: Path) -> None:
        register(make("good"), repository)
        with pytest.raises(GateError, match="staging: compared images that the model was trained on"):
            promote(make("good", "evaluation.split=train"), "staging", repository=repository)

    def test_rejects_images_of_the_training_under_another_split_seed(
        self, make: Make, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        own = [f"ckpt_path={tmp_path}/own/best_model.pth", f"evaluation.reports_dir={tmp_path}/reports"]
        own += [f"data.processed_dir={tmp_path}/one", f"run_dir={tmp_path}/run", "training.epochs=1"]
        own += ["training.export=true", "data.split.seed=1"]
        config = make("good", *own)
        train(config)
        evaluate(config)
        register(config, repository)
        other = [*own, f"data.processed_dir={tmp_path}/other", "data.split.seed=3", "evaluation.split=val"]
        with pytest.raises(GateError, match="staging: compared images that the model was trained on, "):
            promote(make("good", *other), "staging", repository=repository)
        assert "16 of 16" in capsys.readouterr().err
        _, checks = promote(make("good", *other, "evaluation.split=test"), "staging", None, repository, force=True)
        assert checks[0].found == "0 of 12 compared"

    @pytest.mark.parametrize("same_data", [True, False])
    def test_models_of_earlier_releases_have_no_sketch(
        self, same_data: bool, make: Make, repository: Path, models: Path, tmp_path: Path
    ) -> None:
        content = read_plain(models / "good" / "best_model.pth")
        del content["provenance"]["image_sketch"]
        path = tmp_path / "own" / "best_model.pth"
        path.parent.mkdir()
        write_content(path, content)
        export(path)
        own = [f"ckpt_path={path}", f"evaluation.reports_dir={tmp_path / 'reports'}"]
        other = [] if same_data else [f"data.processed_dir={tmp_path}/other", "data.split.seed=3"]
        evaluate(make("good", *own))
        register(make("good", *own), repository)
        failed = "" if same_data else "compared images that the model was trained on, "
        with pytest.raises(GateError, match=f"staging: {failed}accuracy under corruptions"):
            promote(make("good", *own, *other), "staging", repository=repository)
        with pytest.raises(GateError, match="staging: compared images that the model was trained on"):
            promote(make("good", *own, *other, "evaluation.split=train"), "staging", repository=repository)

    def test_unknown_versions(self, make: Make, repository: Path, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match=rf"{re.escape(str(tmp_path / 'store'))}.*inv registry\.register"):
            promote(make(), "staging", repository=repository)
        register(make(), repository)
        before = state(repository, tmp_path / "store")
        with pytest.raises(RegistryError, match=r"gtsrb@v7.*: v1"):
            promote(make("good"), "staging", "v7", repository=repository)
        with pytest.raises(RegistryError, match=r"(?=.*v3)(?=.*'newest')"):
            promote(make("good"), "staging", "newest", repository=repository)
        promote(make(), "staging", repository=repository)
        with pytest.raises(RegistryError, match=r"v1.*staging"):
            promote(make(), "staging", repository=repository)
        assert set(before[0]) < set(state(repository, tmp_path / "store")[0])

    def test_a_tag_without_files(self, make: Make, repository: Path, tmp_path: Path) -> None:
        register(make(), repository)
        shutil.rmtree(tmp_path / "store" / "versions" / "v1")
        with pytest.raises(RegistryError, match=r"Version v1 .*registry=gcs"):
            promote(make(), "staging", repository=repository)
        assert "tag without files" in shown(make(), repository)
        assert register(make("bad"), commit(repository)) == "v2"  # the number is not used again

    def test_files_without_a_tag(self, make: Make, repository: Path) -> None:
        register(make(), repository)
        git(repository, "tag", "--delete", "gtsrb@v1.0.0")
        with pytest.raises(RegistryError, match=r"gtsrb@v1.*git fetch --tags"):
            promote(make(), "staging", repository=repository)
        with pytest.raises(RegistryError, match=r"as v1 since.*gtsrb@v1\.0\.0.*git fetch --tags.*killed.*15 minutes"):
            register(make(), repository)
        assert "git fetch --tags" in shown(make(), repository)

    @pytest.mark.parametrize("name", ["best_model.onnx", "best_model.pth", "manifest.json"])
    def test_rejects_files_that_changed_after_the_registration(
        self, name: str, make: Make, repository: Path, tmp_path: Path
    ) -> None:
        register(make(), repository)
        path = tmp_path / "store" / "versions" / "v1" / name
        path.write_bytes(path.read_bytes().replace(b"2026", b"2027"))
        before = state(repository, tmp_path / "store")
        with pytest.raises(RegistryError, match=f"({re.escape(name)}|manifest) of v1.*Do not use"):
            promote(make(), "staging", repository=repository)
        assert state(repository, tmp_path / "store") == before

    def test_rejects_a_second_process_in_one_clone(self, make: Make, repository: Path, tmp_path: Path) -> None:
        register(make(), repository)
        lock = FileLock(repository / ".git" / "model-registry.lock")
        with lock, pytest.raises(RegistryError, match="Another process"):
            promote(make(), "staging", repository=repository)
        assert promote(make(), "staging", repository=repository)[0] == "v1"

    def test_the_table_shows_the_state(self, make: Make, repository: Path, tmp_path: Path) -> None:
        register(make(), repository)
        promote(make(), "staging", repository=repository)
        output = shown(make(), repository)
        for text in ("v1", "staging", "100.00", "complete", git(repository, "rev-parse", "HEAD")[:8]):
            assert text in output
        path = tmp_path / "store" / "versions" / "v1" / "manifest.json"
        path.write_text(path.read_text() + "\n")
        assert "manifest changed" in shown(make(), repository)


def shown(config: Config, repository: Path) -> str:
    console = Console(width=250)
    with console.capture() as capture:
        console.print(table(config, repository))
    return capture.get()


class TestSharedGit:
    @pytest.fixture
    def origin(self, repository: Path, tmp_path: Path) -> Path:
        git(tmp_path, "init", "--quiet", "--bare", "origin.git")
        git(repository, "remote", "add", "origin", str(tmp_path / "origin.git"))
        git(repository, "push", "--quiet", "origin", "HEAD:refs/heads/main")
        return tmp_path / "origin.git"

    def test_tags_are_pushed(self, make: Make, repository: Path, origin: Path) -> None:
        register(make("good"), repository, push=True)
        promote(make("good"), "staging", repository=repository, push=True)
        assert git(origin, "tag").split() == git(repository, "tag").split() != []

    def test_the_second_of_two_clones_fails_and_changes_nothing(
        self, make: Make, repository: Path, origin: Path, tmp_path: Path
    ) -> None:
        register(make("good"), repository, push=True)
        git(tmp_path, "clone", "--quiet", "--branch", "main", str(origin), "second")
        second = tmp_path / "second"
        identify(second, "B")
        promote(make("good"), "production", repository=repository, push=True)
        # Remove the promotion from the store, as if both clones had read it at the same time.
        (tmp_path / "store" / "stages" / "production.json").unlink()
        before = state(second, tmp_path / "store")
        with pytest.raises(RegistryError, match=r"gtsrb#production#\d+ to origin.*git fetch --tags"):
            promote(make("good"), "production", repository=second, push=True)
        assert state(second, tmp_path / "store") == before


class TestSync:
    """Git tags are the truth; the store has a copy for services."""

    @pytest.fixture
    def store(self, make: Make, repository: Path, tmp_path: Path) -> Path:
        """Returns a store where v1 was promoted to production, then v2, and then rolled back."""
        register(make("good"), repository)
        promote(make("good"), "production", repository=repository)
        register(make("equal"), commit(repository))
        promote(make("equal"), "production", repository=repository)
        rollback(make(), "production", repository)
        return tmp_path / "store"

    @pytest.fixture
    def served(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
        monkeypatch.setenv("MLOPS_MODEL_STORE", str(store))
        return lambda: locate_model("gtsrb@production").parent.name

    def test_writes_the_same_file_again(
        self, make: Make, repository: Path, store: Path, served: Callable[[], str]
    ) -> None:
        before = state(repository, store)
        shutil.rmtree(store / "stages")
        with pytest.raises(RegistryError, match="No version is promoted to production"):
            served()
        sync(make(), repository)
        sync(make(), repository)
        assert state(repository, store) == before
        assert served() == "v1"

    def test_converts_the_stages_of_an_earlier_release(
        self, make: Make, repository: Path, store: Path, served: Callable[[], str]
    ) -> None:
        to_old_format(repository, store)
        assert served() == "v1"
        assert "production (not in the store yet: inv registry.sync)" in shown(make(), repository)
        sync(make(), repository)
        assert served() == "v1"
        assert promote(make("equal"), "production", "v2", repository=repository)[0] == "v2"
        assert served() == "v2"
        (store / "stages" / "production.json").unlink()
        with pytest.raises(RegistryError, match="No version is promoted"):  # and not v1 from the old records
            served()

    @pytest.mark.parametrize("old", [True, False])
    def test_refuses_tags_that_are_older_than_the_store(
        self, old: bool, make: Make, repository: Path, store: Path
    ) -> None:
        place = "stages/production" if old else "stages/production.json"
        if old:
            to_old_format(repository, store)
        git(repository, "tag", "--delete", "gtsrb#production#3")
        before = state(repository, store)
        for command in (
            lambda: sync(make(), repository),
            lambda: table(make(), repository),
            lambda: rollback(make(), "production", repository),
            lambda: promote(make(), "production", "v1", repository=repository),
            lambda: promote(make(), "staging", "v1", repository=repository),  # is compared with production
        ):
            with pytest.raises(
                RegistryError, match=rf"{re.escape(str(store))}.*production.*`git fetch --tags`.*delete {place} in"
            ):
                command()
        assert state(repository, store) == before
        (shutil.rmtree if old else Path.unlink)(store / place)  # as the error says
        sync(make(), repository)
        assert stored(store)["tag"] == "gtsrb#production#2"

    def test_refuses_versions_that_are_not_in_the_store(
        self, make: Make, repository: Path, store: Path, tmp_path: Path
    ) -> None:
        other = make(store=str(tmp_path / "other"))
        with pytest.raises(RegistryError, match=rf"Version v1 .*{re.escape(str(tmp_path / 'other'))}"):
            sync(other, repository)
        shutil.copytree(store / "versions", tmp_path / "other" / "versions")
        sync(other, repository)
        assert stored(tmp_path / "other") == stored(store)

    def test_the_table_says_what_is_not_in_the_store(self, make: Make, repository: Path, store: Path) -> None:
        (store / "stages" / "production.json").unlink()
        assert "production (not in the store yet: inv registry.sync)" in shown(make(), repository)

    def test_tags_that_the_registry_did_not_write_are_ignored(self, make: Make, repository: Path, store: Path) -> None:
        git(repository, "tag", "--annotate", "gtsrb#production#4", "-m", "by hand")
        git(repository, "tag", "gtsrb#production#5")
        git(repository, "tag", "--annotate", "gtsrb#production#6", "-m", '{"version": "v2"}')
        git(repository, "tag", "--annotate", "gtsrb#production#next", "-m", '{"version": "v2"}')
        sync(make(), repository)
        assert stored(store)["tag"] == "gtsrb#production#3"

    def test_signed_tags_are_read(self, make: Make, repository: Path, store: Path) -> None:
        before = stored(store)
        for name in git(repository, "tag").split():
            message = git(repository, "tag", "--list", name, "--format=%(contents)")
            signature = "-----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----"
            git(repository, "tag", "--annotate", "--force", name, f"{name}^{{}}", "-m", f"{message}\n{signature}")
        sync(make(), repository)
        assert stored(store) == before

    def test_a_promotion_that_was_killed_before_the_store_was_written(
        self, make: Make, repository: Path, store: Path, served: Callable[[], str]
    ) -> None:
        before = (store / "stages" / "production.json").read_bytes()
        promote(make("equal"), "production", "v2", repository=repository)
        (store / "stages" / "production.json").write_bytes(before)
        with pytest.raises(RegistryError, match=r"v2 is already in production.*`inv registry.sync`"):
            promote(make("equal"), "production", "v2", repository=repository)
        sync(make(), repository)
        assert served() == "v2"

    def test_a_rollback_returns_to_the_version_before_although_a_tag_is_lost(
        self, make: Make, repository: Path, store: Path
    ) -> None:
        promote(make("equal"), "production", "v2", repository=repository)  # 4
        register(make("bad"), commit(repository))
        promote(make("bad"), "production", "v3", repository=repository, force=True)  # 5
        rollback(make(), "production", repository)  # 6
        git(repository, "tag", "--delete", "gtsrb#production#5")
        assert rollback(make(), "production", repository) == "v1"

    def test_a_store_that_cannot_be_written(self, make: Make, repository: Path, store: Path) -> None:
        before = state(repository, store)
        (store / "stages" / ".production.json.lock").unlink(missing_ok=True)
        (store / "stages" / ".production.json.lock").mkdir()  # instead of a folder without permission, for root
        with pytest.raises(StorageError, match=r"stages/production\.json"):
            promote(make("equal"), "production", "v2", repository=repository)
        assert state(repository, store) == before


def to_old_format(repository: Path, store: Path) -> None:
    """Writes one file per promotion, as earlier releases did."""
    (store / "stages" / "production.json").unlink()
    (store / "stages" / "production").mkdir()
    for number in (1, 2, 3):
        record = git(repository, "tag", "--list", f"gtsrb#production#{number}", "--format=%(contents)")
        (store / "stages" / "production" / f"{number:05d}.json").write_text(record)


class TestBucket:
    def test_register_and_promote(self, make: Make, repository: Path, cloud: Cloud) -> None:
        register(make("good", store=REMOTE_STORE), repository)
        promote(make("good", store=REMOTE_STORE), "staging", repository=repository)
        promote(make("good", store=REMOTE_STORE), "production", repository=repository)
        assert sorted(cloud.objects()) == [
            "gtsrb/models/stages/production.json",
            "gtsrb/models/stages/staging.json",
            *(f"gtsrb/models/versions/v1/{name}" for name in (
                "best_model.onnx", "best_model.pth", "claim.json", "manifest.json",
            )),
        ]  # fmt: skip

    def test_a_failed_upload_registers_nothing(self, make: Make, repository: Path, cloud: Cloud) -> None:
        cloud.fail("503", method="POST", part="upload")
        with pytest.raises(StorageError, match=f"{REMOTE_STORE}/versions/v1"):
            register(make(store=REMOTE_STORE), repository)
        assert state(repository, REMOTE_STORE) == ([], {})
        cloud.heal()
        fault = cloud.fail("503", method="POST", part="upload", times=30)
        fault.times = 0
        assert register(make(store=REMOTE_STORE), repository) == "v1"

    def test_a_promotion_that_cannot_be_written_leaves_the_stage_unchanged(
        self, make: Make, repository: Path, cloud: Cloud
    ) -> None:
        register(make(store=REMOTE_STORE), repository)
        before = state(repository, REMOTE_STORE)
        cloud.fail("503", method="POST", part="upload")
        with pytest.raises(UnreachableError):
            promote(make(store=REMOTE_STORE), "staging", repository=repository)
        assert state(repository, REMOTE_STORE) == before

    def test_production_needs_a_version_that_was_in_staging(self, make: Make, repository: Path, cloud: Cloud) -> None:
        config = make("good", store=REMOTE_STORE)
        register(config, repository)
        register(make("equal", store=REMOTE_STORE), repository)
        promote(config, "staging", "v1", repository=repository)
        before = state(repository, REMOTE_STORE)
        for force in (False, True):
            with pytest.raises(RegistryError, match=r"v2 was not in staging.*--version v2 --stage staging"):
                promote(config, "production", "v2", repository=repository, force=force)
        assert state(repository, REMOTE_STORE) == before
        promote(config, "staging", "v2", repository=repository)
        promote(config, "production", "v1", repository=repository)  # is no longer there, but was not rolled back
        rollback(config, "staging", repository)
        with pytest.raises(RegistryError, match=r"v2 .*was rolled back"):
            promote(config, "production", "v2", repository=repository)
        assert [tag for tag in git(repository, "tag").split() if "#production#" in tag] == ["gtsrb#production#3"]

    def test_a_rollback_needs_no_staging(self, make: Make, repository: Path, cloud: Cloud) -> None:
        config = make("good", store=REMOTE_STORE)
        register(config, repository)
        promote_both(config, repository)
        register(make("equal", store=REMOTE_STORE), repository)
        promote_both(config, repository)
        rollback(config, "staging", repository)
        assert rollback(config, "production", repository) == "v1"

    def test_two_promotions_at_the_same_time(
        self, make: Make, repository: Path, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two clones read the same state and both promote: one succeeds, the other changes nothing."""
        register(make(store=REMOTE_STORE), repository)
        git(tmp_path, "clone", "--quiet", str(repository), "second")
        second = tmp_path / "second"
        identify(second, "B")
        both = threading.Barrier(2, timeout=60)
        measured = registry.run_gate

        def gate(*arguments: Any) -> Any:
            checks = measured(*arguments)
            both.wait()
            return checks

        monkeypatch.setattr(registry, "run_gate", gate)
        outcomes: list[object] = []

        config = make(store=REMOTE_STORE)

        def attempt(clone: Path) -> None:
            try:
                outcomes.append(promote(config, "staging", repository=clone)[0])
            except MlopsError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=attempt, args=(clone,)) for clone in (repository, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [error] = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert isinstance(error, RegistryError)
        assert re.search("staging.*inv registry.list", str(error))
        assert [outcome for outcome in outcomes if outcome is not error] == ["v1"]
        assert [name for name in cloud.objects() if "stages/" in name] == ["gtsrb/models/stages/staging.json"]
        assert sum("gtsrb#staging" in git(clone, "tag") for clone in (repository, second)) == 1


def promote_both(config: Config, repository: Path) -> None:
    promote(config, "staging", repository=repository)
    promote(config, "production", repository=repository)


class TestServingByName:
    @pytest.fixture
    def served(
        self, make: Make, repository: Path, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Make:
        monkeypatch.setenv("MLOPS_MODEL_STORE", REMOTE_STORE)
        monkeypatch.setenv("MLOPS_MODEL_CACHE", str(tmp_path / "cache"))
        register(make("good", store=REMOTE_STORE), repository)
        promote_both(make("good", store=REMOTE_STORE), repository)
        return make

    @pytest.mark.parametrize(
        "reference",
        [
            "models:/gtsrb@production",
            "gtsrb@production",
            "gtsrb@v1",
            "models:/gtsrb@v1.0.0",
            f"{REMOTE_STORE}/versions/v1",
            f"{REMOTE_STORE}/versions/v1/best_model.onnx",
        ],
    )
    def test_every_name_finds_the_file(self, reference: str, served: Make, models: Path, cloud: Cloud) -> None:
        path = locate_model(reference)
        assert sha256(path) == sha256(models / "good" / SERVED)
        Classifier.load(path)
        cloud.requests.clear()
        assert locate_model(reference) == path
        assert [request for request in cloud.requests if "onnx?alt=media" in request] == []

    def test_a_name_follows_promotions_and_rollbacks(self, served: Make, repository: Path, models: Path) -> None:
        locate_model("gtsrb@production")
        register(served("equal", store=REMOTE_STORE), commit(repository))
        promote_both(served("equal", store=REMOTE_STORE), repository)
        assert sha256(locate_model("gtsrb@production")) == sha256(models / "equal" / SERVED)
        rollback(served("equal", store=REMOTE_STORE), "production", repository)
        assert sha256(locate_model("gtsrb@production")) == sha256(models / "good" / SERVED)

    def test_uses_the_copy_if_the_bucket_is_unreachable(
        self, served: Make, cloud: Cloud, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = locate_model("gtsrb@production")
        cloud.fail("503")
        assert locate_model("gtsrb@production") == path
        assert "copy of gtsrb@production" in caplog.text
        with pytest.raises(UnreachableError):
            locate_model("gtsrb@v1")  # has no copy
        path.write_bytes(b"corrupted")
        with pytest.raises(UnreachableError):
            locate_model("gtsrb@production")
        cloud.heal()
        Classifier.load(locate_model("gtsrb@production"))

    @pytest.mark.parametrize("kind", ["drop", "corrupt"])
    def test_a_corrupted_transfer_leaves_no_file(self, kind: str, served: Make, cloud: Cloud, tmp_path: Path) -> None:
        cloud.fail(kind, part="best_model.onnx?alt=media")
        with pytest.raises(StorageError, match=r"best_model\.onnx"):
            locate_model("gtsrb@production")
        assert list((tmp_path / "cache").rglob("*.onnx")) == []
        cloud.heal()
        Classifier.load(locate_model("gtsrb@production"))

    def test_a_copy_that_cannot_be_written(self, served: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("MLOPS_MODEL_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(StorageError, match=rf"{re.escape(str(tmp_path / 'file' / 'cache'))}.*MLOPS_MODEL_CACHE"):
            locate_model("gtsrb@production")

    def test_rejects_another_file_than_was_registered(self, served: Make, cloud: Cloud, tmp_path: Path) -> None:
        cloud.put("gtsrb/models/versions/v1/best_model.onnx", b"another model")
        with pytest.raises(RegistryError, match=hashlib.sha256(b"another model").hexdigest()[:12]):
            locate_model("gtsrb@production")
        assert list((tmp_path / "cache").rglob("*.onnx")) == []
        manifest = json.loads(cloud.objects()["gtsrb/models/versions/v1/manifest.json"])
        manifest["metrics"]["Accuracy"] = 2
        changed = json.dumps(manifest).encode()
        cloud.put("gtsrb/models/versions/v1/manifest.json", changed)
        with pytest.raises(RegistryError, match=f"manifest.*{hashlib.sha256(changed).hexdigest()[:12]}"):
            locate_model("gtsrb@production")

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            ("gtsrb@v9", "v9.*v1"),
            ("models:/cats@production", "(?=.*models:/gtsrb@production)(?=.*models:/cats@production)"),
            ("models:/gtsrb@newest", "(?=.*v3)(?=.*newest)"),
            (f"gs://{BUCKET}/elsewhere/best_model.onnx", r"(?=.*manifest\.json)(?=.*elsewhere/best_model\.onnx)"),
            (f"gs://{BUCKET}/gtsrb/models/versions/v1/other.onnx", r"(?=.*other\.onnx)(?=.*v1)"),
        ],
    )
    def test_names_that_do_not_exist(self, reference: str, message: str, served: Make) -> None:
        with pytest.raises(RegistryError, match=message):
            locate_model(reference)

    def test_a_local_store(self, make: Make, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLOPS_MODEL_STORE", str(tmp_path / "store"))
        register(make(), repository)
        path = locate_model("gtsrb@v1")
        assert path == tmp_path / "store" / "versions" / "v1" / SERVED
        path.write_bytes(b"corrupted")
        with pytest.raises(RegistryError, match=hashlib.sha256(b"corrupted").hexdigest()[:12]):
            locate_model("gtsrb@v1")

    def test_corrupted_records(self, served: Make, cloud: Cloud) -> None:
        cloud.put("gtsrb/models/stages/production.json", b"{")
        with pytest.raises(RegistryError, match=r"stages/production\.json.*inv registry\.sync"):
            locate_model("gtsrb@production")
        cloud.put("gtsrb/models/versions/v1/manifest.json", b'{"files": {"best_model.onnx": {"sha256": "short"}}}')
        with pytest.raises(RegistryError, match=r"(?=.*manifest)(?=.*v1)(?=.*AttributeError)"):
            locate_model("gtsrb@v1")


def test_serving_by_name_needs_no_torch_and_no_bucket_packages(tmp_path: Path) -> None:
    program = (
        "import sys; from src.mlops.errors import MlopsError; from src.mlops.modelfile.locate import locate_model\n"
        "try: locate_model('gtsrb@production')\nexcept MlopsError as error: print(error)\n"
        "print(sorted({'torch', 'hydra', 'pandas', 'fsspec', 'google.cloud', 'tenacity', 'gto'} & set(sys.modules)))"
    )
    environment = {"MLOPS_MODEL_STORE": str(tmp_path), "PATH": ""}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "inv registry.promote --stage production" in result.stdout
    assert result.stdout.endswith("[]\n")


def test_the_service_reads_from_the_store_of_the_registry() -> None:
    assert quick_config().registry.store == STORE[1]
    cloud = quick_config(["registry=gcs"])
    assert cloud.registry.store == cloud.cloud.models == f"gs://{cloud.cloud.bucket}/gtsrb/models"


class TestWandb:
    def test_a_version_and_its_stage_become_an_artifact(
        self, make: Make, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[object] = []
        monkeypatch.setitem(sys.modules, "wandb", _fake_wandb(calls))
        config = make("good", "tracking=wandb")
        register(config, repository)
        assert calls == [("file", "best_model.onnx"), ("file", "best_model.pth"), ("log", [f"{model_name()}-v1"])]
        promote(config, "staging", repository=repository)
        assert calls[3:] == [("artifact", f"gtsrb-signs/{model_name()}:{model_name()}-v1"), ("saved", ["staging"])]

    def test_a_failure_of_wandb_is_only_logged(
        self, make: Make, repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(login=lambda **_: 1 / 0))
        assert register(make("good", "tracking=wandb"), repository) == "v1"
        assert re.search("v1.*division by zero", caplog.text)


def _fake_wandb(calls: list[object]) -> SimpleNamespace:
    class Run:
        def __enter__(self) -> "Run":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def log_artifact(self, _: object, aliases: list[str]) -> None:
            calls.append(("log", aliases))

    def artifact(where: str) -> SimpleNamespace:
        calls.append(("artifact", where))
        aliases: list[str] = []
        return SimpleNamespace(aliases=aliases, save=lambda: calls.append(("saved", aliases)))

    return SimpleNamespace(
        login=lambda **_: True,
        init=lambda **_: Run(),
        Artifact=lambda *_, **__: SimpleNamespace(add_file=lambda path: calls.append(("file", Path(path).name))),
        Api=lambda: SimpleNamespace(artifact=artifact),
    )


def test_versions_of_an_empty_store(tmp_path: Path) -> None:
    assert versions(open_storage(str(tmp_path / "none"))) == []
