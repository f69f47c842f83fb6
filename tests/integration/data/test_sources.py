"""Tests sources that take long."""

from pathlib import Path

from src.mlops.data.layouts import read_layout
from src.mlops.data.sources import locate_raw
from tests.helpers.tiny import quick_config


def test_synthetic_images_are_rendered_once(tmp_path: Path) -> None:
    settings = ["tracks_per_class=2", "frames_per_track=1", "test_tracks_per_class=1"]
    overrides = ["data=synthetic", f"data.raw_dir={tmp_path}", *(f"data.synthetic.{one}" for one in settings)]
    folder = locate_raw(quick_config(overrides).data)
    assert folder is not None
    before = (folder / "Train.csv").stat().st_mtime_ns
    assert locate_raw(quick_config(overrides).data) == folder
    assert (folder / "Train.csv").stat().st_mtime_ns == before
    assert len(read_layout(folder).train) == 86
