"""Prepares data: sources → layouts → packing → checks → splits, in one command.

`python -m src.mlops.data.prepare data.raw_dir=FOLDER` or `inv data.prepare --raw-dir FOLDER`.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.mlops.cli import hydra_main
from src.mlops.config import Config, DataConfig
from src.mlops.data import checks
from src.mlops.data.classes import CLASSES_FILE, ClassList
from src.mlops.data.exclude import Exclusion, exclude, read_exclusion, require_known
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.layouts import COLUMNS, RawData, read_layout, warn_about_groups, write_csv
from src.mlops.data.near_duplicates import find_near_duplicates
from src.mlops.data.packing import (
    IMAGES,
    INDEX,
    MANIFEST,
    Pack,
    images_signature,
    open_pack,
    pack_images,
    preprocessing_version,
)
from src.mlops.data.raw_files import list_files
from src.mlops.data.report import build_report, log_report, summarise
from src.mlops.data.sources import locate_raw
from src.mlops.data.splits import REFERENCE, REFERENCE_SHARE, assign_splits, require_splits
from src.mlops.errors import ConfigError, DataError
from src.mlops.io.files import exclusive, same_place, sha256, to_json, write_atomically
from src.mlops.io.storage import open_storage

logger = logging.getLogger(__name__)
REPORT = "report.json"
DRAWN = "drawn"  # subfolder of the processed folder for additional synthetic images
OUTLIERS = "outliers"  # subfolder for images of unknown things
COLLECTED = "collected"  # the same for images that the service collected
_SUBFOLDERS = tuple(f"{name}/" for name in (DRAWN, OUTLIERS, COLLECTED))
SETTINGS = "settings"  # key in the manifest
PUBLISHED = ".published"  # file in the processed folder with the URL of its copy
SPLIT_FILES = {
    "train": "train_split.csv",
    "val": "val_split.csv",
    REFERENCE: "reference_split.csv",
    "test": "test.csv",
}


def prepare(data: DataConfig, base: Pack | None = None, classes: ClassList | None = None) -> Pack:
    """Prepares a data set, or opens it if it is already prepared and nothing has changed.

    Args:
        data: Location of the raw images, settings of the splits, and location of the pack.
        base: The data that the images are added to; None: they are the data. Added images have its classes, which they
            need not show all, and are left out if they show a sign that it has already. Their splits do not change when
            more images are added.
        classes: The class list of added images; None: that of the data.

    Returns:
        The pack in `data.processed_dir`.

    Raises:
        ConfigError: `data.processed_dir` is the folder of the raw images.
        DataError: Raw data is missing or bad, or there is none and the existing pack was prepared with other settings.
            The content of `data.processed_dir` is unchanged.
        StorageError: A bucket cannot be read, or the prepared data cannot be copied to `data.processed_url`.
    """
    pack = _prepare(data, base, classes or (base.classes if base else None))
    if data.processed_url:
        publish(pack, data.processed_url)
    return pack


def _prepare(data: DataConfig, base: Pack | None, classes: ClassList | None) -> Pack:
    raw_dir = locate_raw(data)
    if raw_dir is None:
        pack = open_pack(data.processed_dir)
        _require_same_settings(pack, data)
        return pack
    _require_no_raw_images(data.processed_dir, raw_dir)
    raw = read_layout(raw_dir, data.path_column, data.label_column, skip=data.processed_dir, classes=classes)
    excluded = read_exclusion(data.exclude)
    require_known(excluded, pd.concat([raw.train["path"], raw.val["path"], raw.test["path"]]))
    # Before packing, so that the next run detects changes made during it.
    signatures = _signatures(data, raw_dir, raw, excluded, base)
    reusable = _reuse(data, signatures)  # before locking, which fails in a read-only folder
    if reusable:
        return reusable
    try:
        with exclusive(data.processed_dir):
            return _reuse(data, signatures) or _prepare_from_raw(data, raw_dir, raw, excluded, signatures, base)
    except OSError as error:
        raise DataError(f"Cannot write the prepared data to {data.processed_dir}: {error}.") from error


def _require_no_raw_images(processed_dir: Path, raw_dir: Path) -> None:
    """Raises an error if prepared data would be written next to raw images."""
    below = processed_dir.is_dir() and processed_dir.resolve().is_relative_to(raw_dir.resolve())
    if same_place(processed_dir, raw_dir) or (
        below
        and not (processed_dir / MANIFEST).is_file()
        and any(not path.startswith(_SUBFOLDERS) for path in list_files(processed_dir).images)
    ):
        raise ConfigError(
            f"data.processed_dir={processed_dir} is a folder of raw images, and its files would be mistaken for "
            "theirs. Choose another folder."
        )


def publish(pack: Pack, url: str) -> str:
    """Copies prepared data to a bucket, to a folder named by its fingerprint, unless the copy already exists.

    The manifest is uploaded last, so a copy with a manifest is complete. The manifest contains the hash of each file.

    Returns:
        The URL of the folder.

    Raises:
        StorageError: The bucket cannot be written.
    """
    folder = pack.fingerprint[:16]
    note = pack.directory / PUBLISHED
    copy_url = f"{url}/{folder}"
    if note.is_file() and note.read_text() == copy_url:
        return copy_url
    storage = open_storage(url)
    if f"{folder}/{MANIFEST}" not in storage.names(folder):
        for name in pack.manifest["files"]:
            storage.upload(pack.directory / name, f"{folder}/{name}")
        storage.write(f"{folder}/{MANIFEST}", (pack.directory / MANIFEST).read_bytes())
        logger.info("Copied the prepared data to %s", copy_url)
    write_atomically(note, copy_url.encode())
    return copy_url


def _reuse(data: DataConfig, signatures: dict[str, str]) -> Pack | None:
    """Opens the existing pack if preparing it again would give the same result."""
    with suppress(DataError):
        pack = open_pack(data.processed_dir)
        if signatures.items() <= pack.manifest.items():
            logger.info("Reusing %s, which was prepared from the same images", data.processed_dir)
            return pack
    return None


def _require_same_settings(pack: Pack, data: DataConfig) -> None:
    """Checks that a pack has the configured settings, because models record the configured ones.

    Raises:
        DataError: The pack was prepared with other settings.
    """
    if pack.image_size != data.image_size:
        raise DataError(
            f"{pack.directory} contains images of {pack.image_size} px, but data.image_size is {data.image_size}. Set "
            "data.raw_dir to prepare the images again."
        )
    recorded = pack.manifest.get(SETTINGS)
    excluded = read_exclusion(data.exclude)
    settings = _settings(data, excluded)
    if recorded is None:  # Version 0.1.0 recorded only a hash of the settings and the table.
        table = pd.read_csv(pack.directory / INDEX, dtype={"path": str, "track_id": str})[COLUMNS]
        report = json.loads((pack.directory / REPORT).read_text())
        unlisted = [bad["path"] for bad in report["bad_images"] if bad["problem"] == checks.UNLISTED]
        if pack.manifest.get("settings_signature") != _settings_signature(data, table, unlisted, excluded):
            raise DataError(
                f"{pack.directory} was prepared with other settings than {_listed(settings)}, but an earlier version "
                "did not record which. Set data.raw_dir to prepare the images again."
            )
        return
    recorded = {"data.exclude": "null", **recorded}  # earlier releases could not exclude images
    changed = {key: value for key, value in recorded.items() if value != settings.get(key)}
    if changed:
        raise DataError(
            f"{pack.directory} was prepared with {_listed(changed)}, not with "
            f"{_listed({key: settings.get(key) for key in changed})}. Set data.raw_dir to prepare the images again, or "
            f"use {_listed(changed)}."
        )


def _settings(data: DataConfig, excluded: Exclusion) -> dict[str, Any]:
    """Returns the settings that decide which images are in which split."""
    split = {f"data.split.{key}": value for key, value in data.split.model_dump().items()}
    return split | {"data.on_bad_image": data.on_bad_image, "data.exclude": str(excluded)}


def _listed(settings: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _prepare_from_raw(
    data: DataConfig, raw_dir: Path, raw: RawData, excluded: Exclusion, signatures: dict[str, str], base: Pack | None
) -> Pack:
    for leftover in data.processed_dir.glob(".work-*"):  # from preparations that were killed
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=data.processed_dir, prefix=".work-") as work:
        manifest = _build(Path(work), raw_dir, raw, excluded, data, base) | signatures
        _publish(Path(work), data.processed_dir, manifest)
    return Pack(data.processed_dir, manifest)


def _signatures(
    data: DataConfig, raw_dir: Path, raw: RawData, excluded: Exclusion, base: Pack | None
) -> dict[str, str]:
    table = pd.concat([raw.train, raw.val, raw.test], ignore_index=True)
    given = [raw.classes.to_dicts(), len(raw.train), len(raw.val), len(raw.test), raw.unlabelled, REFERENCE_SHARE]
    given += [base.fingerprint] if base else []
    return {
        "images_signature": images_signature(raw_dir, list(table["path"]), data.image_size),
        "settings_signature": _settings_signature(data, table, raw.unlisted, excluded),
        "given_signature": hashlib.sha256(to_json(given).encode()).hexdigest(),
    }


def _settings_signature(data: DataConfig, table: pd.DataFrame, unlisted: list[str], excluded: Exclusion) -> str:
    settings = {"split": data.split.model_dump(), "on_bad_image": data.on_bad_image, "unlisted": unlisted}
    if excluded.paths:  # packs of earlier releases are reused otherwise
        settings["exclude"] = excluded.paths
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes()
    return hashlib.sha256(to_json(settings).encode() + rows).hexdigest()


def _build(
    work: Path, raw_dir: Path, raw: RawData, excluded: Exclusion, data: DataConfig, base: Pack | None
) -> dict[str, Any]:
    """Packs, checks and splits the images into the folder `work` and returns the manifest of its files."""
    tables = {"train": raw.train, "val": raw.val, "test": raw.test}
    table = pd.concat([part.assign(split=split) for split, part in tables.items()], ignore_index=True)
    warn_about_groups(table, raw_dir)
    facts = pack_images(raw_dir, list(table["path"]), data.image_size, work / IMAGES)
    table = pd.concat([table, facts], axis=1)
    problem = checks.NO_CLASS_FOLDER if raw.layout == "class folders" else checks.UNLISTED
    findings = checks.check(table, raw.classes, raw.unlisted, problem)
    if data.on_bad_image == "stop":
        checks.require_clean(findings, raw_dir)
    if base:
        findings = findings._replace(leaks=pd.concat([findings.leaks, checks.find_copies(table, base.index())]))
    assigned = assign_splits(table, findings, data.split, stable=base is not None)
    assigned = exclude(assigned, table["path"], excluded)
    if base is None:
        checks.require_training_images(table, assigned, raw.classes, findings)
    require_splits(assigned, set(table["split"]), raw_dir, added=base is not None)
    table["split"] = assigned
    near_duplicates = find_near_duplicates(np.load(work / IMAGES, mmap_mode="r"), table)
    report = build_report(raw, table, findings, near_duplicates, added=base is not None)
    log_report(report)

    columns = [*COLUMNS, "content_hash", "split"]
    table[columns].to_csv(work / INDEX, index=False)
    raw.classes.write(work / CLASSES_FILE)
    for split, name in SPLIT_FILES.items():
        write_csv(table[table["split"] == split], work / name)
    (work / REPORT).write_text(to_json(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (work / "report.md").write_text(summarise(report), encoding="utf-8")
    files = {path.name: sha256(path) for path in sorted(work.iterdir())}
    content = f"{data.image_size} {preprocessing_version()} {files[INDEX]} {files[IMAGES]}"
    if raw.classes != SIGNS:  # so that the fingerprints of earlier releases, which had no other classes, stay the same
        content += f" {files[CLASSES_FILE]}"
    return {
        "fingerprint": hashlib.sha256(content.encode()).hexdigest(),
        "image_size": data.image_size,
        SETTINGS: _settings(data, excluded),
        "files": files,
    }


def _publish(work: Path, target: Path, manifest: dict[str, Any]) -> None:
    """Moves finished files into place.

    The manifest is removed first and written last, so a killed process never leaves a manifest with the wrong files.
    """
    target.mkdir(parents=True, exist_ok=True)
    (target / MANIFEST).unlink(missing_ok=True)
    for name in manifest["files"]:
        (work / name).replace(target / name)
    (work / MANIFEST).write_text(to_json(manifest, indent=2) + "\n")
    (work / MANIFEST).replace(target / MANIFEST)


def main(config: Config) -> None:
    """Prepares the data and logs a summary."""
    started = time.perf_counter()
    pack = prepare(config.data)
    report = json.loads((pack.directory / REPORT).read_text())
    logger.info(
        "Data is ready: %s images in %s (%d bad images and %d leaks dropped), fingerprint %s, %.1f s. See %s",
        " + ".join(f"{count:,} {split}" for split, count in report["images"].items()),
        pack.directory,
        len(report["bad_images"]),
        len(report["leaks"]),
        pack.fingerprint[:12],
        time.perf_counter() - started,
        pack.directory / "report.md",
    )


if __name__ == "__main__":
    hydra_main(main)
