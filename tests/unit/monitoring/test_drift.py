"""The drift command: reads a log, writes the report, accepts baselines."""

import dataclasses
import json
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from src.mlops import ROOT
from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import CheckpointError, DataError, StorageError
from src.mlops.evaluation.corruptions import corrupt
from src.mlops.io.storage import open_storage
from src.mlops.monitoring.accepted import find_baseline, store_baseline
from src.mlops.monitoring.commands import app
from src.mlops.monitoring.drift import accept, drift
from src.mlops.monitoring.prediction_log import LogOptions, PredictionLog
from src.mlops.monitoring.records import Model
from src.mlops.monitoring.window import read_window
from tests.helpers.recording import Counts, batch, prediction
from tests.helpers.storage_emulator import Cloud
from tests.helpers.traffic import CENTRES, CLASSES, baseline, records, write_log, write_model

ACCEPTED = "2025-11-30T06:00:00Z"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """Returns a model file with a reference, and what its records state."""
    path = tmp_path_factory.mktemp("model") / "best_model.onnx"
    return path, write_model(path, baseline())


@pytest.fixture
def model(given: tuple[Path, Model]) -> Path:
    return given[0]


@pytest.fixture
def writer(given: tuple[Path, Model]) -> Model:
    return given[1]


@pytest.fixture
def log(tmp_path: Path, writer: Model) -> str:
    return write_log(tmp_path / "log", records(500), writer)


def _predict(folder: Path, seed: int, version: str, corruption: str = "") -> str:
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
            predictions=[dataclasses.replace(prediction(int(label)), model_version=version) for label in predicted],
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


def _accepted(log: str, writer: Model, created: str = ACCEPTED, author: str = "Ada") -> None:
    one = baseline(400)
    store_baseline(
        log,
        dataclasses.replace(
            one,
            origin=dataclasses.replace(
                one.origin, name=created, created=created, author=author, model_version=writer.version
            ),
        ),
    )


class TestReport:
    def test_is_written(self, model: Path, writer: Model, tmp_path: Path) -> None:
        frame = records(500)
        frame.loc[200:, "noise"] += 2
        log = write_log(tmp_path / "log", frame, writer)
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

    @pytest.mark.parametrize("findings", [0, 1])
    def test_cloud_logging_counts_its_log(
        self, model: Path, writer: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture, findings: int
    ) -> None:
        metrics = yaml.safe_load((ROOT / "cloud/monitoring/logs.yaml").read_text())
        frame = records(500)
        frame.loc[200:, "noise"] += 2 * findings
        log = write_log(tmp_path / "log", frame, writer)
        with caplog.at_level(logging.INFO):
            assert _run("--log", log, "--model", str(model), "--out", str(tmp_path / "out")) == 0
        for name, count in (("drift_reports", 1), ("drift_findings", findings)):
            pattern = re.search('textPayload =~ "(.*)"', metrics[name]["filter"])
            assert pattern
            assert sum(bool(re.search(pattern[1], message)) for message in caplog.messages) == count

    def test_shows_stored_images(self, model: Path, writer: Model, tmp_path: Path) -> None:
        frame = records(500).assign(image=None)
        frame.loc[200:, "noise"] += 2
        frame.loc[[10, 300], "image"] = ["images/a.png", "images/expired.png"]
        log = write_log(tmp_path / "log", frame, writer)
        (tmp_path / "log" / "images").mkdir()
        (tmp_path / "log" / "images" / "a.png").write_bytes(b"PNG")
        assert _run("--log", log, "--model", str(model), "--out", str(tmp_path / "out")) == 0
        page = (tmp_path / "out" / "drift.html").read_text()
        assert page.count("data:image/png;base64,UE5H") == 1
        assert "no stored images" in page

    def test_everything_in_a_bucket(self, model: Path, log: str, writer: Model, cloud: Cloud) -> None:
        for name in open_storage(log).names():
            cloud.put(f"log/{name}", open_storage(log).read(name))
        url = "gs://my-project-gtsrb/log"
        _accepted(url, writer)
        assert _run("--log", url, "--model", str(model), "--out", f"{url}/reports") == 0
        report = json.loads(open_storage(url).read("reports/drift.json"))
        assert (report["baseline"]["name"], report["window"]["images"]) == (ACCEPTED, 500)
        assert b"<!doctype html>" in open_storage(url).read("reports/drift.html")

    def test_the_log_is_compacted_on_request(self, model: Path, writer: Model, tmp_path: Path) -> None:
        frame = records(300)
        frame["time"] -= pd.Timedelta(days=365)
        log, reports = write_log(tmp_path / "log", frame, writer), []
        for _ in range(2):
            assert _run("--log", log, "--model", str(model), "--out", str(tmp_path / "out"), "--compact") == 0
            reports.append((tmp_path / "out" / "drift.json").read_text())
        assert [path.suffix for path in (tmp_path / "log/records/date=2025-11-30").iterdir()] == [".parquet"]
        assert reports[0] == reports[1]

    def test_an_unusable_place_is_reported_before_the_work(self, model: Path, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="s3://bucket"):
            _run("--log", str(tmp_path / "none"), "--model", str(model), "--out", "s3://bucket")

    @pytest.mark.parametrize("corruption", ["", "fog"])
    def test_of_what_the_service_recorded(self, tmp_path: Path, corruption: str) -> None:
        model, out, reference = tmp_path / "best_model.onnx", tmp_path / "out", baseline()
        origin = dataclasses.replace(reference.origin, class_list=SIGNS.fingerprint)
        version = write_model(model, dataclasses.replace(reference, origin=origin)).version
        log = _predict(tmp_path / "log", 1, version)
        common = ("--log", log, "--model", str(model), "--cluster-seconds", "0", "--out", str(out))
        assert _run("--accept", "--author", "Ada", *common) == 0
        (tmp_path / "log" / "records").rename(tmp_path / "before")
        _predict(tmp_path / "log", 2, version, corruption)
        assert _run(*common) == 0
        report = json.loads((out / "drift.json").read_text())
        assert report["baseline"]["images"] == 300
        assert [finding["kind"] for finding in report["findings"]] == (["camera"] if corruption else [])

    def test_the_log_of_another_class_list_is_refused(self, model: Path, writer: Model, tmp_path: Path) -> None:
        log = _predict(tmp_path / "log", 1, writer.version)
        with pytest.raises(DataError, match=f"class list cafe, but 300 of .* with the class list {SIGNS.fingerprint}"):
            drift(log, model=str(model))

    def test_the_log_of_another_model_is_refused(self, model: Path, tmp_path: Path) -> None:
        log = write_log(tmp_path / "log", records(10), Model("ffffffffffff", "cafe"))
        with pytest.raises(DataError, match="but 10 of ffffffffffff with"):
            drift(log, model=str(model))

    def test_no_log(self, model: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=f"{tmp_path}/none contains no records"):
            drift(str(tmp_path / "none"), model=str(model))

    def test_no_model(self, log: str, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"none\.onnx"):
            drift(log, model=str(tmp_path / "none.onnx"))


