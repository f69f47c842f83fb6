"""Looks at a stream: false alarms, and what each kind of drift raises."""

import numpy as np
import pandas as pd
import pytest

from src.mlops.errors import DataError
from src.mlops.monitoring.baseline import Baseline
from src.mlops.monitoring.records import observe
from src.mlops.monitoring.report import Report, compare
from tests.helpers.traffic import CENTRES, MODEL, baseline, records

BASELINE = baseline()


def _report(frame: pd.DataFrame, seconds: float = 0) -> Report:
    return compare(frame, BASELINE, seconds)


def _kinds(report: Report) -> list[str]:
    return [finding.kind for finding in report.findings]


class TestCompare:
    @pytest.mark.parametrize("seed", range(5))
    def test_clean_traffic_raises_no_alarm(self, seed: int) -> None:
        assert _kinds(_report(records(10_000, seed))) == []

    def test_a_darker_camera_is_found_with_its_start(self) -> None:
        frame = records(3000)
        frame.loc[2000:, "brightness"] -= 1
        report = _report(frame)
        assert _kinds(report) == ["camera"]
        [finding] = report.findings
        assert finding.features[0].feature == "brightness"
        assert finding.features[0].rank < 0
        assert abs(finding.since_row - 2000) < 60
        assert finding.ongoing
        assert finding.found_row <= 2200

    def test_a_drift_that_has_ended(self) -> None:
        frame = records(4000)
        frame.loc[1000:1999, "sharpness"] += 1
        [finding] = _report(frame).findings
        assert not finding.ongoing
        assert abs(finding.since_row - 1000) < 60

    def test_another_mix_is_not_a_change_of_the_camera(self) -> None:
        report = _report(records(1000, shares=[0.6, 0.1, 0.1, 0.1, 0.1]))
        assert _kinds(report) == ["mix"]
        most = report.findings[0].classes[0]
        assert (most.name, most.after > 0.5) == ("a", True)

    @pytest.mark.parametrize(("rows", "is_reserved"), [(slice(800, 999), False), (slice(0, 999), True)])
    def test_a_change_before_that_of_the_camera_is_no_consequence(self, rows: slice, is_reserved: bool) -> None:
        frame = records(1000, shares=[0.6, 0.1, 0.1, 0.1, 0.1])
        frame.loc[rows, "noise"] += 3
        camera, mix = _report(frame).findings
        assert (camera.kind, mix.kind) == ("camera", "mix")
        assert bool(mix.reservation) == is_reserved

    def test_unknown_things(self) -> None:
        frame = records(1000)
        strange = np.random.default_rng(1).random(1000) < 0.1
        frame.loc[strange, ["energy", "is_unknown", "probability"]] = [-2.0, True, 0.3]
        frame.loc[strange, "brightness"] += 3  # they look different, but the camera is the same
        assert _kinds(_report(frame)) == ["unknown"]

    def test_clouded_lens_that_makes_everything_unknown(self) -> None:
        frame = records(500)
        frame["is_unknown"] = True
        frame["energy"] += 8
        frame["contrast"] -= 3
        assert "camera" in _kinds(_report(frame))

    @pytest.mark.parametrize("seed", range(3))
    def test_a_baseline_with_many_unknown_images_raises_no_alarm(
        self, seed: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Unknown images look different, and are half of the traffic from the beginning."""

        def traffic(count: int, number: int) -> pd.DataFrame:
            frame = records(count, number)
            frame["is_unknown"] = np.random.default_rng(number).random(count) < 0.55
            frame.loc[frame["is_unknown"], ["brightness", "energy"]] += 2
            return frame

        accepted = Baseline.of(observe(traffic(2000, 50), CENTRES, MODEL, 0)[0], BASELINE.origin, BASELINE.knowledge)
        assert "of the 2000 physical signs are unknown to the model" in caplog.text
        assert _kinds(compare(traffic(3000, seed), accepted, 0)) == []

    def test_share_of_unknown_signs_does_not_depend_on_the_number_of_frames(self) -> None:
        """Each sign has 20 frames, of which 30 % are unknown. A majority would call none of the signs unknown."""
        frames = records(200, seed=3).loc[np.repeat(np.arange(200), 20)].reset_index(drop=True)
        frames["time"] = pd.Timestamp("2026-11-30", tz="UTC") + pd.to_timedelta(
            10 * np.repeat(np.arange(200), 20) + 0.1 * np.tile(np.arange(20), 200), "s"
        )
        frames["is_unknown"] = np.random.default_rng(0).random(len(frames)) < 0.3
        report = _report(frames, seconds=2)
        assert len(report.looks.window.last) == 200
        assert report.to_dict()["unknown_share"]["after"] == pytest.approx(0.3, abs=0.1)

    def test_frames_of_one_sign_count_once(self) -> None:
        """The frames of 40 dark signs in a row are no drift: 40 signs can be dark by chance."""
        signs = records(40, seed=3)
        signs["brightness"] -= 0.5
        frames = signs.loc[np.repeat(np.arange(40), 30)].reset_index(drop=True)
        frames["time"] = pd.Timestamp("2026-11-30", tz="UTC") + pd.to_timedelta(
            10 * np.repeat(np.arange(40), 30) + 0.1 * np.tile(np.arange(30), 40), "s"
        )
        assert len(_report(frames, seconds=2).looks.window.last) == 40
        assert _kinds(_report(frames, seconds=2)) == []
        assert "camera" in _kinds(_report(frames, seconds=0))

    def test_the_order_of_the_records_does_not_matter(self) -> None:
        frame = records(500)
        frame.loc[250:, "noise"] += 2
        mixed = frame.sample(frac=1, random_state=0)
        assert _report(mixed).to_json() == _report(frame).to_json()

    @pytest.mark.parametrize("count", [1, 2, 99])
    def test_few_records(self, count: int) -> None:
        report = _report(records(count))
        assert report.findings == []
        assert report.looks.ends.tolist() == [count]

    def test_no_records(self) -> None:
        with pytest.raises(DataError, match="contains no records"):
            _report(records(5).iloc[:0])

    def test_another_model(self) -> None:
        with pytest.raises(DataError, match=r"no records of the model 0123456789ab .* but 50 of ffff with"):
            _report(records(50).assign(model_version="ffff"))

    def test_another_class_list(self) -> None:
        with pytest.raises(DataError, match="class list cafe, but 50 of 0123456789ab with the class list beef"):
            _report(records(50).assign(class_list="beef"))

    @pytest.mark.parametrize("rows", [slice(0, 99), slice(300, 399), slice(None, None, 4)])
    def test_records_of_another_model_are_left_out(self, rows: slice, caplog: pytest.LogCaptureFixture) -> None:
        """Two models can share the traffic, so the newest record may be of either."""
        frame = records(400)
        frame.loc[rows, "model_version"] = "other"
        assert len(_report(frame).stream) == 300
        assert "Left out 100 records of other models" in caplog.text

    def test_impossible_values_are_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        frame = records(300)
        frame.loc[0, "brightness"] = np.nan
        frame.loc[1, "predicted_class"] = 77
        frame.loc[2, "energy"] = np.inf
        frame.at[3, "embedding"] = np.zeros(3, np.float16)
        frame.at[4, "embedding"] = None
        assert len(_report(frame).stream) == 295
        assert "Left out 5 records with missing or impossible values" in caplog.text

    def test_missing_columns(self) -> None:
        with pytest.raises(DataError, match=r"50 have missing or impossible values in energy \(50\)"):
            _report(records(50).drop(columns="energy"))
