"""Model card, data card, and the robustness measurement."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from src.mlops.config import Config
from src.mlops.data.classes import ClassInfo, ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.prepare import prepare
from src.mlops.data.statements import statements_of
from src.mlops.errors import CheckpointError, DataError
from src.mlops.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.evaluation.model_card import data_card, model_card, write_cards
from src.mlops.evaluation.robustness import robustness
from src.mlops.evaluation.stickers import SHARES
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.calibration import Calibration
from src.mlops.modelfile.checkpoint import read_plain, write_content
from src.mlops.modelfile.onnx_export import export
from src.mlops.project import load_project
from tests.helpers.graphs import with_classes
from tests.helpers.tiny import quick_config, tiny_overrides


def config_of(trained: Path, tmp_path: Path, *overrides: str) -> Config:
    own = [*tiny_overrides(trained, trained / "raw"), f"evaluation.reports_dir={tmp_path / 'reports'}"]
    return quick_config([*own, *overrides])


class TestReports:
    def test_robustness(self, trained: Path, exported: Path, tmp_path: Path) -> None:
        config = config_of(trained, tmp_path)
        results = robustness(config)
        arrays = prepare(config.data).load("test")
        images, labels = arrays.images[arrays.rows], arrays.labels
        classifier = Classifier.load(exported)

        def classes(images: NDArray[np.uint8]) -> NDArray[np.int64]:
            return classifier.run(images).probabilities.argmax(axis=1)

        assert results["images"] == len(labels) == 12
        assert results["clean"] == pytest.approx((classes(images) == labels).mean())
        assert set(results["accuracy"]) == set(CORRUPTIONS)
        assert all(len(row) == len(SEVERITIES) for row in results["accuracy"].values())
        fog = [(classes(corrupt(images, "fog", severity)) == labels).mean() for severity in SEVERITIES]
        assert results["accuracy"]["fog"] == pytest.approx(fog)
        assert results["mean"] == pytest.approx(np.mean(list(results["accuracy"].values())))
        lights = [np.clip(images * factor, 0, 255).astype(np.uint8) for factor in (0.9, 1.1)]
        assert results["invariance"] == pytest.approx(np.mean([classes(light) == classes(images) for light in lights]))
        assert results["images_with_stickers"] == 12
        without, *with_stickers = results["stickers"]
        assert without["accuracy"] == results["clean"]
        assert len(with_stickers) == 2 * len(SHARES)
        for name in ("robustness.png", "corruptions.png", "stickers.jpg"):
            assert (tmp_path / "reports" / "figures" / name).stat().st_size > 5000

    def test_robustness_needs_an_export(self, trained: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"none\.onnx"):
            robustness(config_of(trained, tmp_path, f"ckpt_path={tmp_path}/none.pth"))

    def test_cards_contain_the_measured_results(self, trained: Path, exported: Path, tmp_path: Path) -> None:
        config = config_of(trained, tmp_path)
        with pytest.raises(DataError, match=r"metrics\.json.*`inv evaluate`"):
            write_cards(config)
        results = evaluate(config)
        model_card, data_card = write_cards(config)
        text = model_card.read_text()
        assert f"{100 * results['Accuracy']:.2f} %, {results['errors']} misclassified" in text
        assert "`inv model.robustness`" in text
        assert Classifier.load(exported).version in text
        attained = 100 * results["calibration"]["attained_coverage"]
        assert attained < 99.9
        assert f"target: 99.9 %, attained by calibration: {attained:.4g} %" in text
        assert re.search(rf"too few .*99\.9 %\. The sets attain {attained:.4g} %", text)
        measured = robustness(config)
        write_cards(config)
        text = model_card.read_text()
        assert f"{100 * measured['mean']:.2f} %" in text
        row = measured["stickers"][-1]
        values = " | ".join(f"{100 * row[name]:.2f}" for name in ("accuracy", "called_unknown", "wrong_not_unknown"))
        assert f"| saliency | 20 | {values} |" in text
        robust = tmp_path / "reports" / "robustness.json"
        robust.write_text(json.dumps({name: value for name, value in measured.items() if "stickers" not in name}))
        write_cards(config)  # with the results of an earlier release
        assert "Stickers" not in model_card.read_text()
        assert re.search("^## .*checks", data_card.read_text(), re.MULTILINE)

    def test_cards_of_other_classes_say_nothing_about_signs(
        self, trained: Path, exported: Path, tmp_path: Path
    ) -> None:
        names = [f"pipe | <b>bold</b> *{place}*" for place in range(len(SIGNS))]
        classes = ClassList(ClassInfo(place, name) for place, name in enumerate(names))
        classifier = Classifier.load(with_classes(exported, tmp_path / "other.onnx", classes))
        results = evaluate(config_of(trained, tmp_path))
        rows = [row | {"name": names[row["class_id"]]} for row in results["classes"]]
        text = model_card(classifier, results | {"classes": rows}, None)
        assert text.startswith(f"# Model card: {load_project().title}\n")
        assert "Not stated. Set `intended_use` in `[tool.mlops]`" in text
        assert f"only these {len(SIGNS)} classes" in text
        assert r"| 0 | pipe \| \<b\>bold\</b\> \*0\* |" in text
        assert not re.search("German|GTSRB", text.partition("\n")[2])
        report = json.loads((trained / "processed" / "report.json").read_text())
        about = replace(statements_of(classes), data_source="a camera |\nin a hall")
        data = data_card(report, "f" * 8, about)
        assert r"| source | a camera \| in a hall |" in data
        assert "| licence | Not stated. Set `licence` in" in data
        assert not re.search("German|car |sign", data.partition("## ")[0])

    def test_cards_state_what_else_was_learned_from(self, trained: Path, exported: Path, tmp_path: Path) -> None:
        classifier = Classifier.load(exported)
        results = evaluate(config_of(trained, tmp_path))
        assert "unknown things" not in model_card(classifier, results, None)
        classifier.info.config["training"] |= {"outliers": {"images": 100, "seed": 0}, "teachers": ["other.pth"]}
        text = model_card(classifier, results, None)
        assert ", with rendered images of unknown things, with the probabilities of other models |" in text

    def test_cards_state_the_threshold_that_decides(self, trained: Path, exported: Path, tmp_path: Path) -> None:
        classifier = Classifier.load(exported)
        results = evaluate(config_of(trained, tmp_path))
        assert f"score above {classifier.info.calibration.unknown_threshold:.3f}" in model_card(
            classifier, results, None
        )
        cases = {"energy above -4.500 are flagged": {"energy_threshold": -4.5}, "No image is flagged as unknown.": {}}
        for sentence, stored in cases.items():  # the first is of an earlier release
            classifier.info = replace(classifier.info, calibration=Calibration.from_dict(stored))
            assert sentence in model_card(classifier, results, None)

    def test_cards_reject_results_of_another_model(self, trained: Path, exported: Path, tmp_path: Path) -> None:
        config = config_of(trained, tmp_path)
        evaluate(config)
        file = tmp_path / "reports" / "metrics.json"
        metrics = json.loads(file.read_text())
        metrics["provenance"]["seed"] = 99
        file.write_text(json.dumps(metrics))
        with pytest.raises(DataError, match=rf"metrics\.json.*{re.escape(str(config.ckpt_path))}.*`inv evaluate`"):
            write_cards(config)

    def test_results_of_earlier_releases(self, trained: Path, exported: Path, tmp_path: Path) -> None:
        config = config_of(trained, tmp_path)
        evaluate(config)
        file = tmp_path / "reports" / "metrics.json"
        metrics = json.loads(file.read_text(), parse_constant=pytest.fail)
        model = Path(shutil.copy(trained / "latest" / "best_model.pth", tmp_path / "best_model.pth"))
        old = {name: value for name, value in metrics["calibration"].items() if name != "attained_coverage"}
        write_content(model, read_plain(model) | {"calibration": old})
        export(model)
        file.write_text(json.dumps(metrics | {"calibration": old}))
        write_cards(config.replace({"ckpt_path": str(model)}))
        file.write_text(json.dumps(metrics | {"calibration": old | {"set_threshold": float("inf")}}))
        with pytest.raises(DataError, match=r"metrics\.json.*JSON.*`inv evaluate`"):
            write_cards(config.replace({"ckpt_path": str(model)}))

    def test_reports_that_cannot_be_written(self, trained: Path, exported: Path, tmp_path: Path) -> None:
        (tmp_path / "reports").write_text("a file")
        with pytest.raises(DataError, match=re.escape(str(tmp_path / "reports"))):
            robustness(config_of(trained, tmp_path))
