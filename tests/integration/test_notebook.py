"""The notebook for students: it runs, and the results are those that its text states."""

import json
import re
import subprocess
import sys
from typing import Any

import matplotlib.pyplot as plt
import pytest

from src.mlops import ROOT

NOTEBOOK = ROOT / "notebooks/first_model.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}


def test_has_no_outputs() -> None:
    assert not [cell["id"] for cell in CELLS if cell.get("outputs") or cell.get("execution_count")], (
        f"Remove them with `uv run --group notebook jupyter nbconvert --clear-output --inplace {NOTEBOOK}`"
    )


def test_links_lead_to_a_file() -> None:
    text = "".join(line for cell in CELLS if cell["cell_type"] == "markdown" for line in cell["source"])
    links = re.findall(r"\]\((\.[^)#]*)", text)
    assert links
    for link in links:
        assert (NOTEBOOK.parent / link).is_file(), link


def test_finds_the_package_from_its_own_folder() -> None:
    subprocess.run([sys.executable, "-P", "-c", CODE["load"]], cwd=NOTEBOOK.parent, check=True)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Returns the variables of the notebook after its last cell."""
    variables: dict[str, Any] = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(NOTEBOOK.parent)
        patch.setattr(sys, "path", [*sys.path])
        plt.switch_backend("agg")
        for name, code in CODE.items():
            exec(compile(code, f"{NOTEBOOK.name}, cell {name}", "exec"), variables)
        plt.close("all")
    return variables


def test_all_answers_are_right(results: dict[str, Any]) -> None:
    assert [answer.predicted_class for answer in results["predictions"]] == results["labels"]
    assert not any(answer.is_unknown for answer in results["predictions"])


def test_evidence_shows_what_decided(results: dict[str, Any]) -> None:
    classify, labels = results["classifier"].classify, results["labels"]
    without, with_it = classify(results["strongest"]), classify(results["weakest"])
    assert all(answer.probability > 0.99 for answer in with_it)
    less_sure = [first.probability < second.probability for first, second in zip(without, with_it, strict=True)]
    assert sum(less_sure) >= len(labels) - 1
    assert sum(answer.predicted_class != label for answer, label in zip(without, labels, strict=True)) == 2


def test_the_model_reports_that_rain_is_difficult(results: dict[str, Any]) -> None:
    clear, bad = results["measured"].loc[0], results["measured"].loc[5]
    assert bad["right", "blur"] > 0.9
    assert 0.5 < bad["right", "rain"] < 0.65
    assert clear["right", "rain"] > 0.92
    assert bad["probability", "rain"] < clear["probability", "rain"] - 0.3
    assert bad["energy", "rain"] > clear["energy", "rain"] + 2
    assert bad["unknown", "rain"] > 0.5


def test_all_unknown_images_are_found(results: dict[str, Any]) -> None:
    shares = {kind: (values > results["threshold"]).mean() for kind, values in results["scores"].items()}
    assert 1 / 8 < shares.pop("known sign") < 1 / 6
    assert set(shares.values()) == {1}


def test_known_signs_that_are_reported_are_difficult(results: dict[str, Any]) -> None:
    outputs = results["classifier"].run(results["clear"])
    right = outputs.probabilities.argmax(axis=1) == results["clear_labels"]
    reported = results["scores"]["known sign"] > results["threshold"]
    assert right[reported].mean() < 0.75
    assert right[~reported].mean() > 0.98


def test_fog_is_drift_and_clear_images_are_not(results: dict[str, Any]) -> None:
    clear, fog = results["reports"]["clear"], results["reports"]["fog"]
    assert clear["findings"] == []
    assert fog["findings"][0]["kind"] == "camera"
    assert fog["accuracy"]["accuracy"] < clear["accuracy"]["accuracy"]
    for row, report in zip(results["rows"], (clear, fog), strict=True):
        assert report["accuracy"]["low"] <= row["accuracy"] <= report["accuracy"]["high"]
    features = results["features"]
    assert set(features["evidence"].nlargest(2).index) == {"saturation", "black_level"}
    assert features.loc["saturation", "after"] < features.loc["saturation", "before"]
    assert features.loc["black_level", "after"] > features.loc["black_level", "before"]
