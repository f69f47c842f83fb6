"""Runs the commands of the documentation, and checks the tasks that it mentions."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from src.mlops import ROOT
from src.mlops.config import load_config
from src.mlops.errors import ServiceError
from src.mlops.quickstart import quickstart
from tests.helpers.tiny import tiny_overrides

PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
DOCS = "\n".join(PAGES.values())
# Code blocks after `<!-- runnable -->` are run without changes, those of one page together.
RUNNABLE = {
    name: "".join(blocks)
    for name, text in PAGES.items()
    if (blocks := re.findall(r"<!-- runnable -->\n```bash\n(.*?)```", text, flags=re.DOTALL))
}


def run(command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, shell=True, cwd=folder or ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_there_are_runnable_blocks() -> None:
    assert {"README.md", "docs/how-to/own-data.md"} <= RUNNABLE.keys()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Returns a copy of the repository, so the commands do not change the working copy."""
    folder = tmp_path / "clone"
    listed = run("git ls-files --cached --others --exclude-standard").stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE)
def test_runnable_blocks(page: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `uv run` uses the environment of the tests.
    monkeypatch.setenv("UV_PROJECT_ENVIRONMENT", sys.prefix)
    monkeypatch.setenv("UV_NO_SYNC", "1")
    result = run(f"set -e\n{RUNNABLE[page]}", clone)
    assert result.returncode == 0, result.stdout + result.stderr


def tasks() -> dict[str, str]:
    """Returns the help text of each task by name."""
    root = json.loads(run(f"{shlex.quote(sys.executable)} -m invoke --list --list-format json").stdout)
    grouped = {
        f"{group['name']}.{task['name']}": task["help"] for group in root["collections"] for task in group["tasks"]
    }
    return {task["name"]: task["help"] for task in root["tasks"]} | grouped


def test_every_task_in_the_docs_exists() -> None:
    named = set(re.findall(r"\binv ([a-z][a-z0-9-]+(?:\.[a-z][a-z-]+)?)", DOCS))
    assert len(named) > 20
    assert named <= tasks().keys()


def documented_overrides() -> list[tuple[str, ...]]:
    """Returns the Hydra overrides of each `inv` command in the documentation."""
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", DOCS, flags=re.DOTALL)).replace("\\\n", " ").splitlines()
    commands = [part for line in lines if " inv " in line for part in line.split("&&")]
    words = [shlex.split(command, comments=True) for command in commands]
    found = [tuple(after for word, after in pairwise(each) if word == "-o") for each in words]
    return sorted({overrides for overrides in found if overrides and "…" not in str(overrides)})


@pytest.mark.parametrize("overrides", documented_overrides(), ids=" ".join)
def test_every_override_in_the_docs_is_valid(overrides: tuple[str, ...]) -> None:
    load_config(overrides)


def test_every_task_has_one_line_of_help() -> None:
    for name, text in tasks().items():
        assert text.endswith("."), name
        assert len(text) <= 70, name


def test_tasks_run_from_any_folder_and_return_the_exit_code(tmp_path: Path) -> None:
    inv = f"{shlex.quote(sys.executable)} -m invoke --search-root {shlex.quote(str(ROOT))}"
    result = run(f"{inv} data.prepare --raw-dir {tmp_path}/none", tmp_path)
    assert result.returncode == 1
    assert f"error: data.raw_dir={tmp_path}/none " in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize("name", ["archive (1)", "Größe", "a, b=c", "it's"])
def test_folder_names_may_have_special_characters(tmp_path: Path, name: str) -> None:
    inv = f"{shlex.quote(sys.executable)} -m invoke"
    result = run(f"{inv} data.prepare --raw-dir {shlex.quote(str(tmp_path / name))}")
    assert f"error: data.raw_dir={tmp_path / name} " in result.stdout + result.stderr


@pytest.mark.slow
def test_tasks_pass_overrides_to_the_command(tmp_path: Path, raw_dir: Path) -> None:
    options = " ".join(f"-o {shlex.quote(override)}" for override in tiny_overrides(tmp_path, raw_dir))
    result = run(f"{shlex.quote(sys.executable)} -m invoke data.sheet {options}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "reports/figures/data_sheet.png").is_file()


@pytest.mark.slow
def test_quickstart_on_tiny_data(tmp_path: Path, raw_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quickstart(load_config([*tiny_overrides(tmp_path, raw_dir), "training.export=true"]))
    printed = capsys.readouterr().out
    assert "The service classified" in printed
    assert str(tmp_path / "latest/best_model.onnx") in printed


def test_quickstart_shows_the_log_of_a_failed_service(
    tmp_path: Path, raw_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_MAX_UPLOAD_BYTES", "none")
    with pytest.raises(ServiceError, match=r"code 1(.|\n)*max_upload_bytes"):
        quickstart(load_config(tiny_overrides(tmp_path, raw_dir)))
