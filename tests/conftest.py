"""Tiny data and tiny models that the tests share; nothing here needs a network or the real images."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks: threads would only wait for each other

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.mlops.config import Config, load_config
from src.mlops.export import export
from src.mlops.train import train
from tests.emulator import Cloud, running_cloud

GTSRB = Path(__file__).resolve().parents[2] / "shared" / "gtsrb"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gtsrb") and not GTSRB.is_dir():
        pytest.skip("the real images are not at ../shared/gtsrb")


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps settings of the developer's own shell out of the tests."""
    for name in os.environ:
        if name.startswith(("MLOPS_", "WANDB_", "HYDRA_", "DVC_", "STORAGE_EMULATOR_", "GCSFS_", "GOOGLE_")):
            monkeypatch.delenv(name)


def picture(class_id: int, seed: int = 0, side: int = 30) -> Image.Image:
    """Makes a noisy picture whose colour tells its class."""
    rng = np.random.default_rng([class_id, seed])
    colour = np.array([40 + 200 * (class_id % 2), 40 + 100 * (class_id // 2 % 3), 200 - 20 * (class_id % 9)])
    noise = rng.normal(0, 12, (side, side, 3))
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))


def write_kaggle(root: Path, classes: int = 4, tracks: int = 5, frames: int = 4, test_images: int = 3) -> Path:
    """Writes a tiny folder in the Kaggle layout."""
    rows: dict[str, list[dict[str, object]]] = {"Train": [], "Test": []}

    def add(split: str, path: str, class_id: int, seed: int) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        picture(class_id, seed).save(root / path)
        roi = {"Roi.X1": 3, "Roi.Y1": 3, "Roi.X2": 27, "Roi.Y2": 27}
        rows[split].append({"Width": 30, "Height": 30, **roi, "ClassId": class_id, "Path": path})

    for class_id in range(classes):
        for track in range(tracks):
            for frame in range(frames):
                name = f"Train/{class_id}/{class_id:05d}_{track:05d}_{frame:05d}.png"
                add("Train", name, class_id, 100 * track + frame)
        for number in range(test_images):
            add("Test", f"Test/{class_id * test_images + number:05d}.png", class_id, 10_000 + number)
    for split, entries in rows.items():
        pd.DataFrame(entries).to_csv(root / f"{split}.csv", index=False)
    return root


@pytest.fixture
def raw_dir(tmp_path: Path) -> Path:
    return write_kaggle(tmp_path / "raw")


@pytest.fixture
def make_config(tmp_path: Path, raw_dir: Path) -> Callable[..., Config]:
    """Returns a function that composes a config for tiny runs below the test's own folder."""

    def make(*overrides: str) -> Config:
        return load_config(tiny_overrides(tmp_path, raw_dir) + list(overrides))

    return make


def tiny_overrides(folder: Path, raw_dir: Path) -> list[str]:
    return [
        f"data.raw_dir={raw_dir}",
        f"data.processed_dir={folder / 'processed'}",
        "data.image_size=24",
        "model.width=4",
        "device=cpu",
        "training.epochs=2",
        "training.batch_size=16",
        "training.size_schedule=[]",
        "training.export=false",
        f"run_dir={folder / 'run'}",
        f"ckpt_path={folder / 'latest' / 'best_model.pth'}",
        f"evaluation.reports_dir={folder / 'reports'}",
    ]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny data and a model trained on it: raw/, processed/, run/, latest/best_model.pth."""
    folder = tmp_path_factory.mktemp("trained")
    train(load_config(tiny_overrides(folder, write_kaggle(folder / "raw"))))
    return folder


@pytest.fixture(scope="session")
def exported(trained: Path) -> Path:
    """The tiny model as ONNX: latest/best_model.onnx beside its checkpoint."""
    return export(trained / "latest" / "best_model.pth")


@pytest.fixture
def checkpoint(trained: Path) -> Path:
    return trained / "latest" / "best_model.pth"


@pytest.fixture(scope="session")
def _running_cloud() -> Iterator[Cloud]:
    with running_cloud() as cloud:
        yield cloud


@pytest.fixture
def cloud(_running_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """An empty bucket on this machine that fails on demand; nothing waits between attempts."""

    async def no_wait(_: float) -> None:
        return None

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", _running_cloud.url)
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # the emulator lacks what it would ask for
    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=no_wait))
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))
    _running_cloud.empty()
    yield _running_cloud
    _running_cloud.heal()
