"""Tests the preparation of good and bad raw data with `prepare` and `read_layout`."""

import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.mlops.config import Config
from src.mlops.data.layouts import read_layout
from src.mlops.data.packing import open_pack
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, DataError
from src.mlops.preprocessing import open_image, preprocess
from tests.helpers.images import encode, make_image
from tests.helpers.tiny import GTSRB, quick_config, write_kaggle

MakeConfig = Callable[..., Config]


def edit_csv(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


def report(config: Config) -> dict[str, object]:
    return dict(json.loads((config.data.processed_dir / "report.json").read_text()))


class TestGoodData:
    def test_writes_splits_arrays_and_reports(self, make_config: MakeConfig) -> None:
        config = make_config()
        pack = prepare(config.data)
        assert {path.name for path in config.data.processed_dir.iterdir()} == {
            "train_split.csv", "val_split.csv", "reference_split.csv", "test.csv", "images.npy", "index.csv",
            "pack.json", "report.json", "report.md", "classes.csv", ".lock",
        }  # fmt: skip
        assert [len(pack.load(split).rows) for split in ("train", "val", "test")] == [64, 16, 12]
        columns = ["Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId", "Path"]
        assert list(pd.read_csv(config.data.processed_dir / "val_split.csv").columns) == columns
        assert (
            "| 0 | 274-20 | Speed limit 20 km/h | 16 | 4 | 0 | 3 |"
            in (config.data.processed_dir / "report.md").read_text()
        )

    def test_packed_pixels_are_those_of_preprocessing(self, make_config: MakeConfig, raw_dir: Path) -> None:
        arrays = prepare(make_config().data).load("val")
        for row, path in zip(arrays.rows, arrays.paths, strict=True):
            expected = preprocess(open_image(raw_dir / path), 24)
            np.testing.assert_array_equal(arrays.images[row], expected)

    def test_no_track_crosses_a_split_and_every_class_is_validated(self, make_config: MakeConfig) -> None:
        config = make_config()
        prepare(config.data)
        tracks = {}
        for name in ("train_split", "val_split"):
            paths = pd.read_csv(config.data.processed_dir / f"{name}.csv")["Path"]
            tracks[name] = {path.rpartition("_")[0] for path in paths}
            assert len({path.split("/")[1] for path in paths}) == 4
        assert not tracks["train_split"] & tracks["val_split"]

    def test_second_run_reuses_and_keeps_the_fingerprint(
        self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = prepare(make_config().data)
        monkeypatch.setattr("src.mlops.data.prepare.pack_images", pytest.fail)
        assert prepare(make_config().data).fingerprint == first.fingerprint

    @pytest.mark.parametrize("override", ["data.split.seed=1", "data.split.test_size=0.4", "data.image_size=32"])
    def test_other_settings_give_another_fingerprint(self, make_config: MakeConfig, override: str) -> None:
        first = prepare(make_config().data).fingerprint
        assert prepare(make_config(override).data).fingerprint != first

    def test_changed_image_is_packed_again(self, make_config: MakeConfig, raw_dir: Path) -> None:
        first = prepare(make_config().data).fingerprint
        make_image(3, seed=999).save(raw_dir / "Train/0/00000_00000_00000.png")
        assert prepare(make_config().data).fingerprint != first

    def test_corrupted_pack_is_prepared_again(self, make_config: MakeConfig) -> None:
        config = make_config()
        first = prepare(config.data).fingerprint
        images = config.data.processed_dir / "images.npy"
        images.write_bytes(images.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"processed/images\.npy .*inv data\.prepare"):
            open_pack(config.data.processed_dir)
        assert prepare(config.data).fingerprint == first

    def test_without_raw_dir_prepared_data_is_used(self, make_config: MakeConfig) -> None:
        first = prepare(make_config().data)
        assert prepare(make_config("data.raw_dir=null").data).fingerprint == first.fingerprint
        with pytest.raises(DataError, match=r"24 px.*data\.image_size is 32.*data\.raw_dir"):
            prepare(make_config("data.raw_dir=null", "data.image_size=32").data)

    @pytest.mark.parametrize("recorded", [True, False])  # version 0.1.0 recorded only a hash
    @pytest.mark.parametrize("key", ["data.split.seed=2", "data.split.test_size=0.5", "data.on_bad_image=stop"])
    def test_other_settings_without_raw_dir_are_refused(
        self, make_config: MakeConfig, raw_dir: Path, key: str, recorded: bool
    ) -> None:
        make_image(1, seed=5).save(raw_dir / "Train/1/extra.png")  # an unlisted image, which is part of the hash
        usual = ["data.on_bad_image=skip", "data.split.seed=7"]
        first = prepare(make_config(*usual).data)
        if not recorded:
            del first.manifest["settings"]
            (first.directory / "pack.json").write_text(json.dumps(first.manifest))
        assert prepare(make_config(*usual, "data.raw_dir=null").data).fingerprint == first.fingerprint
        used = r"data\.(split\.seed=7|split\.test_size=0\.2|on_bad_image=skip), not" if recorded else re.escape(key)
        with pytest.raises(DataError, match=rf"processed was prepared with .*{used}.*data\.raw_dir"):
            prepare(make_config(*usual, "data.raw_dir=null", key).data)

    def test_error_without_raw_dir_and_pack_names_the_sources(self, make_config: MakeConfig) -> None:
        with pytest.raises(DataError, match=r"data=official.*data=synthetic"):
            prepare(make_config("data.raw_dir=null").data)


class TestLayouts:
    def test_official(self, tmp_path: Path) -> None:
        folder = tmp_path / "Final_Training" / "Images" / "00014"
        test_folder = tmp_path / "Final_Test" / "Images"
        header = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
        for directory, names, csv in (
            (folder, ["00000_00000.ppm", "00001_00000.ppm"], "GT-00014.csv"),
            (test_folder, ["00000.ppm"], "GT-final_test.csv"),
        ):
            directory.mkdir(parents=True)
            for number, name in enumerate(names):
                make_image(14, number).save(directory / name)
            lines = [f"{name};30;30;3;3;27;27;14\n" for name in names]
            (directory / csv).write_text(header + "".join(lines))
        raw = read_layout(tmp_path)
        assert raw.layout == "official"
        assert list(raw.train["track_id"]) == ["00014_00000", "00014_00001"]
        assert list(raw.test["path"]) == ["Final_Test/Images/00000.ppm"]
        (test_folder / "GT-final_test.csv").unlink()
        with pytest.raises(DataError, match=r"GTSRB_Final_Test_GT\.zip"):
            read_layout(tmp_path)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "avif", "heic", "jp2"])
    def test_class_folders_without_a_test_folder_hold_out_a_test_set(self, tmp_path: Path, suffix: str) -> None:
        for class_id in (0, 7):
            for number in range(10):
                path = tmp_path / "raw" / str(class_id) / f"sign{number}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                kind = "HEIF" if suffix == "heic" else Image.registered_extensions()[f".{suffix}"]
                path.write_bytes(encode(make_image(class_id, number), kind))
        config = quick_config(
            [f"data.raw_dir={tmp_path}/raw", f"data.processed_dir={tmp_path}/p", "data.image_size=24"]
        )
        pack = prepare(config.data)
        assert [len(pack.load(split).rows) for split in ("train", "val", "test")] == [12, 4, 4]

    def test_class_folders_with_a_test_folder(self, tmp_path: Path) -> None:
        for split, name in itertools.product(("train", "test"), ("3", "4")):
            (tmp_path / split / name).mkdir(parents=True)
            make_image(3).save(tmp_path / split / name / "a.png")
        raw = read_layout(tmp_path)
        assert (raw.layout, len(raw.train), len(raw.test)) == ("class folders", 2, 2)

    def test_kaggle_with_lower_case_names(self, raw_dir: Path) -> None:
        (raw_dir / "Train.csv").rename(raw_dir / "train.csv")
        raw = read_layout(raw_dir)
        assert (raw.layout, len(raw.train), len(raw.test)) == ("Kaggle", 80, 12)

    @pytest.mark.parametrize("name", ["Train.csv", "Test.csv"])
    def test_kaggle_with_a_table_missing(self, raw_dir: Path, name: str) -> None:
        (raw_dir / name).unlink()
        with pytest.raises(DataError, match=f"{name} .*classes of the images"):
            read_layout(raw_dir)

    def test_prepared_data_between_class_folders(self, tmp_path: Path) -> None:
        for number in range(20):
            path = tmp_path / str(number % 2) / f"sign{number}.png"
            path.parent.mkdir(exist_ok=True)
            make_image(0, number).save(path)
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / ".lock").touch()  # from a preparation that failed
        config = quick_config([f"data.raw_dir={tmp_path}", f"data.processed_dir={tmp_path}/p", "data.image_size=24"])
        assert prepare(config.data).fingerprint == prepare(config.data).fingerprint

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
    @pytest.mark.parametrize("layout", ["Kaggle", "class folders"])
    def test_special_files_are_ignored_with_one_warning(
        self, tmp_path: Path, raw_dir: Path, layout: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        root = raw_dir if layout == "Kaggle" else tmp_path / "folders"
        for class_id in (0, 1):
            folder = root / (f"Train/{class_id}" if layout == "Kaggle" else str(class_id))
            folder.mkdir(parents=True, exist_ok=True)
            if layout != "Kaggle":
                (folder / "00000_00000.heic").touch()
            os.mkfifo(folder / "pipe.png")
        raw = read_layout(root)
        assert (raw.layout, raw.unlisted) == (layout, [])
        if layout != "Kaggle":
            assert list(raw.train["path"]) == ["0/00000_00000.heic", "1/00000_00000.heic"]
        warnings = [record.getMessage() for record in caplog.records if "named pipes" in record.getMessage()]
        assert len(warnings) == 1
        assert "Ignored 2 named pipes" in warnings[0]

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"data\.raw_dir=.*nowhere"):
            read_layout(tmp_path / "nowhere")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=rf"{re.escape(str(tmp_path))} .*empty.*Kaggle"):
            read_layout(tmp_path)

    def test_unknown_layout_lists_the_content(self, tmp_path: Path) -> None:
        (tmp_path / "holiday.jpg").touch()
        with pytest.raises(DataError, match=r"holiday\.jpg.*one folder per class.*Final_Training"):
            read_layout(tmp_path)

    def test_csv_without_a_column(self, raw_dir: Path) -> None:
        edit_csv(raw_dir / "Train.csv", lambda table: table.drop(columns="ClassId"))
        with pytest.raises(DataError, match=r"Train\.csv has no column .* labels; .*'Roi\.X1'.*data\.label_column"):
            read_layout(raw_dir)

    def test_csv_that_is_not_a_table(self, raw_dir: Path) -> None:
        (raw_dir / "Train.csv").write_bytes(b"")
        with pytest.raises(DataError, match=r"Train\.csv: it is empty"):
            read_layout(raw_dir)

    def test_class_id_43(self, raw_dir: Path) -> None:
        edit_csv(raw_dir / "Train.csv", lambda table: table.assign(ClassId=[43, *table["ClassId"][1:]]))
        with pytest.raises(DataError, match=r"Train/0/00000_00000_00000\.png .*'43'.*0 to 42.*classes\.csv"):
            read_layout(raw_dir)

    def test_class_id_that_is_not_a_number(self, raw_dir: Path) -> None:
        edit_csv(raw_dir / "Train.csv", lambda table: table.astype({"ClassId": str}).replace({"ClassId": "0"}, "stop"))
        with pytest.raises(DataError, match=r"Train/0/00000_00000_00000\.png .*'stop'.*0 to 42"):
            read_layout(raw_dir)

    def test_image_listed_twice(self, raw_dir: Path) -> None:
        edit_csv(raw_dir / "Train.csv", lambda table: pd.concat([table, table.head(1)]))
        with pytest.raises(DataError, match=r"Train\.csv.* lists Train/0/00000_00000_00000\.png more than once"):
            read_layout(raw_dir)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swap_folder(path: Path) -> None:
    csv = path.parents[2] / "Train.csv"
    edit_csv(csv, lambda table: table.assign(ClassId=table["ClassId"].where(~table["Path"].str.endswith(path.name), 3)))


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "corrupt": (lambda path: path.write_bytes(b"no image at all"), "not an image"),
    "truncated": (truncate, "corrupted"),
    "zero-byte": (lambda path: path.write_bytes(b""), "is empty"),
    "missing": (Path.unlink, "does not exist"),
    "wrong size": (lambda path: make_image(0, side=31).save(path), "30 x 30 px.*31 x 31 px"),
    "wrong class": (swap_folder, "class 3.*folder of class 0"),
}
BAD = "Train/0/00000_00001_00002.png"


