"""Tests `data.exclude`, which leaves images out of training and validation."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from src.mlops.config import Config
from src.mlops.data.additional import prepare_drawn
from src.mlops.data.prepare import prepare
from src.mlops.errors import DataError
from tests.helpers.tiny import write_kaggle

MakeConfig = Callable[..., Config]
LISTED = ["Train/0/00000_00000_00000.png", "Train/0/00000_00001_00002.png", "Train/3/00003_00004_00003.png"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "wrong labels.csv"
    pd.DataFrame({"rank": [1, 2, 3], "path": LISTED}).to_csv(path, index=False)
    return path


def test_leaves_images_out_and_keeps_the_splits_of_the_others(make_config: MakeConfig, file: Path) -> None:
    before = prepare(make_config().data)
    splits = {split: before.load(split).paths for split in ("train", "val", "test")}
    config = make_config(f"data.exclude={file}")
    pack = prepare(config.data)
    assert pack.fingerprint != before.fingerprint
    for split, paths in splits.items():
        assert pack.load(split).paths == [path for path in paths if path not in LISTED]
    report = json.loads((pack.directory / "report.json").read_text())
    assert report["excluded_images"] == 3
    assert report["images"]["train"] + report["images"]["val"] == 77
    assert "left out by data.exclude: 3" in (pack.directory / "report.md").read_text()
    assert set(LISTED) == set(pd.read_csv(pack.directory / "index.csv").query("split == 'excluded'")["path"])


def test_without_a_file_the_fingerprint_is_the_same(make_config: MakeConfig, file: Path) -> None:
    before = prepare(make_config().data)
    assert prepare(make_config(f"data.exclude={file}").data).fingerprint != before.fingerprint
    assert prepare(make_config("data.exclude=null").data).fingerprint == before.fingerprint


def test_only_the_paths_matter(make_config: MakeConfig, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(make_config(f"data.exclude={file}").data)
    monkeypatch.setattr("src.mlops.data.prepare.pack_images", pytest.fail)
    for separator, encoding in ((",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")):
        lines = [separator.join(("path", "note")), *(f"{path}{separator}checked" for path in reversed(LISTED))]
        file.write_text("\n".join([*lines, lines[1], separator, ""]), encoding=encoding)
        assert prepare(make_config(f"data.exclude={file}").data).fingerprint == first.fingerprint
    file.write_text("\n".join([" path ", *LISTED]))
    assert prepare(make_config(f"data.exclude={file}").data).fingerprint == first.fingerprint


def test_an_edited_file_prepares_the_data_again(make_config: MakeConfig, file: Path) -> None:
    config = make_config(f"data.exclude={file}")
    prepare(config.data)
    file.write_text(f"path\n{LISTED[0]}\n")
    assert sum(len(prepare(config.data).load(split).rows) for split in ("train", "val")) == 79


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            "path\nTrain/0/missing.png\nTrain/9/x.png\n",
            r"paths that are not .*: Train/0/missing\.png, Train/9/x\.png\. The data has paths such as Train/0/",
        ),
        ("path\nTest/00000.png\n", r"test images: Test/00000\.png"),
        ("Train/0/00000_00000_00000.png\n", r"column named path .*columns are 'Train/0/00000_00000_00000\.png'"),
        ("path\n", "lists no images"),
        ("path,note\n,\n", "lists no images"),
        ("", "it is empty"),
        ("path,note\na,b,c\nd,e,f\n", "more values than the first line"),
        (b"path\n\xff\xfe\xfa\n", "neither UTF-8 nor UTF-16"),
        (None, "No such file"),
    ],
)
def test_bad_files_change_nothing(
    make_config: MakeConfig, file: Path, content: str | bytes | None, problem: str
) -> None:
    first = prepare(make_config().data)
    file.unlink()
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"data\.exclude.*{re.escape(file.name)}.*{problem}"):
        prepare(make_config(f"data.exclude={file}").data)
    assert prepare(make_config("data.raw_dir=null").data).fingerprint == first.fingerprint


def test_images_that_are_held_out_for_the_test_set_cannot_be_excluded(make_config: MakeConfig, raw_dir: Path) -> None:
    folders = {"data.raw_dir": raw_dir / "Train"}  # class folders without test images
    overrides = [f"{key}={value}" for key, value in folders.items()]
    tested = prepare(make_config(*overrides).data).load("test").paths[0]
    file = raw_dir.parent / "file.csv"
    file.write_text(f"path\n{tested}\n")
    with pytest.raises(DataError, match="lists test images"):
        prepare(make_config(*overrides, f"data.exclude={file}").data)


class TestWithoutRawImages:
    def test_the_same_file_is_accepted(self, make_config: MakeConfig, file: Path) -> None:
        first = prepare(make_config(f"data.exclude={file}").data)
        again = prepare(make_config(f"data.exclude={file}", "data.raw_dir=null").data)
        assert again.fingerprint == first.fingerprint

    @pytest.mark.parametrize("recorded", [True, False])  # earlier releases did not record it
    def test_a_file_is_refused_for_data_prepared_without(
        self, make_config: MakeConfig, file: Path, recorded: bool
    ) -> None:
        pack = prepare(make_config().data)
        if not recorded:
            del pack.manifest["settings"]["data.exclude"]
            (pack.directory / "pack.json").write_text(json.dumps(pack.manifest))
            assert prepare(make_config("data.raw_dir=null").data).fingerprint == pack.fingerprint
        with pytest.raises(
            DataError, match=r"prepared with data\.exclude=null, not with data\.exclude=wrong labels\.csv"
        ):
            prepare(make_config(f"data.exclude={file}", "data.raw_dir=null").data)

    def test_no_file_or_an_edited_one_is_refused(self, make_config: MakeConfig, file: Path) -> None:
        prepare(make_config(f"data.exclude={file}").data)
        with pytest.raises(
            DataError, match=r"exclude=wrong labels\.csv \(3 images, \w{8}\), not with data.exclude=null"
        ):
            prepare(make_config("data.raw_dir=null").data)
        file.write_text(f"path\n{LISTED[0]}\n")
        with pytest.raises(DataError, match=r"\(3 images, .*\(1 images, "):
            prepare(make_config(f"data.exclude={file}", "data.raw_dir=null").data)


def test_synthetic_images_for_training_are_not_excluded(
    make_config: MakeConfig, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.mlops.data.sources.generate", lambda target, **_: write_kaggle(target))
    drawn = "{tracks_per_class: 2, frames_per_track: 1, test_tracks_per_class: 1, seed: 0}"
    config = make_config(f"data.exclude={file}", f"training.drawn={drawn}")
    assert config.training.drawn
    assert len(prepare_drawn(config.data, config.training.drawn).load("train", "val").rows) == 80
