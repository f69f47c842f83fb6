"""The README's own commands, and the tasks that it names."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.mlops import ROOT
from src.mlops.config import load_config
from src.mlops.errors import ServiceError
from src.mlops.quickstart import quickstart
from tests.conftest import tiny_overrides

README = (ROOT / "README.md").read_text()
# A block that is marked `<!-- runnable -->` in the README is run here as it stands.
RUNNABLE = re.findall(r"<!-- runnable -->\n```bash\n(.*?)```", README, flags=re.DOTALL)
DOCS = "\n".join([README, *(path.read_text() for path in (ROOT / "docs").glob("*.md"))])


def run(command: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, shell=True, cwd=folder or ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_there_are_runnable_blocks() -> None:
    assert len(RUNNABLE) >= 2


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files, so that running the README changes nothing here."""
    folder = tmp_path_factory.mktemp("clone")
    listed = run("git ls-files --cached --others --exclude-standard").stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("block", RUNNABLE)
def test_runnable_block(block: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The environment that runs the tests is the one that `uv run` would make.
    monkeypatch.setenv("UV_PROJECT_ENVIRONMENT", sys.prefix)
    monkeypatch.setenv("UV_NO_SYNC", "1")
    result = run(f"set -e\n{block}", clone)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_task_that_the_docs_name_exists() -> None:
    listed = run(f"{shlex.quote(sys.executable)} -m invoke --list").stdout
    for name in set(re.findall(r"\binv ([a-z][a-z0-9-]+)", DOCS)):
        assert re.search(rf"^  {name} ", listed, flags=re.MULTILINE), name


def test_every_task_has_one_line_of_help() -> None:
    listed = run(f"{shlex.quote(sys.executable)} -m invoke --list").stdout
    tasks = [line for line in listed.splitlines() if line.startswith("  ")]
    assert len(tasks) >= 10
    assert all(re.match(r"  \S+(?: \(\S+\))? +\S", line) for line in tasks)


def test_tasks_run_from_any_folder_and_pass_on_failure(tmp_path: Path) -> None:
    inv = f"{shlex.quote(sys.executable)} -m invoke --search-root {shlex.quote(str(ROOT))}"
    result = run(f"{inv} preprocess-data --raw-dir {tmp_path}/none", tmp_path)
    assert result.returncode == 1
    assert "error: expected a folder of images" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize("name", ["archive (1)", "Größe", "a, b=c", "it's"])
def test_folders_may_have_any_name(tmp_path: Path, name: str) -> None:
    inv = f"{shlex.quote(sys.executable)} -m invoke"
    result = run(f"{inv} preprocess-data --raw-dir {shlex.quote(str(tmp_path / name))}")
    assert f"expected a folder of images at data.raw_dir={tmp_path / name}, found none" in result.stdout + result.stderr


def test_tasks_pass_overrides_on(tmp_path: Path, raw_dir: Path) -> None:
    options = " ".join(f"-o {shlex.quote(override)}" for override in tiny_overrides(tmp_path, raw_dir))
    result = run(f"{shlex.quote(sys.executable)} -m invoke visualize {options}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "reports/figures/data_sheet.png").is_file()


def test_quickstart_on_tiny_data(tmp_path: Path, raw_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quickstart(load_config([*tiny_overrides(tmp_path, raw_dir), "training.export=true"]))
    told = capsys.readouterr().out
    assert "The service was asked for" in told
    assert str(tmp_path / "latest/best_model.onnx") in told


def test_quickstart_tells_why_the_service_did_not_start(
    tmp_path: Path, raw_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_MAX_UPLOAD_BYTES", "none")
    with pytest.raises(ServiceError, match=r"it ended with exit code 1(.|\n)*max_upload_bytes"):
        quickstart(load_config(tiny_overrides(tmp_path, raw_dir)))