class TestBadData:
    @pytest.mark.parametrize("name", BAD_FILES)
    def test_stops_and_writes_nothing(self, make_config: MakeConfig, raw_dir: Path, name: str) -> None:
        spoil, problem = BAD_FILES[name]
        spoil(raw_dir / BAD)
        config = make_config()
        with pytest.raises(DataError, match=f"1 bad image.*{BAD}: .*{problem}"):
            prepare(config.data)
        assert [path.name for path in config.data.processed_dir.iterdir()] == [".lock"]

    @pytest.mark.parametrize("name", BAD_FILES)
    def test_skip_drops_and_lists(self, make_config: MakeConfig, raw_dir: Path, name: str) -> None:
        BAD_FILES[name][0](raw_dir / BAD)
        config = make_config("data.on_bad_image=skip")
        pack = prepare(config.data)
        assert [bad["path"] for bad in report(config)["bad_images"]] == [BAD]
        assert sum(len(pack.load(split).rows) for split in ("train", "val")) == 79
        assert BAD not in pack.load("train").paths + pack.load("val").paths

    def test_image_in_no_table(self, make_config: MakeConfig, raw_dir: Path) -> None:
        make_image(1, seed=5).save(raw_dir / "Train/1/extra.png")
        with pytest.raises(DataError, match=r"1 bad image.*Train/1/extra\.png: .*CSV"):
            prepare(make_config().data)

    def test_same_image_under_two_classes(self, make_config: MakeConfig, raw_dir: Path) -> None:
        shutil.copy(raw_dir / BAD, raw_dir / "Train/1/00001_00000_00000.png")
        with pytest.raises(DataError, match=f"2 bad images.*{BAD}: .*class 0 \\(Speed limit 20 km/h\\) and class 1 "):
            prepare(make_config().data)

    def test_failure_keeps_the_prepared_data(self, make_config: MakeConfig, raw_dir: Path) -> None:
        first = prepare(make_config().data)
        (raw_dir / BAD).write_bytes(b"")
        with pytest.raises(DataError):
            prepare(make_config().data)
        assert open_pack(first.directory).fingerprint == first.fingerprint

    def test_leaks_drop_the_complete_training_track(self, make_config: MakeConfig, raw_dir: Path) -> None:
        shutil.copy(raw_dir / BAD, raw_dir / "Test/00000.png")
        config = make_config()
        pack = prepare(config.data)
        found = report(config)
        assert found["leaks"] == [{"train_path": BAD, "test_path": "Test/00000.png"}]
        assert found["leaked_tracks_dropped"] == {"00000_00001": 4}
        assert not [path for path in pack.load("train").paths + pack.load("val").paths if "00000_00001_" in path]

    def test_tracks_that_share_an_image_stay_together(self, make_config: MakeConfig, raw_dir: Path) -> None:
        for track in range(4):
            source = raw_dir / f"Train/0/00000_{track:05d}_00000.png"
            shutil.copy(source, raw_dir / f"Train/0/00000_{track + 1:05d}_00001.png")
        config = make_config()
        pack = prepare(config.data)
        sides = {split for split in ("train", "val") if any("Train/0/" in path for path in pack.load(split).paths)}
        assert len(sides) == 1
        assert len(report(config)["duplicates"]) == 4

    def test_skipping_all_images_keeps_the_prepared_data(self, make_config: MakeConfig, raw_dir: Path) -> None:
        first = prepare(make_config().data)
        for path in (raw_dir / "Train").rglob("*.png"):
            path.write_bytes(b"")
        with pytest.raises(DataError, match=r"'bad': 80.*Repair or add images for train and val"):
            prepare(make_config("data.on_bad_image=skip").data)
        assert open_pack(first.directory).fingerprint == first.fingerprint

    def test_an_existing_folder_is_kept(self, make_config: MakeConfig, raw_dir: Path) -> None:
        (raw_dir / BAD).unlink()
        config = make_config()
        config.data.processed_dir.mkdir()
        with pytest.raises(DataError):
            prepare(config.data)
        assert config.data.processed_dir.is_dir()

    def test_two_preparations_at_once(self, make_config: MakeConfig) -> None:
        config = make_config()
        with ThreadPoolExecutor() as pool:
            packs = list(pool.map(lambda _: prepare(config.data), range(3)))
        assert len({pack.fingerprint for pack in packs}) == 1
        assert open_pack(packs[0].directory).fingerprint == packs[0].fingerprint

    def test_output_that_cannot_be_written(self, make_config: MakeConfig, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match=r"prepared data .*file/x: "):
            prepare(make_config(f"data.processed_dir={tmp_path / 'file' / 'x'}").data)

    def test_full_disk_leaves_nothing(self, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("src.mlops.data.prepare.pack_images", full)
        config = make_config()
        with pytest.raises(DataError, match="No space left"):
            prepare(config.data)
        assert [path.name for path in config.data.processed_dir.iterdir()] == [".lock"]

    def test_leftovers_of_a_killed_run_are_removed(self, make_config: MakeConfig) -> None:
        config = make_config()
        (config.data.processed_dir / ".work-killed").mkdir(parents=True)
        prepare(config.data)
        assert not list(config.data.processed_dir.glob(".work-*"))

    def test_synthetic_needs_its_settings(self, make_config: MakeConfig) -> None:
        with pytest.raises(ConfigError, match=r"data\.source=synthetic.*data\.synthetic"):
            prepare(make_config("data.source=synthetic").data)


@pytest.mark.gtsrb
def test_leaks_in_the_real_images_are_found(tmp_path: Path) -> None:
    config = quick_config([f"data.raw_dir={GTSRB}", f"data.processed_dir={tmp_path}"])
    prepare(config.data)
    found = report(config)
    leaks = {leak["test_path"] for leak in found["leaks"]}
    assert leaks == {f"Test/{n}.webp" for n in ("11906", "04548", "09384", "03594", "03546", "00666")}
    assert found["images"] == {"train": 31349, "val": 5730, "reference": 2100, "test": 6315}


def test_animated_images_and_tiny_ones_are_bad(make_config: MakeConfig, raw_dir: Path) -> None:
    frames = [make_image(0, seed) for seed in range(3)]
    frames[0].save(raw_dir / "Test/00000.png", save_all=True, append_images=frames[1:])
    Image.new("RGB", (2, 2)).save(raw_dir / "Test/00001.png")
    with pytest.raises(DataError, match=r"several frames.*2 x 2"):
        prepare(make_config().data)


def test_single_track_is_used_for_training_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = write_kaggle(tmp_path / "raw", tracks=1)
    for class_id in (0,):
        for frame in range(4):
            name = f"Train/{class_id}/{class_id:05d}_00009_{frame:05d}.png"
            make_image(class_id, 900 + frame).save(raw / name)
    edit_csv(
        raw / "Train.csv",
        lambda table: pd.concat(
            [table, table.head(4).assign(Path=[f"Train/0/00000_00009_{frame:05d}.png" for frame in range(4)])]
        ),
    )
    config = quick_config([f"data.raw_dir={raw}", f"data.processed_dir={tmp_path}/p", "data.image_size=24"])
    pack = prepare(config.data)
    assert set(pack.load("val").labels) == {0}
    assert "too few groups of images to be in all splits: 3 ('Speed limit 30 km/h', " in caplog.text


@pytest.mark.parametrize("nested", [False, True])
def test_raw_images_are_never_overwritten(tmp_path: Path, raw_dir: Path, nested: bool) -> None:
    given = raw_dir
    if nested:  # as in the official archives
        given = tmp_path / "outer"
        given.mkdir()
        raw_dir = raw_dir.rename(given / "GTSRB")
    (tmp_path / "link").symlink_to(raw_dir, target_is_directory=True)
    before = sorted(raw_dir.rglob("*"))
    for processed in (raw_dir, tmp_path / "link"):
        with pytest.raises(ConfigError, match=r"data\.processed_dir"):
            prepare(quick_config([f"data.raw_dir={given}", f"data.processed_dir={processed}"]).data)
    assert sorted(raw_dir.rglob("*")) == before
