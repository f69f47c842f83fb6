"""Starts services in separate processes."""

import sys
from pathlib import Path

from src.mlops.io.service_process import running


def test_braces_in_a_word_of_the_command_have_no_meaning(tmp_path: Path) -> None:
    folder = tmp_path / "{x} {port} {"
    folder.mkdir()
    (folder / "model").write_text("content")
    command = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1", "--directory", str(folder)]
    with running(command, "/") as client:
        assert client.get("/model").text == "content"
