"""Five classes with names instead of numbers, from folders of images to a service, and class lists that do not mix."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from fastapi.testclient import TestClient

from src.mlops.config import Config
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, DataError
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.evaluation.robustness import robustness
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.checkpoint import load_checkpoint, read_plain, write_content
from src.mlops.modelfile.onnx_export import export
from src.mlops.registry.gate import run_gate
from src.mlops.registry.register import register
from src.mlops.registry.registry import promote
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings
from src.mlops.serving.shared import FOLDER_VARIABLE
from src.mlops.training.train import train
from tests.helpers.images import make_image
from tests.helpers.once import made_once
from tests.helpers.tiny import quick_config, tiny_overrides

NAMES = ["2 rings", "10 rings", "give way", "stop", "Überholverbot"]  # in natural order
ADMIN = {"Authorization": "Bearer secret"}
LENIENT = ["gate.max_calibration_error=1", "gate.min_class_f1=0", "gate.max_latency_ms=1000", "gate.min_robustness=0"]


def write_folders(root: Path, names: list[str]) -> Path:
    """Writes 12 images of each class to a folder with its name."""
    for class_id, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(12):
            make_image(class_id, number).save(root / name / f"photo {number}.png")
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a model of five classes: raw/, processed/, run/, latest/, reports/."""

    def make(folder: Path) -> None:
        config = quick_config([*overrides(folder, write_folders(folder / "raw", NAMES)), "training.export=true"])
        train(config)
        evaluate(config)
        robustness(config)

    return made_once(tmp_path_factory, "own_classes", make)


def overrides(folder: Path, raw_dir: Path) -> list[str]:
    return [*tiny_overrides(folder, raw_dir), "training.epochs=18", "training.batch_size=8", *LENIENT]


@pytest.fixture
def model(own: Path) -> Path:
    return own / "latest" / "best_model.onnx"


def variant(model: Path, folder: Path, **changes: Any) -> Path:
    """Writes a changed copy of a checkpoint with its export."""
    path = folder / "best_model.pth"
    path.parent.mkdir(parents=True)
    write_content(path, read_plain(model.with_suffix(".pth")) | changes)
    return export(path)


def other_classes(model: Path, folder: Path) -> Path:
    """Writes a model whose classes have other names."""
    classes = [
        entry | {"name": f"other {entry['name']}"}
        for entry in load_checkpoint(model.with_suffix(".pth")).classes.to_dicts()
    ]
    return variant(model, folder, classes=classes)


class TestFromFoldersToService:
    def test_the_folder_names_become_the_class_list(self, own: Path) -> None:
        assert prepare(quick_config(tiny_overrides(own, own / "raw")).data).classes.names == NAMES
        text = (own / "processed" / "classes.csv").read_text(encoding="utf-8")
        assert text.splitlines()[:2] == ["id,name,number,shape,mirror", "0,2 rings,,,"]

    def test_the_network_has_one_output_per_class(self, own: Path, model: Path) -> None:
        assert load_checkpoint(own / "latest" / "best_model.pth").model.head.out_features == 5
        stored = {prop.key: prop.value for prop in onnx.load(model).metadata_props}
        assert [entry["name"] for entry in json.loads(stored["classes"])] == NAMES

    def test_predictions_have_the_names(self, own: Path, model: Path) -> None:
        image = own / "raw" / "Überholverbot" / "photo 3.png"
        for path in (model, model.with_suffix(".pth")):
            [found] = Classifier.load(path).classify([image])
            assert (found.class_name, found.sign_number, len(found.top_k)) == ("Überholverbot", None, 5)

    def test_reports_have_the_names(self, own: Path) -> None:
        metrics = json.loads((own / "reports" / "metrics.json").read_text())
        assert [row["name"] for row in metrics["classes"]] == NAMES
        assert metrics["Accuracy"] > 0.9
        report = json.loads((own / "reports" / "robustness.json").read_text())
        assert report["direction"] is None  # no class has a mirrored class
        assert {row["name"] for row in report["worst_classes"]} <= set(NAMES)
        assert (own / "reports" / "figures" / "confusion_matrix.png").is_file()

    def test_the_service_has_the_names(self, own: Path, model: Path) -> None:
        content = (own / "raw" / "stop" / "photo 0.png").read_bytes()
        with TestClient(create_app(Settings(model=str(model)))) as client:
            answer = client.post("/cv_model/", files={"file": ("a.png", content)}).json()
            assert (answer["class_name"], answer["predicted_class"], answer["sign_number"]) == ("stop", 3, None)
            assert [entry["name"] for entry in client.get("/model").json()["classes"]] == NAMES
            assert 'mlops_predictions_total{class_id="4",class_name="Überholverbot"} 0.0' in client.get("/metrics").text
            assert client.post("/cv_model/explain", files={"file": ("a.png", content)}).status_code == 200

    def test_a_version_is_registered_promoted_and_replaced(
        self, own: Path, tmp_path: Path, repository: Path, commit: Callable[[], None]
    ) -> None:
        make = _registry_config(own, tmp_path)
        provenance = read_plain(own / "latest" / "best_model.pth")["provenance"] | {"git_commit": "a" * 40}
        first = variant(own / "latest" / "best_model.onnx", tmp_path / "first", provenance=provenance)
        config = make(first)
        evaluate(config)
        robustness(config)
        assert register(config, repository) == "v1"
        promote(config, "production", "v1", repository)
        service = shutil.copy(first, tmp_path / "served.onnx")

        commit()
        second = variant(first, tmp_path / "second", provenance=provenance | {"created": "2026-11-30"})
        config = make(second)
        evaluate(config)
        robustness(config)
        assert register(config, repository) == "v2"
        promote(config, "production", "v2", repository)
        settings = Settings(model=str(service), admin_token="secret")
        with TestClient(create_app(settings)) as client:
            shutil.copy(second, service)
            answer = client.post("/admin/reload", headers=ADMIN)
            assert answer.json()["model_version"] == Classifier.load(second).version


