"""Batch prediction in separate processes: a killed run, and Ray."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from src.mlops import ROOT
from src.mlops.errors import CheckpointError, DataError, OutOfMemoryError
from src.mlops.inference.batch import predict, predict_to
from src.mlops.inference.classifier import Classifier
from src.mlops.inference.engines import Row
from src.mlops.inference.inputs import Images
from tests.helpers.graphs import with_huge_copy, with_wrong_reshape
from tests.helpers.images import write_signs
from tests.helpers.tables import read_rows

COUNT = 150  # several batches
DIES_AT_THIRD_BATCH = """
import os, signal
from src.mlops.cli import typer_main
from src.mlops.inference.classifier import Classifier
from src.mlops.predict import app

classify = Classifier.classify_arrays
calls = []

def deadly(*arguments):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return classify(*arguments)

Classifier.classify_arrays = deadly
typer_main(app)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_signs(tmp_path_factory.mktemp("signs"), COUNT)


@pytest.fixture
def classifier(exported: Path) -> Classifier:
    return Classifier.load(exported)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_is_resumed(folder: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "src.mlops.predict", str(folder), "--model", str(exported), "--out", str(out)]
    journal = tmp_path / "out.parquet.partial" / "rows.jsonl"
    assert (
        subprocess.run([sys.executable, "-c", DIES_AT_THIRD_BATCH, *command[3:]], cwd=ROOT).returncode
        == -signal.SIGKILL
    )
    written = len(journal.read_text().splitlines())
    assert 0 < written < COUNT
    assert not out.exists()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"{written} of {COUNT + 1} images" in result.stderr
    assert len(read_rows(out)) == COUNT + 1


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the group ray is not installed: uv sync --group ray"
)
@pytest.mark.filterwarnings("ignore")  # warnings inside Ray
def test_ray_gives_the_same_rows(folder: Path, exported: Path, classifier: Classifier) -> None:
    from src.mlops.inference.engines import ray_rows

    assert list(predict([str(folder)], classifier, ray_rows(exported, 2))) == list(predict([str(folder)], classifier))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the group ray is not installed: uv sync --group ray"
)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows names that are not UTF-8")
@pytest.mark.filterwarnings("ignore")  # warnings inside Ray
class TestRay:
    def test_an_interrupted_run_gives_the_same_file(
        self, exported: Path, classifier: Classifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        from src.mlops.inference.engines import ray_rows

        folder = tmp_path / "signs"
        folder.mkdir()
        write_signs(folder, 40)
        (folder / "missing.png").symlink_to(folder / "nowhere.png")
        os.mkfifo(folder / "pipe.png")
        shutil.copy(folder / "deep/000.png", os.fsdecode(os.fsencode(folder) + b"/Stra\xdfe.png"))
        inputs = [f"{folder}/deep/*", str(folder)]
        out, expected, engine = tmp_path / "out.jsonl", tmp_path / "expected.jsonl", ray_rows(exported, 2)

        def interrupted(paths: Iterable[str]) -> Iterator[Row]:
            yield from islice(engine(paths), 35)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            predict_to(out, inputs, classifier, interrupted)
        assert predict_to(out, inputs, classifier, engine) == predict_to(expected, inputs, classifier) == (83, 2)
        assert out.read_bytes() == expected.read_bytes()
        assert caplog.text.count("Ignored 1 named pipe") == 3  # once per run

    def test_a_worker_that_finds_no_images(self, exported: Path, tmp_path: Path) -> None:
        from src.mlops.inference.engines import ray_rows

        with pytest.raises(DataError, match=r"No file or folder matches .*none") as error:
            list(ray_rows(exported, 1)(Images([str(tmp_path / "none")])))
        assert "\n" not in str(error.value)

    def test_an_unexpected_error_in_a_worker(self, exported: Path) -> None:
        from src.mlops.inference.engines import ray_rows

        with pytest.raises(DataError, match=r"^The Ray cluster failed: ValueError: invalid literal .*'x'"):
            list(ray_rows(exported, 1)(map(int, ["x"])))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the group ray is not installed: uv sync --group ray"
)
@pytest.mark.filterwarnings("ignore")  # warnings inside Ray
def test_ray_reports_a_model_that_fails(folder: Path, exported: Path, classifier: Classifier, tmp_path: Path) -> None:
    from src.mlops.inference.engines import ray_rows

    for change, error in ((with_wrong_reshape, CheckpointError), (with_huge_copy, OutOfMemoryError)):
        model = change(exported, tmp_path / "odd.onnx")
        with pytest.raises(error, match=r"odd\.onnx") as caught:
            list(predict([str(folder)], classifier, ray_rows(model, 1)))
        assert "\n" not in str(caught.value)
