"""Prepares data: sources → layouts → packing → checks → splits, in one command.

`python -m src.mlops.data.prepare data.raw_dir=FOLDER` or `inv preprocess-data --raw-dir FOLDER`.
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

import pandas as pd

from src.mlops.config import Config, DataConfig, SyntheticConfig, hydra_main
from src.mlops.data import checks, splits
from src.mlops.data.layouts import RawData, read_layout, write_csv
from src.mlops.data.packing import (
    IMAGES,
    INDEX,
    MANIFEST,
    Pack,
    file_hash,
    images_signature,
    open_pack,
    pack_images,
    preprocessing_version,
)
from src.mlops.data.sources import locate_raw
from src.mlops.errors import DataError
from src.mlops.files import exclusive, write_atomically
from src.mlops.storage import open_storage

logger = logging.getLogger(__name__)
REPORT = "report.json"
PUBLISHED = ".published"  # in the processed folder: where it was copied to
SPLIT_FILES = {"train": "train_split.csv", "val": "val_split.csv", "test": "test.csv"}


def prepare(data: DataConfig) -> Pack:
    """Prepares a data set, or opens it when it is prepared already and nothing changed.

    Args:
        data: Where the raw images are, how they are split, where the pack goes.

    Returns:
        The pack in `data.processed_dir`.

    Raises:
        DataError: Raw data is absent or bad. What was in `data.processed_dir` stays as it was.
        StorageError: A bucket cannot be read, or what was prepared not be copied to `data.processed_url`.
    """
    pack = _prepare(data)
    if data.processed_url:
        publish(pack, data.processed_url)
    return pack


def _prepare(data: DataConfig) -> Pack:
    raw_dir = locate_raw(data)
    if raw_dir is None:
        pack = open_pack(data.processed_dir)
        if pack.image_size != data.image_size:
            raise DataError(
                f"expected images of {data.image_size} px in {data.processed_dir}, found {pack.image_size} px. "
                "Give data.raw_dir to prepare them anew."
            )
        return pack
    raw = read_layout(raw_dir)
    signatures = _signatures(data, raw_dir, raw)  # before packing: what changes meanwhile is seen next time
    reusable = _reuse(data, signatures)  # before the lock, which a read-only folder could not hold
    if reusable:
        return reusable
    try:
        with exclusive(data.processed_dir):
            return _reuse(data, signatures) or _prepare_anew(data, raw_dir, raw, signatures)
    except OSError as error:
        raise DataError(f"expected to write the prepared data to {data.processed_dir}, found: {error}.") from error


def publish(pack: Pack, url: str) -> str:
    """Copies prepared data to a bucket, below its fingerprint, unless it is there already.

    The manifest goes last: with it, all is there, and its hashes say what each file must be.

    Returns:
        The folder's URL.

    Raises:
        StorageError: The bucket cannot be written.
    """
    folder = pack.fingerprint[:16]
    note = pack.directory / PUBLISHED
    told = f"{url}/{folder}"
    if note.is_file() and note.read_text() == told:
        return told
    storage = open_storage(url)
    if f"{folder}/{MANIFEST}" not in storage.names(folder):
        for name in pack.manifest["files"]:
            storage.upload(pack.directory / name, f"{folder}/{name}")
        storage.write(f"{folder}/{MANIFEST}", (pack.directory / MANIFEST).read_bytes())
        logger.info("copied the prepared data to %s", told)
    write_atomically(note, told.encode())
    return told


def prepare_drawn(data: DataConfig, settings: SyntheticConfig) -> Pack:
    """Draws signs to train on beside those of a data set; they lie in its processed folder, under `drawn`."""
    folder = data.processed_dir / "drawn"
    own = {
        "source": "synthetic",
        "raw_dir": folder / "raw",
        "processed_dir": folder,
        "synthetic": settings,
        "processed_url": None,
    }
    return prepare(data.model_copy(update=own))


def _reuse(data: DataConfig, signatures: dict[str, str]) -> Pack | None:
    """Opens what was prepared before, if it would come out the same again."""
    with suppress(DataError):
        pack = open_pack(data.processed_dir)
        if signatures.items() <= pack.manifest.items():
            logger.info("reusing %s, prepared before from the same images", data.processed_dir)
            return pack
    return None


def _prepare_anew(data: DataConfig, raw_dir: Path, raw: RawData, signatures: dict[str, str]) -> Pack:
    for leftover in data.processed_dir.glob(".work-*"):  # of a preparation that was killed
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=data.processed_dir, prefix=".work-") as work:
        manifest = _build(Path(work), raw_dir, raw, data) | signatures
        _publish(Path(work), data.processed_dir, manifest)
    return Pack(data.processed_dir, manifest)


def _signatures(data: DataConfig, raw_dir: Path, raw: RawData) -> dict[str, str]:
    table = pd.concat([raw.train, raw.test], ignore_index=True)
    settings = {"split": data.split.model_dump(), "on_bad_image": data.on_bad_image, "unlisted": raw.unlisted}
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes()
    return {
        "images_signature": images_signature(raw_dir, list(table["path"]), data.image_size),
        "settings_signature": hashlib.sha256(json.dumps(settings).encode() + rows).hexdigest(),
    }


def _build(work: Path, raw_dir: Path, raw: RawData, data: DataConfig) -> dict[str, Any]:
    """Packs, checks and splits into the folder `work`; returns the manifest of what is there then."""
    table = pd.concat([raw.train, raw.test], ignore_index=True)
    facts = pack_images(raw_dir, list(table["path"]), data.image_size, work / IMAGES)
    table = pd.concat([table, facts], axis=1)
    findings = checks.check(table[: len(raw.train)], table[len(raw.train) :], raw.unlisted)
    if data.on_bad_image == "stop":
        checks.require_clean(findings)
    table["split"] = assign_splits(table, len(raw.train), findings, data)
    counts = table["split"].value_counts()
    if not (counts.get("train") and counts.get("val")):
        raise DataError(
            f"expected images to train on and tracks to validate on, found {counts.to_dict()} in {raw_dir}. Nothing "
            "was written. Each class needs two tracks, that is two physical signs, to be validated."
        )
    report = checks.build_report(raw.layout, table, findings)

    table.drop(columns=["problem", "found_width", "found_height"]).to_csv(work / INDEX, index=False)
    for split, name in SPLIT_FILES.items():
        write_csv(table[table["split"] == split], work / name)
    (work / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    (work / "report.md").write_text(checks.summarise(report))
    files = {path.name: file_hash(path) for path in sorted(work.iterdir())}
    content = f"{data.image_size} {preprocessing_version()} {files[INDEX]} {files[IMAGES]}"
    return {
        "fingerprint": hashlib.sha256(content.encode()).hexdigest(),
        "image_size": data.image_size,
        "files": files,
    }


def assign_splits(table: pd.DataFrame, train_rows: int, findings: checks.Findings, data: DataConfig) -> pd.Series:
    """Names the split of each image: train, val, test, or `bad` and `leak` for what is dropped.

    Where the raw data has no test images, whole tracks are held out for a test set first, then for validation.
    """
    split = pd.Series("train", index=table.index)
    split[train_rows:] = "test"
    split[:train_rows] = split[:train_rows].mask(table["track_id"].isin(findings.leaked_tracks), "leak")
    split = split.mask(table["path"].isin(findings.bad["path"]), "bad")
    held_out = ["val"] if (split == "test").any() else ["test", "val"]
    for name in held_out:
        candidates = table[split == "train"]
        candidates = candidates.assign(group=checks.merge_tracks(candidates))
        chosen = splits.hold_out(candidates, test_size=data.split.test_size, seed=data.split.seed)
        split[chosen.index[chosen]] = name
    return split


def _publish(work: Path, target: Path, manifest: dict[str, Any]) -> None:
    """Moves finished files into place; the manifest goes first and comes back last, so that a kill leaves no lie."""
    target.mkdir(parents=True, exist_ok=True)
    (target / MANIFEST).unlink(missing_ok=True)
    for name in manifest["files"]:
        (work / name).replace(target / name)
    (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    (work / MANIFEST).replace(target / MANIFEST)


def main(config: Config) -> None:
    """Prepares data and tells what was found."""
    started = time.perf_counter()
    pack = prepare(config.data)
    report = json.loads((pack.directory / REPORT).read_text())
    logger.info(
        "%s images in %s (%d bad, %d leaks dropped), fingerprint %s, %.1f s. Read %s",
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
