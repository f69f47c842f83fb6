"""Tests the layouts of own images: class folders, CSV files, archives, class lists and what is wrong with them."""

import json
import os
import re
import shutil
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.mlops.config import Config
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.layouts import RawData, read_layout
from src.mlops.data.packing import Pack
from src.mlops.data.prepare import prepare
from src.mlops.data.sources import locate_raw
from src.mlops.errors import DataError
from tests.helpers.images import make_image
from tests.helpers.tiny import quick_config, write_kaggle

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"


def write_images(root: Path, *paths: str) -> Path:
    """Writes small images whose content depends on their path."""
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        make_image(0, seed=zlib.crc32(path.encode()), side=8).save(target)
    return root


def write_classes(root: Path, *names: str, count: int = 5, folder: str = "") -> Path:
    return write_images(root, *(f"{folder}{name}/{number}.png" for name in names for number in range(count)))


def write_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.write_bytes(text.encode(encoding))


def config_of(raw: Path, *overrides: str) -> Config:
    target = raw.parent / f"{raw.name}_prepared"
    return quick_config([f"data.raw_dir={raw}", f"data.processed_dir={target}", "data.image_size=24", *overrides])


def prepared(raw: Path, *overrides: str) -> tuple[Pack, dict[str, list[str]], dict[str, object]]:
    """Returns the pack of a raw folder, the paths in each split, and the report."""
    pack = prepare(config_of(raw, *overrides).data)
    index = pd.read_csv(pack.directory / "index.csv")
    paths = {split: sorted(rows["path"]) for split, rows in index.groupby("split")}
    return pack, paths, json.loads((pack.directory / "report.json").read_text(encoding="utf-8"))


def splits(raw: RawData) -> dict[str, list[str]]:
    return {name: list(getattr(raw, name)["path"]) for name in ("train", "val", "test")}


def labels(raw: RawData) -> dict[str, str]:
    tables = pd.concat([raw.train, raw.val, raw.test])
    return {row.path: raw.classes[row.class_id].name for row in tables.itertuples()}


