"""Damaged and hostile records are left out with a counted warning, and the rest is used."""

import base64
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.mlops.errors import DataError
from src.mlops.monitoring.frame import read_frame
from src.mlops.monitoring.observations import CAMERA
from src.mlops.monitoring.read import read_records
from src.mlops.monitoring.records import observe
from src.mlops.monitoring.report import compare
from src.mlops.monitoring.schema import KINDS, SCHEMA_VERSION
from tests.helpers.recording import record_lines, store_segment
from tests.helpers.traffic import CENTRES, MODEL, baseline, records

REQUIRED = ("schema_version", "record_id", "time", "model_version", "class_list", "predicted_class", "embedding")
WRONG = {
    "schema_version": ["1", 0, 1.5, None, True, SCHEMA_VERSION + 1],
    "record_id": [None, 5, ["a"], {"a": 1}],
    "time": [None, 0, 1.8e9, "", "yesterday", "2026-11-30", "2026-11-30T10:00:00", "0001-01-01T00:00:00+14:00",
             "9999-12-31T23:59:59-14:00", "1969-12-31T23:59:59Z", ["2026-11-30T10:00:00Z"]],
    "model_version": [None, 1, []],
    "predicted_class": [None, "1", 1.5, True, -1, 10**400, [1]],
    "is_unknown": ["false", 0, [], 0.0],
    "probability": ["0.5", True, 1e300, [0.5]],
    "energy": ["-9", 10**400, {"value": 1}],
    "brightness": ["bright", -1e300, [[]]],
    "prediction_set": [1, "1", [1.5], [None], {"1": 1}],
    "width": ["40", 40.5, 2**31],
    "image": [5, ["a.png"]],
    "embedding": [None, 1.5, [0.1, 0.2], {"0": 1}],
}  # fmt: skip
NOT_JSON = [b"", b"[]", b"null", b"5", b"{", b"\xff\xfe", b'{"time": "\xff"}', b"[" * 50_000, b'{"a":' * 50_000]


def _changed(**values: object) -> bytes:
    return json.dumps(json.loads(record_lines("bad")[0]) | values).encode()


def _without(name: str) -> bytes:
    return json.dumps({key: value for key, value in json.loads(record_lines("bad")[0]).items() if key != name}).encode()


def _in_a_log(folder: Path, *bad: bytes) -> str:
    store_segment(str(folder), "0", [*record_lines("a"), *bad, *record_lines("b")])
    return str(folder)


