"""The command `explain`."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from src.mlops import ROOT
from src.mlops.errors import UnsupportedImageError
from src.mlops.preprocessing import open_image
from tests.helpers.images import make_image


def test_command_line(exported: Path, tmp_path: Path) -> None:
    def run(name: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "src.mlops",
            "explain",
            str(tmp_path / name),
            "--model",
            str(exported),
        ]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    make_image(2).save(tmp_path / "sign.png")
    assert run("sign.png").returncode == 0
    with Image.open(tmp_path / "sign_explained.png") as overlay:
        assert overlay.width == 240
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(UnsupportedImageError) as error:
        open_image(tmp_path / "bad.png")
    failed = run("bad.png")
    assert failed.returncode == 1
    assert f"{tmp_path / 'bad.png'} cannot be used: {error.value}." in failed.stderr