class TestClassList:
    def test_folders_are_sorted_naturally(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "stop", "give way", "Überholverbot", "10", "2", "止まれ")
        raw = read_layout(tmp_path)
        assert raw.classes.names == ["2", "10", "give way", "stop", "Überholverbot", "止まれ"]
        assert labels(raw)["give way/0.png"] == "give way"
        assert raw.classes_from == "the names of the class folders"

    def test_names_are_composed(self, tmp_path: Path) -> None:
        write_classes(tmp_path, unicodedata.normalize("NFD", "Überholverbot"), "Ziel")
        assert read_layout(tmp_path).classes.names == [unicodedata.normalize("NFC", "Überholverbot"), "Ziel"]

    @pytest.mark.parametrize("name", ["00003_00012", "00020_00003_00012"])
    def test_gtsrb_is_recognised_by_its_file_names(self, tmp_path: Path, name: str) -> None:
        write_images(tmp_path, f"0/{name}.png", f"00042/{name}.png")
        raw = read_layout(tmp_path)
        assert raw.classes == SIGNS
        assert list(raw.train["class_id"]) == [0, 42]

    @pytest.mark.parametrize("other", ["42/sign.png", "43/00003_00012.png", "stop/00003_00012.png"])
    def test_one_other_name_means_own_classes(self, tmp_path: Path, other: str) -> None:
        write_images(tmp_path, "0/00003_00012.png", "42/00003_00012.png", other)
        raw = read_layout(tmp_path)
        assert raw.classes.names == sorted({"0", "42", other.partition("/")[0]})
        assert list(raw.train["class_id"])[:2] == [0, 1]

    def test_forty_three_own_classes(self, tmp_path: Path) -> None:
        write_classes(tmp_path, *map(str, range(43)), count=1)
        assert read_layout(tmp_path).classes.names == list(map(str, range(43)))

    def test_classes_csv_by_name(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "stop", "go")
        write_text(tmp_path / "classes.csv", "name;number;mirror\nstop;206;\ngo;;go\n")
        raw = read_layout(tmp_path)
        assert [(entry.name, entry.number, entry.mirror) for entry in raw.classes] == [
            ("stop", "206", None),
            ("go", None, 1),
        ]
        assert labels(raw)["go/0.png"] == "go"

    def test_classes_csv_by_id(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "0", "01")
        write_text(tmp_path / "classes.csv", "id,name\n1,go\n0,stop\n")
        assert labels(read_layout(tmp_path))["01/0.png"] == "go"

    def test_classes_csv_by_label(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "n01", "n02")
        write_text(tmp_path / "classes.csv", "name\tlabel\nstop\tn02\ngo\tn01\n", "utf-16")
        raw = read_layout(tmp_path)
        assert raw.classes.names == ["stop", "go"]
        assert labels(raw)["n01/0.png"] == "go"

    def test_classes_csv_replaces_the_catalogue(self, raw_dir: Path) -> None:
        write_text(raw_dir / "classes.csv", "name\na\nb\nc\nd\n")
        assert read_layout(raw_dir).classes.names == ["a", "b", "c", "d"]

    def test_the_list_travels_with_the_pack(self, tmp_path: Path) -> None:
        pack, _, report = prepared(write_classes(tmp_path / "raw", "stop", "give way"))
        assert pack.classes.names == ["give way", "stop"]
        assert report["classes_from"] == "the names of the class folders"

    @pytest.mark.parametrize("name", ["CLASSES.csv", "Classes.CSV"])
    def test_the_case_of_classes_csv_does_not_matter(self, tmp_path: Path, name: str) -> None:
        write_classes(tmp_path, "a", "b")
        write_text(tmp_path / name, "name\nb\na\n")
        assert read_layout(tmp_path).classes.names == ["b", "a"]

    def test_a_list_elsewhere_is_not_ignored_silently(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_classes(tmp_path, "a", "b", folder="train/")
        write_text(tmp_path / "train/classes.csv", "name\nb\na\n")
        read_layout(tmp_path)
        assert "train/classes.csv" in caplog.text

    def test_another_name_prepares_again(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "raw", "0", "1")
        fingerprints = set()
        for names in (["a", "b"], ["a", "c"]):
            write_text(tmp_path / "raw/classes.csv", "\n".join(["name", *names]))
            pack = prepared(tmp_path / "raw")[0]
            assert pack.classes.names == names
            fingerprints.add(pack.fingerprint)  # it names the folder of published data, for example
        assert len(fingerprints) == 2


class TestFolders:
    @pytest.mark.parametrize(
        "names", [("train", "val", "test"), ("Train", "valid", "TEST"), ("training", "validation", "testing")]
    )
    def test_given_splits_are_used(self, tmp_path: Path, names: Sequence[str]) -> None:
        for name in names:
            write_classes(tmp_path / "raw", "a", "b", folder=f"{name}/")
        raw = read_layout(tmp_path / "raw")
        assert [len(table) for table in (raw.train, raw.val, raw.test)] == [10, 10, 10]
        _, paths, _ = prepared(tmp_path / "raw")
        for split, name in zip(("train", "val", "test"), names, strict=True):
            assert {path.partition("/")[0] for path in paths[split]} == {name}

    def test_a_given_validation_split_is_not_held_out_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        for name in ("train", "val"):
            write_classes(tmp_path / "raw", "a", "b", folder=f"{name}/", count=10)
        _, paths, _ = prepared(tmp_path / "raw")
        assert len(paths["val"]) == 20
        assert {path.partition("/")[0] for path in paths["val"]} == {"val"}
        assert (len(paths["test"]), len(paths["train"])) == (4, 16)
        assert "so 4 images were held out for testing" in caplog.text

    def test_a_single_top_folder_is_entered(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "raw", "a", "b", folder="signs/v2/")
        raw = read_layout(tmp_path / "raw")
        assert raw.classes.names == ["a", "b"]
        assert raw.train["path"][0] == "signs/v2/a/0.png"

    def test_a_class_can_be_called_train(self, tmp_path: Path) -> None:
        write_classes(tmp_path, "bus", "car", "train")
        assert read_layout(tmp_path).classes.names == ["bus", "car", "train"]

    def test_folders_in_class_folders_belong_to_the_class(self, tmp_path: Path) -> None:
        write_images(tmp_path, "a/x/1.png", "a/2.png", "b/y/z/3.png")
        assert labels(read_layout(tmp_path)) == {"a/2.png": "a", "a/x/1.png": "a", "b/y/z/3.png": "b"}

    def test_flat_test_images_are_to_predict(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "raw", "a", "b", folder="train/")
        write_images(tmp_path / "raw", "test/1.png", "test/2.png")
        assert prepared(tmp_path / "raw")[2]["unlabelled_images"] == 2

    def test_links_to_folders_are_followed_but_not_in_circles(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "elsewhere", "a", "b")
        (tmp_path / "raw").mkdir()
        for name in ("a", "b"):
            (tmp_path / "raw" / name).symlink_to(tmp_path / "elsewhere" / name)
        (tmp_path / "elsewhere" / "b" / "up").symlink_to(tmp_path / "raw")
        assert len(read_layout(tmp_path / "raw").train) == 10

    def test_an_image_without_a_class_is_bad(self, tmp_path: Path) -> None:
        write_images(write_classes(tmp_path / "raw", "a", "b"), "logo.png")
        with pytest.raises(DataError, match=r"1 bad image: logo\.png: .*in no class folder"):
            prepare(config_of(tmp_path / "raw").data)
        assert prepared(tmp_path / "raw", "data.on_bad_image=skip")[2]["bad_images"]

    def test_what_this_project_writes_is_not_data(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_classes(tmp_path, "a", "b")
        write_images(tmp_path, "a/0_explained.png", "a/alone_explained.png")  # no image is called alone
        paths = [path.as_posix() for path in tmp_path.rglob("*.png")]
        lines = [f"{path},0,wrong {number % 2}" for number, path in enumerate(paths)]
        write_text(tmp_path / "predictions.csv", "\n".join(["path,predicted_class,class_name", *lines]))
        raw = read_layout(tmp_path)
        assert set(labels(raw).values()) == {"a", "b"}
        assert set(raw.train["path"]) - {"a/alone_explained.png"} == {f"{c}/{n}.png" for c in "ab" for n in range(5)}
        assert "predictions.csv is not read" in caplog.text
        assert set(labels(read_layout(tmp_path, label_column="class_name")).values()) == {"wrong 0", "wrong 1"}

    def test_names_are_plain_text_in_the_report(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "raw", "a|b", "<b>", "*c*")
        write_classes(tmp_path / "raw", "$d$", count=1)
        pack, _, _ = prepared(tmp_path / "raw")
        text = (pack.directory / "report.md").read_text(encoding="utf-8")
        assert r"| a\|b | 3 | 1 | 0 | 1 |" in text
        assert r"\<b\> | 3 | 1 | 0 | 1 |" in text
        assert r"- \$d\$ (1): not in val and test" in text

    def test_what_systems_leave_in_folders_is_counted(self, tmp_path: Path) -> None:
        raw = write_classes(tmp_path / "raw", "a", "b")
        clean = prepared(raw)[0].fingerprint
        for name in (
            "__MACOSX/a/._0.png", "a/._0.png", "a/.hidden.png", "a/Thumbs.db", "b/desktop.ini", ".DS_Store",
            "b/.DS_Store", "@eaDir/0.png", ".ipynb_checkpoints/0.png", "a/0.png:Zone.Identifier", "~$labels.csv",
            "$RECYCLE.BIN/x.png",
        ):  # fmt: skip
            (raw / name).parent.mkdir(parents=True, exist_ok=True)
            (raw / name).write_bytes(b"no image")
        (raw / "a/notes.txt").write_text("mine")
        pack, _, report = prepared(raw)
        assert pack.fingerprint == clean
        assert read_layout(raw).skipped == {"hidden": 12, "other": 1, "unused_images": 0}
        shutil.rmtree(pack.directory)
        report = prepared(raw)[2]
        assert report["skipped_files"] == {"hidden": 12, "other": 1, "unused_images": 0}


def write_csv_data(root: Path, text: str = "", name: str = "labels.csv", encoding: str = "utf-8") -> Path:
    """Writes images/0.png to images/9.png, of which the even ones are of class a, and a CSV file."""
    write_images(root, *(f"images/{number}.png" for number in range(10)))
    if not text:
        text = "path,label\n" + "".join(f"images/{number}.png,{'ab'[number % 2]}\n" for number in range(10))
    write_text(root / name, text, encoding)
    return root


def table_text(line: str, header: str = "path,label") -> str:
    lines = (line.format(number=number, label="ab"[number % 2]) for number in range(10))
    return "\n".join([header, *lines]) + "\n"


EXPECTED = {f"images/{number}.png": "ab"[number % 2] for number in range(10)}


class TestCsv:
    @pytest.mark.parametrize(
        ("header", "line"),
        [
            ("path,label", "images/{number}.png,{label}"),
            ("Label;File Name;comment", "{label};images/{number}.png;nice; "[:-2]),
            ("image\tclass", "images/{number}.png\t{label}"),
            ("id,class_name", "{number},{label}"),
            ("filename, target", '"{number}.png", "{label}"'),
            ("img_path,category", r"images\{number}.png,{label}"),
            ("file,label", "./images/{number}.png, {label} "),
            ("file,label", "images/../images/{number}.png,{label}"),
            ("file,label", "/home/anna/data/images/{number}.png,{label}"),
            ("file,label", r"C:\Users\Anna Lena\data\images\{number}.png,{label}"),
            ("file,label", r"\\server\share\images\{number}.png,{label}"),
        ],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_columns_separators_and_paths(self, tmp_path: Path, header: str, line: str, encoding: str) -> None:
        raw = read_layout(write_csv_data(tmp_path, table_text(line, header), encoding=encoding))
        assert (raw.layout, labels(raw), raw.unlisted) == ("CSV", EXPECTED, [])

    def test_utf_16_without_a_byte_order_mark(self, tmp_path: Path) -> None:
        text = table_text("images/{number}.png;{label}", "path;label")
        assert labels(read_layout(write_csv_data(tmp_path, text, encoding="utf-16-le"))) == EXPECTED

    def test_absolute_paths_of_this_machine(self, tmp_path: Path) -> None:
        text = table_text(f"{tmp_path.resolve()}/images/{{number}}.png,{{label}}")
        assert labels(read_layout(write_csv_data(tmp_path, text))) == EXPECTED

    def test_names_of_columns_can_be_set(self, tmp_path: Path) -> None:
        write_csv_data(tmp_path, table_text("wrong,images/{number}.png,wrong,{label}", "path,where,label,what"))
        assert labels(read_layout(tmp_path, "where", "what")) == EXPECTED
        with pytest.raises(DataError, match=r"labels\.csv has no column 'kind'.*'what'.*data\.label_column"):
            read_layout(tmp_path, "where", "kind")

    def test_flat_folder(self, tmp_path: Path) -> None:
        write_images(tmp_path, "1.png", "2.png")
        write_text(tmp_path / "labels.csv", "file,label\n1.png,a\n2.png,b\n")
        assert labels(read_layout(tmp_path)) == {"1.png": "a", "2.png": "b"}

    def test_unicode_forms_of_file_names(self, tmp_path: Path) -> None:
        name = unicodedata.normalize("NFD", "Größe.png")
        write_images(tmp_path, name, "2.png")
        write_text(tmp_path / "labels.csv", f"file,label\n{unicodedata.normalize('NFC', name)},a\n2.png,b\n")
        assert labels(read_layout(tmp_path)) == {name: "a", "2.png": "b"}

    def test_column_split(self, tmp_path: Path) -> None:
        text = "path,label,split\n" + "".join(
            f"images/{number}.png,{'ab'[number % 2]},{split}\n"
            for number, split in enumerate(["train"] * 6 + ["Valid", "val", "test", "testing"])
        )
        raw = read_layout(write_csv_data(tmp_path, text))
        assert [len(paths) for paths in splits(raw).values()] == [6, 2, 2]

    def test_changed_split_prepares_again(self, tmp_path: Path) -> None:
        lines = [f"images/{number}.png,{'ab'[number % 2]}" for number in range(10)]
        sizes = []
        for border in (6, 8):
            given = ["train"] * border + ["val"] * (10 - border)
            text = "\n".join(
                ["path,label,split", *(f"{line},{split}" for line, split in zip(lines, given, strict=True))]
            )
            sizes.append(len(prepared(write_csv_data(tmp_path / "raw", text))[1]["val"]))
        assert sizes == [4, 2]

    def test_one_file_per_split(self, tmp_path: Path) -> None:
        write_csv_data(tmp_path, "path,label\nimages/0.png,a\nimages/1.png,b\nimages/2.png,b\n", "train.csv")
        write_text(tmp_path / "valid.csv", "path,label\nimages/3.png,a\n")
        write_text(tmp_path / "test.csv", "path,label\nimages/4.png,a\n")
        raw = read_layout(tmp_path)
        assert [len(paths) for paths in splits(raw).values()] == [3, 1, 1]
        assert len(raw.unlisted) == 5

    @pytest.mark.parametrize(
        "text", ["path\nimages/8.png\nimages/9.png\n", "path,label\nimages/8.png,\nimages/9.png,\n"]
    )
    def test_test_images_without_labels_are_counted(self, tmp_path: Path, text: str) -> None:
        rows = "".join(f"images/{number}.png,{'ab'[number % 2]}\n" for number in range(8))
        write_csv_data(tmp_path / "raw", f"path,label\n{rows}", "train.csv")
        write_text(tmp_path / "raw/test.csv", text)
        _, paths, report = prepared(tmp_path / "raw")
        assert report["unlabelled_images"] == 2
        assert not {"images/8.png", "images/9.png"} & {path for split in paths.values() for path in split}

    def test_kaggle_test_csv_without_classes(self, raw_dir: Path) -> None:
        pd.read_csv(raw_dir / "Test.csv").drop(columns="ClassId").to_csv(raw_dir / "Test.csv", index=False)
        raw = read_layout(raw_dir)
        assert (raw.layout, len(raw.train), len(raw.test), len(raw.unlabelled)) == ("Kaggle", 80, 0, 12)

    def test_groups_stay_together(self, tmp_path: Path) -> None:
        paths = [f"{number}.png" for number in range(60)]
        write_images(tmp_path / "raw", *paths)
        rows = [f"{path},{'abc'[number % 3]},photo {number // 6}" for number, path in enumerate(paths)]
        write_text(tmp_path / "raw/labels.csv", "\n".join(["path,label,group", *rows]))
        _, found, _ = prepared(tmp_path / "raw")
        photos = {split: {int(path.partition(".")[0]) // 6 for path in paths} for split, paths in found.items()}
        assert all(photos[split] for split in ("train", "val", "test"))
        assert sum(map(len, photos.values())) == 10

    def test_sizes_are_compared_with_the_images(self, tmp_path: Path) -> None:
        write_csv_data(tmp_path / "raw", table_text("images/{number}.png,{label},8,9", "path,label,width,height"))
        with pytest.raises(DataError, match=r"10 bad images: .*8 x 9 px.*8 x 8 px"):
            prepare(config_of(tmp_path / "raw").data)

    def test_other_images_and_tables_are_ignored(self, tmp_path: Path) -> None:
        write_images(write_csv_data(tmp_path), "drawings/a.png")
        write_text(tmp_path / "sources.csv", "site,licence\nx,y\n")
        raw = read_layout(tmp_path)
        assert (labels(raw), raw.unlisted, raw.skipped["unused_images"]) == (EXPECTED, [], 1)

    def test_numbers_as_pandas_writes_them(self, tmp_path: Path) -> None:
        write_images(tmp_path, "1.png", "2.png")
        write_text(tmp_path / "labels.csv", "file,label\n1.png,3.0\n2.png,10.0\n")
        assert read_layout(tmp_path).classes.names == ["3", "10"]

    def test_numbers_as_pandas_writes_them_if_a_label_is_missing(self, tmp_path: Path) -> None:
        write_images(tmp_path, "1.png", "2.png", "3.png")
        write_text(tmp_path / "labels.csv", "file,label,split\n1.png,3.0,train\n2.png,10.0,train\n3.png,,test\n")
        raw = read_layout(tmp_path)
        assert raw.classes.names == ["3", "10"]
        assert raw.unlabelled == ["3.png"]

    def test_labels_that_look_like_missing_values(self, tmp_path: Path) -> None:
        write_images(tmp_path, "1.png", "2.png")
        write_text(tmp_path / "labels.csv", "file,label\n1.png,NA\n2.png,null\n")
        assert read_layout(tmp_path).classes.names == ["NA", "null"]


class TestArchives:
    @pytest.fixture
    def archive(self, tmp_path: Path) -> Path:
        write_classes(tmp_path / "content/signs", "a", "b")
        (tmp_path / "content/__MACOSX").mkdir()
        (tmp_path / "content/__MACOSX/._signs").touch()
        return Path(shutil.make_archive(str(tmp_path / "signs"), "zip", tmp_path / "content"))

    @pytest.mark.parametrize(("kind", "suffix"), [("zip", ".zip"), ("tar", ".tar"), ("gztar", ".tar.gz")])
    def test_archives_are_raw_data(self, tmp_path: Path, kind: str, suffix: str) -> None:
        write_classes(tmp_path / "content/signs", "a", "b")
        archive = shutil.make_archive(str(tmp_path / "my.signs"), kind, tmp_path / "content")
        assert archive.endswith(suffix)
        _, paths, _ = prepared(Path(archive))
        assert all(path.startswith("signs/") for path in paths["train"])
        assert (tmp_path / "my.signs_unpacked/signs/a/0.png").is_file()
        assert read_layout(tmp_path / "my.signs_unpacked").skipped == {"hidden": 0, "other": 0, "unused_images": 0}

    def test_an_archive_is_unpacked_once(self, archive: Path, caplog: pytest.LogCaptureFixture) -> None:
        data = config_of(archive).data
        folder = locate_raw(data)
        assert folder
        (folder / "mark").touch()
        assert locate_raw(data) == folder
        assert (folder / "mark").exists()
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr("signs/a/new.txt", "new")
        locate_raw(data)
        assert (folder / "signs/a/new.txt").exists()
        assert not (folder / "mark").exists()

    def test_an_own_folder_is_never_replaced(self, archive: Path) -> None:
        own = archive.parent / "signs_unpacked/mine.txt"
        own.parent.mkdir()
        own.touch()
        with pytest.raises(DataError, match=r"signs_unpacked already exists.*data\.raw_dir"):
            locate_raw(config_of(archive).data)
        assert own.exists()

    def test_a_damaged_archive(self, archive: Path) -> None:
        archive.write_bytes(archive.read_bytes()[:100])
        with pytest.raises(DataError, match=r"Cannot unpack .*signs\.zip"):
            prepare(config_of(archive).data)

    def test_another_file(self, tmp_path: Path) -> None:
        (tmp_path / "signs.rar").touch()
        with pytest.raises(DataError, match=r"signs\.rar is neither a folder nor an archive .*\.zip, \.tar"):
            prepare(config_of(tmp_path / "signs.rar").data)


@pytest.mark.parametrize("raw_dir", ["", "gtsrb"])
def test_torchvision(tmp_path: Path, raw_dir: str, caplog: pytest.LogCaptureFixture) -> None:
    base = tmp_path / "gtsrb" / "GTSRB"
    for class_id in (0, 7):
        write_images(base, *(f"Training/{class_id:05d}/{track:05d}_00000.ppm" for track in range(2)))
        rows = "".join(f"{track:05d}_00000.ppm;8;8;1;1;7;7;{class_id}\n" for track in range(2))
        write_text(base / f"Training/{class_id:05d}/GT-{class_id:05d}.csv", HEADER + rows)
    write_images(base, "Final_Test/Images/00000.ppm")
    write_text(tmp_path / "gtsrb/GT-final_test.csv", f"{HEADER}00000.ppm;8;8;1;1;7;7;7\n")
    raw = read_layout(tmp_path / raw_dir)
    assert (raw.layout, raw.classes, raw.unlisted) == ("torchvision", SIGNS, [])
    assert list(raw.train["class_id"]) == [0, 0, 7, 7]
    assert list(raw.train["track_id"])[-1] == "00007_00001"
    assert [path.rpartition("gtsrb/")[2] for path in raw.test["path"]] == ["GTSRB/Final_Test/Images/00000.ppm"]
    assert "26,640" in caplog.text
    shutil.rmtree(base / "Final_Test")
    assert read_layout(tmp_path).test.empty


class TestGroups:
    def test_without_tracks_a_warning_says_what_to_do(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        raw = write_classes(tmp_path / "raw", "a", "b")
        for _ in range(2):  # the second time, the prepared data is reused
            prepared(raw)
        assert len(re.findall("belong together", caplog.text)) == 1
        assert re.search(r"which of the images .* belong together.*TRACK_FRAME\.png.*'group'.*inflated", caplog.text)

    def test_no_warning_if_nothing_is_held_out(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for split in ("train", "val", "test"):
            write_classes(tmp_path / "raw", "a", "b", folder=f"{split}/")
        prepared(tmp_path / "raw")
        assert not caplog.records

    def test_groups_across_given_splits(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        images = ("train/a/00001_00000.png", "train/a/00002_00000.png", "train/b/00001_00000.png")
        prepared(write_images(tmp_path / "raw", *images, "val/a/00001_00001.png"))
        assert "Groups of images that belong together are in several of the given splits: 1, for example" in caplog.text

    def test_small_classes_are_reported_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        raw = write_classes(tmp_path / "raw", *(f"large {number}" for number in range(3)))
        for name, count in (("pair", 2), ("single", 1), ("other single", 1)):
            write_classes(raw, name, count=count)
        pack, paths, report = prepared(raw)
        assert report["small_classes"] == [
            {"class_id": 3, "name": "other single", "groups": 1, "missing": ["val", "test"]},
            {"class_id": 4, "name": "pair", "groups": 2, "missing": ["val"]},
            {"class_id": 5, "name": "single", "groups": 1, "missing": ["val", "test"]},
        ]
        assert {"single/0.png", "other single/0.png"} <= set(paths["train"])
        assert sum("too few groups" in record.getMessage() for record in caplog.records) == 1
        assert "- pair (2): not in val" in (pack.directory / "report.md").read_text()

    def test_a_thousand_classes(self, tmp_path: Path) -> None:
        raw = write_classes(tmp_path / "raw", *(f"class {number}" for number in range(1000)), count=3)
        pack, paths, report = prepared(raw)
        assert len(pack.classes) == 1000
        assert [len(paths[split]) for split in ("train", "val", "test")] == [1000, 1000, 1000]
        assert report["small_classes"] == []


class TestDuplicates:
    def test_copies_of_validation_images_are_dropped_from_training(self, tmp_path: Path) -> None:
        for split in ("train", "val", "test"):
            write_classes(tmp_path / "raw", "a", "b", folder=f"{split}/")
        shutil.copy(tmp_path / "raw/val/a/0.png", tmp_path / "raw/train/a/0.png")
        shutil.copy(tmp_path / "raw/test/b/1.png", tmp_path / "raw/val/b/1.png")
        _, paths, report = prepared(tmp_path / "raw")
        assert report["leaks"] == [
            {"train_path": "train/a/0.png", "val_path": "val/a/0.png"},
            {"val_path": "val/b/1.png", "test_path": "test/b/1.png"},
        ]
        assert [len(paths[split]) for split in ("train", "val", "test", "leak")] == [9, 9, 10, 2]

    def test_a_class_of_copies(self, tmp_path: Path) -> None:
        for split in ("train", "test"):
            write_classes(tmp_path / "raw", "a", "b", folder=f"{split}/")
        shutil.copytree(tmp_path / "raw/test/a", tmp_path / "raw/train/a", dirs_exist_ok=True)
        with pytest.raises(DataError, match=r"All training images of 'a' .*copies of held-out images"):
            prepare(config_of(tmp_path / "raw").data)

    def test_near_duplicates_are_reported_and_kept(self, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        for split in ("train", "val", "test"):
            write_classes(raw, "a", "b", folder=f"{split}/")
        patches = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
        image = Image.fromarray(patches).resize((90, 90), Image.Resampling.BICUBIC)
        image.save(raw / "train/a/photo.png")
        image.resize((45, 45)).point(lambda value: 0.8 * value + 20).save(raw / "val/a/small.jpg")
        image.rotate(90).save(raw / "test/a/turned.png")
        pack, paths, report = prepared(raw)
        assert report["near_duplicates"] == {
            "images": 1,
            "first": [{"train_path": "train/a/photo.png", "val_path": "val/a/small.jpg"}],
        }
        assert "train/a/photo.png" in paths["train"]
        assert "near-duplicate: `train/a/photo.png` and `val/a/small.jpg`" in (pack.directory / "report.md").read_text()

    def test_images_without_contrast_are_not_near_duplicates(self, tmp_path: Path) -> None:
        for number, (split, name) in enumerate((s, c) for s in ("train", "val", "test") for c in "ab"):
            for image in range(3):
                path = tmp_path / "raw" / split / name / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                make_image(0, side=8).point(lambda _, grey=10 * number + image: grey).save(path)
        assert prepared(tmp_path / "raw")[2]["near_duplicates"] == {"images": 0, "first": []}


def empty_class(raw: Path) -> None:
    (raw / "c").mkdir()


def broken_class(raw: Path) -> None:
    (raw / "c").mkdir()
    for number in range(3):
        (raw / "c" / f"{number}.png").write_bytes(b"no image")


def only(*names: str) -> Callable[[Path], object]:
    def spoil(raw: Path) -> None:
        shutil.rmtree(raw)
        raw.mkdir()
        write_classes(raw, *names)

    return spoil


def classes_csv(text: str) -> Callable[[Path], object]:
    return lambda raw: write_text(raw / "classes.csv", text)


def csv_data(text: str, name: str = "labels.csv") -> Callable[[Path], object]:
    def spoil(raw: Path) -> None:
        shutil.rmtree(raw)
        write_csv_data(raw, text, name)

    return spoil


def in_splits(*folders: str) -> Callable[[Path], object]:
    def spoil(raw: Path) -> None:
        shutil.rmtree(raw)
        write_images(raw, *(f"{folder}/{number}.png" for folder in folders for number in range(3)))

    return spoil


def gtsrb_with_other_ids(raw: Path) -> None:
    shutil.rmtree(raw)
    write_kaggle(raw)
    table = pd.read_csv(raw / "Train.csv")
    table.assign(ClassId=table["ClassId"] + 41).to_csv(raw / "Train.csv", index=False)


ROWS = "images/0.png,a\nimages/1.png,b\n"
DECOMPOSED = unicodedata.normalize("NFD", "Über")
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no class": (only(), r"is an empty folder"),
    "only text files": (lambda raw: (only()(raw), write_text(raw / "a.txt", "")), r"no images; it contains a\.txt"),
    "images without classes": (lambda raw: (only()(raw), write_images(raw, "1.png", "2.png")), r"neither class"),
    "one class": (only("a"), r"class folders in .*raw cannot be used as classes: at least 2 classes"),
    "empty folder": (empty_class, r"raw contains no images of class 'c'.*remove the empty folders"),
    "only broken files": (broken_class, r"3 bad images: c/0\.png: .*not an image"),
    "names that differ in case": (lambda raw: write_classes(raw, "Über", "über"), r"'Über' and 'über' differ only"),
    "names that differ in form": (lambda raw: write_classes(raw, "Über", DECOMPOSED), r"two Unicode forms. Rename"),
    "name with a space at the end": (lambda raw: write_classes(raw, "c "), r"without spaces around it.*'c '"),
    "classes.csv without a name": (classes_csv("name,number\na,1\n,2\n"), r"not a valid class list: a name must"),
    "classes.csv without names": (classes_csv("id,title\n0,a\n1,b\n"), r"must have a column 'name'.*'title'"),
    "classes.csv with a name twice": (classes_csv("name\na\na\n"), r"'a' occurs more than once"),
    "classes.csv with a gap": (classes_csv("id,name\n0,a\n2,b\n"), r"without gaps, but class 1 is missing"),
    "classes.csv with an unknown mirror": (classes_csv("name,mirror\na,x\nb,\n"), r"name of a class, but is 'x'"),
    "classes.csv with an id twice": (classes_csv("id,name\n0,a\n0,b\n"), r"the class id 0 occurs more than once"),
    "classes.csv with a huge id": (classes_csv(f"id,name\n0,a\n{'9' * 5000},b\n"), r"the id of 'b' must be a whole"),
    "classes.csv with a missing value": (classes_csv("name,number\na,1\nb\n"), r"Line 3 .*1 values, but must have 2"),
    "classes.csv with a huge value": (classes_csv(f"name\n{'a' * 200_000}\n"), r"Cannot read line 2 of .*field"),
    "empty classes.csv": (classes_csv("\n"), r"must have a column 'name', .* but it is empty"),
    "link to no classes.csv": (lambda raw: (raw / "classes.csv").symlink_to("missing"), r"Cannot read .*classes\.csv"),
    "ids with zeros before them": (
        lambda raw: (only("0", "00", "1")(raw), classes_csv("name\na\nb\n")(raw)), r"'0' and '00' are the same number"
    ),
    "label in no list": (classes_csv("name\na\nc\n"), r"classes\.csv does not contain all labels.*Missing: 'b'\."),
    "id in no list": (
        lambda raw: (only("0", "2")(raw), classes_csv("name\na\nc\n")(raw)), r"all labels.*Missing: '2'\."
    ),
    "class of classes.csv without images": (classes_csv("name\na\nb\nc\n"), r"no images of class 'c'.*remove the rows"),
    "class only in test": (in_splits("train/a", "train/b", "test/c"), r"no training images, of class 'c'"),
    "class only in val": (in_splits("train/a", "train/b", "val/c"), r"no training images, of class 'c'"),
    "no training split": (in_splits("val/a", "test/b"), r"layout class folders, but contains no training images"),
    "splits without classes": (in_splits("train", "test"), r"no training images in class folders; train/0\.png is in"),
    "two images per class": (lambda raw: (only()(raw), write_classes(raw, "a", "b", count=2)), r"needs 3 groups"),
    "two folders for a split": (in_splits("train/a", "val/a", "valid/a"), r"val and valid, which mean the same split"),
    "other folder next to splits": (in_splits("train/a", "train/b", "c"), r"images in c next to the splits train"),
    "GTSRB's columns with other ids": (gtsrb_with_other_ids, r"'43', .*are 0 to 42.*add classes\.csv"),
    "CSV without labels": (csv_data("path,size\nimages/0.png,3\n"), r"labels\.csv has no .*'size'.*label_column"),
    "CSV without paths": (csv_data("where,label\nimages/0.png,a\n"), r"labels\.csv has no .*'where'.*path_column"),
    "train.csv without labels": (csv_data("path\nimages/0.png\n", "train.csv"), r"train\.csv has no column .*labels"),
    "missing file": (csv_data("path,label\nx.png,a\nimages/1.png,b\n"), r"bad images: .*x\.png: .*does not exist"),
    "repeated path": (csv_data(f"path,label\n{ROWS}./images/0.png,b\n"), r"lists images/0\.png more than once"),
    "path outside": (csv_data(f"path,label\n{ROWS}../x.png,a\n"), r"'\.\./x\.png' in line 4 .* is outside of"),
    "Linux path of elsewhere": (csv_data(f"path,label\n{ROWS}/home/a/x.png,a\n"), r"'/home/a/x\.png' .*absolute Linux"),
    "Windows path of elsewhere": (csv_data(f"path,label\n{ROWS}D:\\a\\x.png,a\n"), r"'D:/a/x\.png' .*absolute Windows"),
    "URL": (csv_data(f"path,label\n{ROWS}https://a.b/x.png,a\n"), r"'https://a\.b/x\.png' in line 4 .*is a URL"),
    "empty label": (csv_data(f"path,label\n{ROWS}images/2.png,\n"), r"Line 4 of .*labels\.csv has no label"),
    "empty path": (csv_data(f"path,label\n{ROWS},a\n"), r"Line 4 of .*labels\.csv has no path"),
    "unknown split": (csv_data("path,label,split\nimages/0.png,a,fold 1\n"), r"Line 2 of .* has the split 'fold 1'"),
    "size that is not a number": (csv_data("path,label,width\nimages/0.png,a,wide\n"), r"Line 2 .*'wide' in .*'width'"),
    "too many values": (csv_data("path,label\nimages/0.png,a,b,c\n"), r"labels\.csv as a table.*more values"),
    "too many values later": (csv_data(f"path,label\n{ROWS}a,b,c\n"), r"labels\.csv as a table.*line 4"),
    "empty CSV": (csv_data("\n"), r"Cannot read .*labels\.csv: it is empty"),
    "CSV with null characters": (csv_data("path,label\nimages/0.png\0,a\n"), r"it contains null characters"),
    "size that is too large": (csv_data("path,label,width\nimages/0.png,a,1e30\n"), r"Line 2 .*'1e30' in .*'width'"),
    "label of 5,000 digits": (csv_data(f"path,label\n{ROWS}images/2.png,{'9' * 5000}\n"), r"1 to 200 characters"),
    "CSV in an old encoding": (
        lambda raw: (shutil.rmtree(raw), write_csv_data(raw, "path,label\nimages/0.png,Grün\n", encoding="cp1252")),
        r"labels\.csv: it is neither UTF-8 nor UTF-16",
    ),
    "two CSV files": (
        lambda raw: (csv_data(f"path,label\n{ROWS}")(raw), write_text(raw / "more.csv", "file,class\na,b\n")),
        r"several CSV files with paths and labels: labels\.csv, more\.csv",
    ),
    "ambiguous name": (
        lambda raw: (csv_data("path,label\n0.png,a\nimages/1.png,b\n")(raw), write_images(raw, "more/0.png")),
        r"'0\.png' in line 2 .* can be images/0\.png or more/0\.png",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    spoil, problem = BAD[name]
    raw = write_classes(tmp_path / "raw", "a", "b")
    spoil(raw)
    data = config_of(raw).data
    with pytest.raises(DataError, match=problem):
        prepare(data)
    assert not [path for path in data.processed_dir.rglob("*") if path.name != ".lock"]


def test_a_given_split_of_broken_files_is_not_cut_anew(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_classes(tmp_path / "raw", "a", "b", folder=f"{split}/")
    for path in (tmp_path / "raw/val").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"validation and given test splits need images.*'bad': 10"):
        prepare(config_of(tmp_path / "raw", "data.on_bad_image=skip").data)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows such names")
def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    write_classes(tmp_path, "a", "b")
    (tmp_path / "a/0.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff.png"))
    with pytest.raises(DataError, match=r"'a/.udcff\.png' in .* is not valid UTF-8\. Rename"):
        read_layout(tmp_path)


def test_a_class_of_broken_files_is_named_when_bad_images_are_skipped(tmp_path: Path) -> None:
    raw = write_classes(tmp_path / "raw", "a", "b")
    broken_class(raw)
    with pytest.raises(DataError, match=r"All training images of 'c' are bad.*c/0\.png: .*not an image"):
        prepare(config_of(raw, "data.on_bad_image=skip").data)
