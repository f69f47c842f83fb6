"""The drift command: reads a log, writes the report, accepts baselines."""

import base64
import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from src.mlops.errors import DataError
from src.mlops.monitoring.drift import accepted, app, parse_window
from tests.helpers.traffic import baseline, records


@pytest.fixture
def model(tmp_path: Path) -> Path:
    baseline().save(tmp_path / "best_model.baseline.npz")
    return tmp_path / "best_model.onnx"


def _log(folder: Path, frame: pd.DataFrame) -> str:
    encoded = [base64.b64encode(value.tobytes()).decode() for value in frame["embedding"]]
    folder.mkdir()
    frame.assign(embedding=encoded).to_json(folder / "a.jsonl", orient="records", lines=True, date_format="iso")
    return str(folder)


def _run(*arguments: str) -> int:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code


class TestDrift:
    def test_writes_the_report(self, model: Path, tmp_path: Path) -> None:
        frame = records(500)
        frame.loc[200:, "noise"] += 2
        log = _log(tmp_path / "log", frame)
        out = tmp_path / "out"
        assert _run("--log", log, "--model", str(model), "--out", str(out)) == 0
        report = json.loads((out / "drift.json").read_text())
        assert report["drift"] is True
        assert report["findings"][0]["features"][0]["feature"] == "noise"
        assert report["baseline"]["name"] == "reference"
        assert 'mlops_drift_alarm{baseline="reference",kind="camera",' in (out / "drift.prom").read_text()
        page = (out / "drift.html").read_text()
        assert "The camera changed" in page
        assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
            "http://creativecommons.org", ""
        ).replace("https://matplotlib.org", "")
        assert _run("--log", log, "--model", str(model), "--out", str(out), "--fail") == 3

    def test_shows_stored_images(self, model: Path, tmp_path: Path) -> None:
        frame = records(500).assign(image=None)
        frame.loc[200:, "noise"] += 2
        frame.loc[[10, 300], "image"] = ["images/a.png", "images/expired.png"]
        log = _log(tmp_path / "log", frame)
        (tmp_path / "log" / "images").mkdir()
        (tmp_path / "log" / "images" / "a.png").write_bytes(b"PNG")
        assert _run("--log", log, "--model", str(model), "--out", str(tmp_path / "out")) == 0
        page = (tmp_path / "out" / "drift.html").read_text()
        assert page.count("data:image/png;base64,UE5H") == 1
        assert "no stored images" in page

    def test_accepts_a_window(self, model: Path, tmp_path: Path) -> None:
        frame = records(800)
        frame["noise"] += 2
        log = _log(tmp_path / "log", frame)
        assert _run("--log", log, "--model", str(model), "--accept", "--author", "Ada", "--window", "2h") == 0
        assert accepted(model) != model.with_name("best_model.baseline.npz")
        assert _run("--log", log, "--model", str(model), "--out", str(tmp_path / "out")) == 0
        report = json.loads((tmp_path / "out" / "drift.json").read_text())
        assert (report["drift"], report["baseline"]["author"], report["baseline"]["images"]) == (False, "Ada", 720)

    def test_a_missing_baseline(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no baseline next to the model"):
            accepted(tmp_path / "best_model.onnx")

    @pytest.mark.parametrize("text", ["", "24", "h", "0h", "-3h", "tomorrow", "2026-11-30/x", "99999999h"])
    def test_unreadable_windows(self, text: str) -> None:
        with pytest.raises(DataError, match="neither `all`"):
            parse_window(text)
