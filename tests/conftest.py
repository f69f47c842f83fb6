"""Shared fixtures: tiny data and tiny models, which need no network and no real images."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several threads slow down tiny networks

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("tests.helpers")  # failing assertions in the helpers show their values

# Fixtures import modules locally, because the main process of xdist loads this file but runs no test.
if TYPE_CHECKING:
    from src.mlops.config import Config
    from tests.helpers.storage_emulator import Cloud


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gtsrb") and not (Path(__file__).parents[2] / "shared" / "gtsrb").is_dir():
        pytest.skip("the real images are not at ../shared/gtsrb")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch finds no GPU with CUDA")


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes settings of the developer's shell from the environment."""
    for name in os.environ:
        if name.startswith(("MLOPS_", "WANDB_", "HYDRA_", "DVC_", "STORAGE_EMULATOR_", "GCSFS_", "GOOGLE_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _no_garbage_collection() -> Iterator[None]:
    """Saves each start of a service in this process a garbage collection: 0.3 s with the objects of all tests."""
    with pytest.MonkeyPatch.context() as patch:
        if module := sys.modules.get("src.mlops.serving.model_holder"):
            nothing = dict.fromkeys(("collect", "freeze", "unfreeze"), lambda: None)
            patch.setattr(module, "gc", SimpleNamespace(**nothing))
        yield


@pytest.fixture
def raw_dir(tmp_path: Path) -> Path:
    from tests.helpers.tiny import write_kaggle

    return write_kaggle(tmp_path / "raw")


@pytest.fixture
def make_config(tmp_path: Path, raw_dir: Path) -> "Callable[..., Config]":
    """Returns a function that composes a config for tiny runs in the folder of the test."""

    from tests.helpers.tiny import quick_config, tiny_overrides

    def make(*overrides: str) -> "Config":
        return quick_config([*tiny_overrides(tmp_path, raw_dir), *overrides])

    return make


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder to which benchmarks write their results in this test."""
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr("benchmarks.environment.RESULTS", folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with tiny data and a trained model: raw/, processed/, run/, latest/best_model.pth."""

    from src.mlops.training.train import train
    from tests.helpers.once import made_once
    from tests.helpers.tiny import quick_config, tiny_overrides, write_kaggle

    def make(folder: Path) -> None:
        train(quick_config(tiny_overrides(folder, write_kaggle(folder / "raw"))))

    return made_once(tmp_path_factory, "trained", make)


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the tiny model as ONNX: latest/best_model.onnx next to its checkpoint."""

    from src.mlops.modelfile.onnx_export import export
    from tests.helpers.once import made_once

    def make(folder: Path) -> None:
        folder.mkdir()
        export(trained / "latest" / "best_model.pth")

    made_once(tmp_path_factory, "exported", make)
    return trained / "latest" / "best_model.onnx"


@pytest.fixture
def checkpoint(trained: Path) -> Path:
    return trained / "latest" / "best_model.pth"


@pytest.fixture
def swappable(exported: Path, tmp_path: Path) -> Path:
    """Returns a copy of the model that a test can replace while it is served."""
    return Path(shutil.copy(exported, tmp_path / "model.onnx"))


@pytest.fixture(scope="session")
def _running_cloud() -> "Iterator[Cloud]":
    from tests.helpers.storage_emulator import running_cloud

    with running_cloud() as cloud:
        yield cloud


@pytest.fixture
def cloud(_running_cloud: "Cloud", monkeypatch: pytest.MonkeyPatch) -> "Iterator[Cloud]":
    """Yields an empty bucket on this machine that fails on demand. Retries do not wait."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", _running_cloud.url)
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # for DVC: the emulator does not support this API
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))
    _running_cloud.empty()
    yield _running_cloud
    _running_cloud.heal()