class TestReading:
    @pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
    def test_wrong_values(self, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, value: object) -> None:
        frame = read_frame(_in_a_log(tmp_path, _changed(**{name: value})))
        assert sorted(frame["request_id"]) == ["a", "b"]
        assert "Skipped 1 lines" in caplog.text

    @pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
    def test_numbers_that_json_does_not_have(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, literal: str
    ) -> None:
        bad = _changed(energy="here").replace(b'"here"', literal.encode())
        assert len(read_frame(_in_a_log(tmp_path, bad))) == 2
        assert "Skipped 1 lines" in caplog.text

    @pytest.mark.parametrize("line", NOT_JSON)
    def test_no_record_at_all(self, tmp_path: Path, caplog: pytest.LogCaptureFixture, line: bytes) -> None:
        assert len(read_frame(_in_a_log(tmp_path, line))) == 2
        assert "Skipped 1 lines" in caplog.text

    @pytest.mark.parametrize("name", REQUIRED)
    def test_missing_fields(self, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
        assert len(read_frame(_in_a_log(tmp_path, _without(name)))) == 2
        assert "Skipped 1 lines" in caplog.text

    @pytest.mark.parametrize("name", sorted(set(KINDS) - set(REQUIRED)))
    def test_other_fields_may_be_missing_or_null(self, tmp_path: Path, name: str) -> None:
        frame = read_frame(_in_a_log(tmp_path, _without(name), _changed(record_id="another", **{name: None})))
        assert frame[name].isna().sum() >= 2
        assert len(frame) == 4

    def test_fields_of_a_later_release_are_kept(self, tmp_path: Path) -> None:
        url = _in_a_log(tmp_path, _changed(added={"a": [1]}))
        assert [record.get("added") for record in read_records(url)] == [None, {"a": [1]}, None]
        assert list(read_frame(url).columns) == list(KINDS)

    @pytest.mark.parametrize("text", ["!", "AAA", "AAA=\n", "AA==", "é", "AAAA AAAA", "A" * 5])
    def test_an_embedding_that_is_none(self, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
        frame = read_frame(_in_a_log(tmp_path, _changed(embedding=text)))
        assert sorted(frame["request_id"]) == ["a", "b"]
        assert "Left out 1 records" in caplog.text
        assert "embedding is damaged" in caplog.text

    def test_a_log_with_nothing_else(self, tmp_path: Path) -> None:
        store_segment(str(tmp_path), "0", [*NOT_JSON, _changed(embedding="!")])
        frame = read_frame(str(tmp_path))
        assert (len(frame), list(frame.columns)) == (0, list(KINDS))
        with pytest.raises(DataError, match="contains no records"):
            compare(frame, baseline())

    def test_a_clock_that_starts_in_1970(self, tmp_path: Path) -> None:
        frame = read_frame(_in_a_log(tmp_path, _changed(time="1970-01-01T00:00:07Z")))
        assert frame["request_id"].tolist()[0] == "bad"

    @pytest.mark.parametrize("folder", ["date=0001-01-01", "date=9999-12-31", "date=x", "date=2026-02-30", ""])
    def test_segments_in_odd_folders(self, tmp_path: Path, folder: str) -> None:
        path = tmp_path / store_segment(str(tmp_path), "0", record_lines("a", moment=1.8e9))
        (tmp_path / "records" / folder).mkdir(exist_ok=True)
        path.rename(tmp_path / "records" / folder / path.name)
        assert len(read_frame(str(tmp_path))) == 1
        assert len(read_frame(str(tmp_path), pd.Timestamp("2027-06-01", tz="UTC"))) == 0


def _encoded(frame: pd.DataFrame) -> list[bytes]:
    """Returns the lines of a segment with these records."""
    rows = frame.assign(
        embedding=[base64.b64encode(value.tobytes()).decode() for value in frame["embedding"]],
        schema_version=SCHEMA_VERSION,
        record_id=[f"r{row}" for row in frame.index],
    )
    return rows.to_json(orient="records", lines=True, date_format="iso").encode().splitlines()


class TestDrift:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("predicted_class", 5),
            ("predicted_class", 2**31 - 1),
            ("probability", 1.5),
            ("probability", -0.1),
            ("probability", None),
            ("energy", None),
            ("noise", None),
            ("is_unknown", None),
            ("embedding", ""),
            ("embedding", base64.b64encode(bytes(14)).decode()),  # seven numbers instead of eight
            ("embedding", base64.b64encode(np.full(8, np.nan, "<f2").tobytes()).decode()),
            ("embedding", base64.b64encode(np.full(8, np.inf, "<f2").tobytes()).decode()),
        ],
    )
    def test_impossible_records_are_left_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, value: object
    ) -> None:
        lines = _encoded(records(300))
        lines[7] = json.dumps(json.loads(lines[7]) | {name: value}).encode()
        store_segment(str(tmp_path), "0", lines)
        report = compare(read_frame(str(tmp_path)), baseline())
        assert (len(report.stream), report.findings) == (299, [])
        assert f"Left out 1 records with missing or impossible values in {name} (1)" in caplog.text

    def test_a_log_without_a_needed_field(self, tmp_path: Path) -> None:
        store_segment(str(tmp_path), "0", _encoded(records(20).drop(columns=["noise", "grain"])))
        with pytest.raises(DataError, match=r"20 have missing or impossible values in grain \(20\), noise \(20\)"):
            compare(read_frame(str(tmp_path)), baseline())

    @pytest.mark.parametrize("lines", [0, 1])
    def test_an_empty_and_a_one_row_window(self, tmp_path: Path, lines: int) -> None:
        store_segment(str(tmp_path), "0", _encoded(records(1))[:lines])
        frame = read_frame(str(tmp_path))
        if lines:
            assert compare(frame, baseline()).findings == []
        else:
            with pytest.raises(DataError, match="contains no records"):
                compare(frame, baseline())

    def test_a_log_that_is_written_twice(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in ("0", "1"):
            store_segment(str(tmp_path), name, _encoded(records(200)))
        assert len(compare(read_frame(str(tmp_path)), baseline()).stream) == 200
        assert "Skipped 200 records" in caplog.text

    def test_frames_with_values_of_other_types(self, caplog: pytest.LogCaptureFixture) -> None:
        frame = records(100).astype(dict.fromkeys(["time", "predicted_class", "is_unknown", "energy", "noise"], object))
        for row, (name, value) in enumerate(
            [
                ("energy", "text"),
                ("energy", 10**400),
                ("noise", [1.0]),
                ("predicted_class", {"a": 1}),
                ("predicted_class", 1.5),
                ("is_unknown", "yes"),
                ("time", "yesterday"),
                ("time", [0]),
                ("embedding", "AAAA"),
                ("embedding", [0.0] * 8),
            ]
        ):
            frame.at[row, name] = value
        stream, kept = observe(frame, CENTRES, MODEL, 0)
        assert (len(stream), len(kept)) == (90, 90)
        assert "Left out 10 records" in caplog.text

    def test_the_largest_possible_numbers_give_a_report(self, tmp_path: Path) -> None:
        frame = records(200)
        frame[list(CAMERA)] = 1e9
        frame["energy"] = -1e9
        frame["embedding"] = pd.Series([np.full(8, 65504, np.float16)] * 200)
        store_segment(str(tmp_path), "0", _encoded(frame))
        assert compare(read_frame(str(tmp_path)), baseline()).to_json()
