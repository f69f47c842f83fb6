"""The drift command: reads a log, writes the report, accepts baselines."""

import base64
import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import DataError
from src.mlops.evaluation.corruptions import corrupt
from src.mlops.monitoring.drift import accepted, app, parse_window
from src.mlops.monitoring.prediction_log import LogOptions, PredictionLog
from src.mlops.monitoring.schema import SCHEMA_VERSION
from src.mlops.monitoring.segments import CLOSED, RECORDS, pack_lines
from tests.helpers.recording import Counts, batch, prediction
from tests.helpers.traffic import CENTRES, CLASSES, baseline, records


@pytest.fixture
def model(tmp_path: Path) -> Path:
    baseline().save(tmp_path / "best_model.baseline.npz")
    return tmp_path / "best_model.onnx"


def _log(folder: Path, frame: pd.DataFrame) -> str:
    """Writes records as one segment of a prediction log."""
    encoded = [base64.b64encode(value.tobytes()).decode() for value in frame["embedding"]]
    rows = frame.assign(embedding=encoded, schema_version=SCHEMA_VERSION, record_id=[f"r{row}" for row in frame.index])
    day = folder / RECORDS / "date=2026-11-30"
    day.mkdir(parents=True)
    lines = rows.to_json(orient="records", lines=True, date_format="iso").encode().splitlines()
    (day / f"20261130T000000.000000Z-abcdef-000000{CLOSED}").write_bytes(pack_lines(lines))
    return str(folder)


def _predict(folder: Path, seed: int, corruption: str = "") -> str:
    """Records predictions of 300 images with the prediction log of the service."""
    log = PredictionLog(LogOptions(str(folder)), Counts())
    log.start()
    rng = np.random.default_rng(seed)
    for number in range(30):
        arrays = rng.integers(40, 216, (10, 4, 4, 3), np.uint8).repeat(6, 1).repeat(6, 2)
        arrays += rng.integers(0, 8, arrays.shape, np.uint8)
        predicted = rng.integers(CLASSES, size=10)
        one = batch(
            *[f"r-{number}"] * 10,
            predictions=[prediction(int(label)) for label in predicted],
            moment=1.8e9 + number,
            arrays=corrupt(arrays, corruption, 3) if corruption else arrays,
        )
        embedding = CENTRES[predicted] + rng.normal(0, 0.1, (10, 8)).astype(np.float32)
        log.append(one._replace(embedding=embedding, energy=rng.normal(-9, 1, 10).astype(np.float32)))
    log.close(30)
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

    @pytest.mark.parametrize("corruption", ["", "fog"])
    def test_reads_what_the_service_recorded(self, tmp_path: Path, corruption: str) -> None:
        model, out, reference = tmp_path / "best_model.onnx", tmp_path / "out", baseline()
        origin = dataclasses.replace(reference.origin, class_list=SIGNS.fingerprint)
        dataclasses.replace(reference, origin=origin).save(tmp_path / "best_model.baseline.npz")
        common = ("--model", str(model), "--cluster-seconds", "0", "--out", str(out))
        assert _run("--log", _predict(tmp_path / "before", 1), "--accept", *common) == 0
        assert _run("--log", _predict(tmp_path / "after", 2, corruption), *common) == 0
        report = json.loads((out / "drift.json").read_text())
        assert report["baseline"]["images"] == 300
        assert [finding["kind"] for finding in report["findings"]] == (["camera"] if corruption else [])

    def test_refuses_the_log_of_another_class_list(self, model: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=f"class list {SIGNS.fingerprint}, but the baseline reference has cafe"):
            _run("--log", _predict(tmp_path / "log", 1), "--model", str(model), "--out", str(tmp_path / "out"))

    def test_a_missing_baseline(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no baseline next to the model"):
            accepted(tmp_path / "best_model.onnx")

    @pytest.mark.parametrize("text", ["", "24", "h", "0h", "-3h", "tomorrow", "2026-11-30/x", "99999999h"])
    def test_unreadable_windows(self, text: str) -> None:
        with pytest.raises(DataError, match="neither `all`"):
            parse_window(text)
