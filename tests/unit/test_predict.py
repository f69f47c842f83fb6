"""The command line of batch prediction."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from src.mlops.errors import CheckpointError, DataError
from src.mlops.predict import app
from tests.helpers.graphs import with_wrong_reshape
from tests.helpers.images import write_signs

COUNT = 150  # more than one batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_signs(tmp_path_factory.mktemp("signs"), COUNT)


class TestCommandLine:
    def run(self, *words: str):  # type: ignore[no-untyped-def]
        return CliRunner().invoke(app, list(words), env={"COLUMNS": "120"})

    def test_writes_a_file(self, folder: Path, exported: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.jsonl"
        result = self.run(str(folder), "--out", str(out), "--model", str(exported))
        assert result.exit_code == 0
        assert len([json.loads(line) for line in out.read_text().splitlines()]) == COUNT + 1

    def test_shows_a_table(self, folder: Path, exported: Path) -> None:
        result = self.run(str(folder / "deep" / "000.png"), str(folder / "bad.jpg"), "--model", str(exported))
        assert result.exit_code == 0
        assert "not an image" in " ".join(result.stdout.split())

    def test_unsupported_suffix(self, folder: Path, exported: Path) -> None:
        result = self.run(str(folder), "--out", "x.xlsx", "--model", str(exported))
        assert isinstance(result.exception, DataError)
        assert all(part in str(result.exception) for part in (".parquet, .csv, .jsonl", "x.xlsx"))

    def test_a_model_that_fails(self, folder: Path, exported: Path, tmp_path: Path) -> None:
        model = with_wrong_reshape(exported, tmp_path / "wrong.onnx")
        for out in ([], ["--out", str(tmp_path / "out.csv")]):
            result = self.run(str(folder), "--model", str(model), *out)
            assert isinstance(result.exception, CheckpointError)
            assert "wrong.onnx" in str(result.exception)

    def test_no_usable_image(self, folder: Path, exported: Path) -> None:
        result = self.run(str(folder / "bad.jpg"), "--model", str(exported))
        assert isinstance(result.exception, DataError)
        assert "cannot be used" in str(result.exception)
