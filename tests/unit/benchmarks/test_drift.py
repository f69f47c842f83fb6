"""Sources of streams, clean traffic, and the comparison of drift detectors."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import drift_contenders, drift_tables, environment
from benchmarks.shifts import MIXES, other_mix
from benchmarks.streams import (
    ByImage,
    ByTrack,
    Contaminated,
    OtherMix,
    Resampled,
    Run,
    alarms_of,
    in_order,
    watch_clean,
)
from src.mlops.errors import DataError
from src.mlops.monitoring.observations import Observations
from src.mlops.monitoring.records import observe
from tests.helpers.traffic import CENTRES, CLASSES, MODEL, baseline, records

BASELINE = baseline()


def _pool(count: int = 2000, per_track: int = 1) -> Observations:
    images = observe(records(count), CENTRES, MODEL, 0)[0]
    return in_order(images, np.arange(count), np.arange(count) // per_track)


@pytest.mark.parametrize("kind", MIXES)
@pytest.mark.parametrize("distance", [0.1, 0.4])
def test_a_mix_of_classes_has_its_distance(kind: str, distance: float) -> None:
    shares = np.array([0.0, *np.random.default_rng(0).dirichlet(np.full(12, 5.0))])
    mix = other_mix(shares, kind, distance, np.random.default_rng(1))
    assert mix.sum() == pytest.approx(1)
    assert mix.min() >= 0
    assert mix[0] == 0
    assert np.abs(mix - shares).sum() / 2 == pytest.approx(distance)


def test_streams_with_another_mix_contain_images_of_the_chosen_classes() -> None:
    pool = _pool()
    stream = OtherMix(pool, pool.predicted, "one class", 0.4).draw(np.random.default_rng(0))
    counts = np.bincount(stream.predicted, minlength=CLASSES) / len(stream)
    assert counts.max() == pytest.approx(0.6, abs=0.05)
    known = {row.tobytes(): label for row, label in zip(pool.values, pool.predicted, strict=True)}
    assert all(known[row.tobytes()] == label for row, label in zip(stream.values, stream.predicted, strict=True))


def test_a_stream_contains_its_share_of_unknown_things() -> None:
    pool, unknown = _pool(), _pool(10)
    unknown.values[:] = 77
    stream = Contaminated(pool, unknown, 0.1).draw(np.random.default_rng(0))
    assert (stream.values[:, 0] == 77).mean() == pytest.approx(0.1, abs=0.03)


def test_the_same_seed_gives_the_same_stream() -> None:
    first, second = (Resampled(_pool()).draw(np.random.default_rng([2, 7])) for _ in range(2))
    assert np.array_equal(first.values, second.values)
    assert np.array_equal(first.cluster, np.arange(1000))


def test_baseline_and_stream_are_from_the_same_pool_or_from_disjoint_halves() -> None:
    pool = _pool()
    shared = []
    for run in ByImage(pool, BASELINE).runs(3).values():
        assert (len(run.baseline), len(run.stream)) == (len(pool) // 2, 100_000)
        accepted, seen = ({row.tobytes() for row in part.values} for part in (run.baseline, run.stream))
        shared.append(len(accepted & seen) / len(accepted))
    assert shared == [1, 0]


def test_by_track_each_sign_of_the_other_half_occurs_once() -> None:
    pool = _pool(6000, per_track=30)
    by_track, by_frame = ByTrack(pool, BASELINE).runs(0).values()
    assert len(by_track.baseline) == 100
    assert len(np.unique(by_track.stream.cluster)) == 100
    assert np.bincount(by_track.stream.cluster).max() == 30
    assert len(by_frame.baseline) == 3000
    assert len(np.unique(by_frame.stream.cluster)) == 3000


def test_clean_traffic_raises_no_alarm_and_a_darker_camera_does() -> None:
    assert {name: alarms.any() for name, alarms in watch_clean((ByTrack(_pool(6000), BASELINE), 0)).items()} == {
        "by track": False, "by track, each frame as a sign of its own": False,
    }  # fmt: skip
    dark = Resampled(_pool()).draw(np.random.default_rng(0))
    dark.values[:, 0] -= 3
    alarms = alarms_of(Run(BASELINE, dark))
    assert alarms.shape == (10, 5)
    assert alarms[-1].tolist() == [True, False, False, False, True]


def _write(folder: Path, name: str, rows: list[str]) -> None:
    header = "detector,budget,shift,strength,images,windows,found,runs,runs_with_alarm"
    (folder / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")


def test_other_libraries_are_compared(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_contenders, "ROOT", tmp_path)
    ours = {"blur": (0.5, 1.0), "unknown: drawn": (1.0, 1.0)}
    environment.write_results(
        "drift",
        [
            {"split": "test", "shift": shift, "strength": 0.1, "images": images, "found": found}
            for shift, values in ours.items()
            for images, found in zip((100, 300), values, strict=True)
        ],
        ("split", "shift", "strength", "images"),
    )
    strict = '"1 % per 1,000 windows"'
    _write(
        tmp_path,
        "ks",
        [f"ks,{strict},blur,0.1,{images},50,1.0,," for images in (100, 300)]
        + [f"ks,{strict},unknown drawn,0.1,100,50,0.2,,", f"ks,{strict},clean run,0,100,2000,0.01,2,0.5"],
    )
    result = CliRunner().invoke(drift_contenders.app, [str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["Not won: blur 0.1: ks needs 100 images, ours 300"]
    assert (tmp_path / "reports/latest/figures/drift_contenders.png").is_file()
    table = drift_tables.drift_contenders().splitlines()
    assert table[2] == "| ours | 1 % per 1,000 windows | 1 of 2 | 2 of 2 |  |  | not run |"
    assert table[3] == "| ks | 1 % per 1,000 windows | 1 of 2 | 1 of 1 |  | 1.00 % | 50 % |"


def test_a_folder_without_results() -> None:
    result = CliRunner().invoke(drift_contenders.app, ["missing"])
    assert isinstance(result.exception, DataError)
    assert "no CSV files in missing" in str(result.exception)