class TestListsDoNotMix:
    def test_evaluation_refuses_images_of_other_classes(self, own: Path, checkpoint: Path) -> None:
        config = quick_config([*tiny_overrides(own, own / "raw"), f"ckpt_path={checkpoint}"])
        with pytest.raises(DataError, match="class 0 is '2 rings' instead of 'Speed limit 20 km/h'"):
            evaluate(config)

    def test_a_start_from_other_classes_is_refused(self, own: Path, checkpoint: Path, tmp_path: Path) -> None:
        config = quick_config(
            [*tiny_overrides(own, own / "raw"), f"training.start_from={checkpoint}", f"run_dir={tmp_path / 'run'}"]
        )
        with pytest.raises(ConfigError, match=r"start_from=.*5 classes instead of 43"):
            train(config)
        assert not (tmp_path / "run").exists()

    def test_a_run_is_not_resumed_with_renamed_classes(self, tmp_path: Path) -> None:
        raw = write_folders(tmp_path / "raw", NAMES)
        settings = [*overrides(tmp_path, raw), "training.epochs=1"]
        train(quick_config(settings))
        (raw / "stop").rename(raw / "stop sign")
        with pytest.raises(ConfigError, match=r"changed since its start: .*the classes"):
            train(quick_config([*settings, "training.resume=true"]))

    @pytest.mark.parametrize("signs", ["gtsrb", "germany"])
    def test_drawn_signs_are_refused(self, own: Path, signs: str) -> None:
        config = quick_config(["classes=germany", *tiny_overrides(own, own / "raw"), f"training.drawn.signs={signs}"])
        with pytest.raises(
            ConfigError,
            match=r"whose first classes must be those of the data.*class 0 is '2 rings' instead of .*classes=gtsrb",
        ):
            train(config)

    def test_the_gate_refuses_other_classes(self, own: Path, model: Path, tmp_path: Path) -> None:
        production = other_classes(model, tmp_path / "production").parent
        checks = run_gate(quick_config(overrides(own, own / "raw")), model.parent, production, None)
        assert (checks[0].name, checks[0].passed) == ("class list", False)
        assert "'2 rings' instead of 'other 2 rings'" in checks[0].found
        assert not any("production" in check.name for check in checks)  # their answers cannot be compared

    @pytest.mark.parametrize("allowed", [False, True])
    def test_a_service_keeps_its_class_list(self, model: Path, tmp_path: Path, allowed: bool) -> None:
        served = Path(shutil.copy(model, tmp_path / "served.onnx"))
        settings = Settings(model=str(served), admin_token="secret", allow_other_classes=allowed)
        with TestClient(create_app(settings)) as client:
            shutil.copy(other_classes(model, tmp_path / "other"), served)
            assert client.post("/admin/reload", headers=ADMIN).status_code == (200 if allowed else 409)
            names = [entry["name"] for entry in client.get("/model").json()["classes"]]
            assert names == ([f"other {name}" for name in NAMES] if allowed else NAMES)

    def test_a_worker_that_is_restarted_keeps_the_class_list_of_the_others(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
        other = other_classes(model, tmp_path / "other")
        for path, status in ((model, 200), (other, 503), (model, 200)):
            with TestClient(create_app(Settings(model=str(path)))) as client:
                assert client.get("/health/ready").status_code == status


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    for command in (
        ("init", "--quiet", str(folder)),
        ("-C", str(folder), "config", "user.name", "A Name"),
        ("-C", str(folder), "config", "user.email", "a@example.org"),
        ("-C", str(folder), "commit", "--quiet", "--allow-empty", "-m", "first"),
    ):
        subprocess.run(["git", *command], check=True)
    return folder


@pytest.fixture
def commit(repository: Path) -> Callable[[], None]:
    """Returns a function that makes a commit that has no version yet."""

    def make() -> None:
        subprocess.run(["git", "-C", str(repository), "commit", "--quiet", "--allow-empty", "-m", "next"], check=True)

    return make


def _registry_config(own: Path, folder: Path) -> Callable[[Path], Config]:
    def make(model: Path) -> Config:
        return quick_config(
            [
                *overrides(own, own / "raw"),
                f"ckpt_path={model.with_suffix('.pth')}",
                f"evaluation.reports_dir={folder / 'reports'}",
                f"registry.store={folder / 'store'}",
            ]
        )

    return make
