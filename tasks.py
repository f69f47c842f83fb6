"""The front door: `inv --list` shows every command, `inv --help COMMAND` its options."""

import shlex
import sys
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

ROOT = Path(__file__).parent
OVERRIDE = {"override": "a Hydra override such as training.epochs=3; may be given several times"}


def _run(c: Context, *command: str) -> None:
    """Runs a command at the repository root; one that fails ends the task with its exit code and its own message."""
    with c.cd(str(ROOT)):
        result = c.run(shlex.join(command), pty=sys.stdout.isatty() and sys.platform != "win32", warn=True)
    if result is None or result.failed:
        raise Exit(code=result.exited if result else 1)


def _module(c: Context, name: str, *arguments: str) -> None:
    _run(c, sys.executable, "-m", f"src.mlops.{name}", *arguments)


def _option(key: str, value: str) -> str:
    """Writes an override whose value may hold anything, such as a folder with spaces or umlauts."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


@task(iterable=["override"], help=OVERRIDE | {"raw_dir": "folder of the raw images, relative to the repository"})
def preprocess_data(c: Context, override: list[str], raw_dir: str = "") -> None:
    """Check, split and pack the raw images into data/processed."""
    _module(c, "data.prepare", *([_option("data.raw_dir", raw_dir)] if raw_dir else []), *override)


@task(iterable=["override"], help=OVERRIDE)
def train(c: Context, override: list[str]) -> None:
    """Train a model and put the best one into models/latest."""
    _module(c, "train", *override)


@task(iterable=["override"], help=OVERRIDE | {"split": "train, val or test"})
def evaluate(c: Context, override: list[str], split: str = "test") -> None:
    """Measure the model; metrics and figures go to reports/."""
    _module(c, "evaluate", f"evaluation.split={split}", *override)


@task(iterable=["override"], help=OVERRIDE | {"workers": "trials at the same time"})
def sweep(c: Context, override: list[str], workers: int = 1) -> None:
    """Search hyper-parameters; the result goes to reports/sweep."""
    _module(c, "sweep", f"hparams_search.workers={workers}", *override)


@task(iterable=["override"], help=OVERRIDE)
def visualize(c: Context, override: list[str]) -> None:
    """Draw a sheet of the prepared data into reports/figures."""
    _module(c, "visualize", *override)


@task(help={"image": "an image, or a folder of images", "out": "CSV file to write"})
def predict(c: Context, image: str, out: str = "") -> None:
    """Classify an image, or all images of a folder."""
    # The command runs at the root, but paths are meant from where it was typed.
    _module(c, "predict", str(Path(image).absolute()), *(["--out", str(Path(out).absolute())] if out else []))


@task(help={"model": "checkpoint to serve", "port": "port to listen on", "host": "address to listen on"})
def api(c: Context, model: str = "", port: str = "", host: str = "") -> None:
    """Start the service; try it at http://localhost:8000/docs."""
    options = {"--model": model, "--port": port, "--host": host}
    _module(c, "api", *(word for option, value in options.items() if value for word in (option, value)))


@task
def quickstart(c: Context) -> None:
    """Draw signs, train, evaluate, serve and ask, in minutes."""
    _module(c, "quickstart", "experiment=quickstart")


@task(help={"all_": "also the tests marked slow or gtsrb"})
def test(c: Context, all_: bool = False) -> None:
    """Run the tests on all cores, with branch coverage."""
    _run(c, sys.executable, "-m", "pytest", "-n", "auto", *([] if all_ else ["-m", "not slow and not gtsrb"]))


@task
def check(c: Context) -> None:
    """Run every static check: lint, format, types, spelling."""
    _run(c, "ruff", "check", ".")
    _run(c, "ruff", "format", "--check", ".")
    _run(c, "mypy")
    _run(c, "codespell")


@task(name="format")
def format_(c: Context) -> None:
    """Mend format and lint where a tool can."""
    _run(c, "ruff", "check", "--fix", ".")
    _run(c, "ruff", "format", ".")


@task(help={"serve": "serve it at http://localhost:8001 and rebuild on change"})
def docs(c: Context, serve: bool = False) -> None:
    """Build the documentation into site/."""
    command = ["serve", "--dev-addr", "localhost:8001"] if serve else ["build", "--strict"]
    # MkDocs 1 does all that is needed here; its theme prints a page about MkDocs 2 at each build otherwise.
    c.config.run.env = {"NO_MKDOCS_2_WARNING": "1"}
    _run(c, "uv", "run", "--group", "docs", "mkdocs", *command)