class TestBaselines:
    def test_a_window_is_accepted(
        self, model: Path, writer: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        frame = records(800)
        frame["time"] -= pd.Timedelta(days=365)
        frame["noise"] += 2
        log = write_log(tmp_path / "log", frame, writer)
        assert _run("--log", log, "--model", str(model), "--accept", "--author", "Ada", "--window", "2h") == 0
        with caplog.at_level(logging.INFO):
            assert _run("--log", log, "--model", str(model), "--out", str(tmp_path / "out")) == 0
        report = json.loads((tmp_path / "out" / "drift.json").read_text())
        assert (report["drift"], report["baseline"]["author"], report["baseline"]["images"]) == (False, "Ada", 720)
        assert f"Compared with the baseline {report['baseline']['name']}, accepted by Ada" in caplog.text

    def test_windows_are_clustered_as_the_baseline(self, model: Path, writer: Model, tmp_path: Path) -> None:
        """Otherwise, a baseline of independent images would be compared with clusters."""
        log = write_log(tmp_path / "log", records(600, seconds=0.01), writer)
        few = drift(log, model=str(model))
        assert len(few.looks.window.last) < 100
        store_baseline(log, accept(log, "Ada", model=str(model), cluster_seconds=0))
        assert len(drift(log, model=str(model)).looks.window.last) == 600
        assert len(accept(log, "Grace", model=str(model))) == 600
        assert len(drift(log, model=str(model), cluster_seconds=2).looks.window.last) < 100

    @pytest.mark.parametrize("seconds", ["nan", "inf"])
    @pytest.mark.parametrize("action", [[], ["--accept"]])
    def test_an_impossible_time_between_frames(self, model: Path, log: str, seconds: str, action: list[str]) -> None:
        with pytest.raises(DataError, match=f"0 or more seconds, but is {seconds}"):
            _run(*action, "--log", log, "--model", str(model), "--author", "Ada", "--cluster-seconds", seconds)

    def test_the_newest_of_the_model_is_used(self, model: Path, writer: Model, log: str) -> None:
        assert find_baseline(log, model).origin.name == "reference"
        for created in ("2025-11-30T06:00:00Z", "2025-12-01T05:00:00Z", "2025-11-30T22:00:00Z"):
            _accepted(log, writer, created)
        _accepted(log, Model("ffffffffffff", "cafe"), "2026-01-01T00:00:00Z")
        (Path(log) / "baselines" / writer.version / "notes.txt").touch()
        assert find_baseline(log, model).origin.name == "2025-12-01T05:00:00Z"

    def test_an_older_one_is_chosen(self, model: Path, writer: Model, log: str, tmp_path: Path) -> None:
        _accepted(log, writer)
        _accepted(log, writer, "2025-12-01T05:00:00Z")
        for name in (ACCEPTED, "2025-11-30T060000Z"):
            assert find_baseline(log, model, name).origin.name == ACCEPTED
        assert find_baseline(log, model, "reference").origin.name == "reference"
        baseline().save(tmp_path / "own.npz")
        assert find_baseline(log, model, str(tmp_path / "own.npz")).origin.author == "tests"

    @pytest.mark.parametrize("name", ["2020-01-01T00:00:00Z", "../../secret", "", "newest"])
    def test_an_unknown_name(self, model: Path, writer: Model, log: str, name: str) -> None:
        _accepted(log, writer)
        if name:
            with pytest.raises(DataError, match=f"no baseline '{name}' .* of these: reference, 2025-11-30T060000Z"):
                find_baseline(log, model, name)
        else:
            assert find_baseline(log, model, name).origin.name == ACCEPTED

    def test_two_in_the_same_second(self, writer: Model, log: str) -> None:
        _accepted(log, writer)
        with pytest.raises(DataError, match=f"accepted in the same second, {ACCEPTED}"):
            _accepted(log, writer, author="Grace")

    def test_a_damaged_file(self, model: Path, writer: Model, log: str) -> None:
        _accepted(log, writer)
        path = Path(log) / "baselines" / writer.version / "2025-11-30T060000Z.npz"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(DataError, match=rf"{path} is corrupted .*`--baseline`, such as reference"):
            drift(log, model=str(model))
        assert drift(log, model=str(model), baseline="reference").baseline.origin.name == "reference"
        assert accept(log, "Ada", model=str(model), baseline="reference").origin.author == "Ada"

    def test_a_model_without_a_reference(self, tmp_path: Path) -> None:
        path = tmp_path / "best_model.onnx"
        writer = write_model(path, None)
        log = write_log(tmp_path / "log", records(500), writer)
        with pytest.raises(DataError, match="contains no reference"):
            drift(log, model=str(path))
        _accepted(log, writer)
        assert drift(log, model=str(path)).baseline.origin.name == ACCEPTED

    def test_list(self, model: Path, writer: Model, log: str) -> None:
        _accepted(log, writer, "2025-12-01T05:00:00Z", "Grace Hopper")
        _accepted(log, writer)
        damaged = Path(log) / "baselines" / writer.version / "2026-01-01T000000Z.npz"
        damaged.write_bytes(b"PK")
        lines = CliRunner().invoke(app, ["--list", "--log", log, "--model", str(model)]).output.splitlines()
        assert [line.split("  ")[:2] for line in lines[:3]] == [
            ["reference", "tests"],
            [ACCEPTED, "Ada"],
            ["2025-12-01T05:00:00Z", "Grace Hopper"],
        ]
        assert "2026-01-01T000000Z.npz is corrupted" in lines[3]

    def test_an_unknown_user(self, model: Path, log: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown() -> str:
            raise OSError("No username set in the environment")

        monkeypatch.setattr("src.mlops.monitoring.commands.getuser", unknown)
        with pytest.raises(DataError, match="--author"):
            _run("--log", log, "--model", str(model), "--accept")


class TestWindow:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "24",
            "h",
            "0h",
            "-3h",
            "tomorrow",
            "2026-11-30/x",
            "99999999h",
            "٣h",
            "9999-12-31T23:00-23:00/",
            "x" * 999,
        ],
    )
    def test_an_unreadable_one(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="neither `all`") as caught:
            read_window(str(tmp_path), text)
        assert len(str(caught.value)) < 500

    @pytest.mark.parametrize(
        ("window", "expected"),
        [
            ("all", 300),
            ("30m", 180),
            ("1w", 300),
            ("2025-11-30T00:10Z/", 240),
            ("/2025-11-30T00:10Z", 60),
            ("2025-11-30T01:00+01:00/2025-11-30T00:10Z", 60),
        ],
    )
    def test_records(self, window: str, expected: int, tmp_path: Path, writer: Model) -> None:
        frame = records(300)
        frame["time"] -= pd.Timedelta(days=365)
        assert len(read_window(write_log(tmp_path, frame, writer), window)) == expected

    @pytest.mark.parametrize("folder", ["date=0001-01-01", "date=9999-12-31", "date=2026-02-30"])
    def test_segments_in_odd_folders(self, tmp_path: Path, writer: Model, folder: str) -> None:
        log = write_log(tmp_path, records(30), writer)
        next((tmp_path / "records").iterdir()).rename(tmp_path / "records" / folder)
        assert len(read_window(log, "99999w")) == 30

    def test_an_empty_log(self, tmp_path: Path) -> None:
        assert len(read_window(str(tmp_path), "24h")) == 0

    def test_a_clock_in_the_future_does_not_move_the_window(
        self, tmp_path: Path, writer: Model, caplog: pytest.LogCaptureFixture
    ) -> None:
        frame = records(300)
        frame["time"] -= pd.Timedelta(days=365)
        log = write_log(tmp_path, frame, writer)
        later = records(2, seed=1)
        later["time"] = pd.Timestamp("2199-01-01", tz="UTC")
        write_log(tmp_path, later, writer)
        segment = next((tmp_path / "records/date=2199-01-01").iterdir())
        segment.rename(segment.parents[1] / "date=2025-11-30" / segment.name.replace("abcdef", "fedcba"))
        assert len(read_window(log, "30m")) == 180
        assert "Left out" in caplog.text
