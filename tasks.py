"""The front door: `inv --list` shows every command, `inv --help COMMAND` its options."""

import shlex
import sys
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

ROOT = Path(__file__).parent
OVERRIDE = {"override": "a Hydra override such as training.epochs=3; may be given several times"}

AUDITED = "requirements.txt"  # what `inv audit` looks up
RELEASE = "ckpt_path=models/release/best_model.pth"  # where a version goes that is looked at, never over your own
IMAGES = ("api", "train")
MODEL = "model file, or latest: what training made last"


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


def _options(options: dict[str, str]) -> list[str]:
    """Writes the options that were given a value."""
    return [word for option, value in options.items() if value for word in (option, value)]


def _data_remote(c: Context, action: str, options: list[str], override: list[str]) -> None:
    _module(c, "data.remote", f"data_remote.action={action}", *options, *override)


def _registry(c: Context, action: str, settings: dict[str, str | bool], override: list[str]) -> None:
    given = [f"registry.{key}={str(value).lower()}" for key, value in settings.items() if value]
    _module(c, "registry", f"registry.action={action}", *given, *override)


@task(iterable=["override"], help=OVERRIDE | {"raw_dir": "folder of the raw images, relative to the repository"})
def preprocess_data(c: Context, override: list[str], raw_dir: str = "") -> None:
    """Check, split and pack the raw images into data/processed."""
    _module(c, "data.prepare", *([_option("data.raw_dir", raw_dir)] if raw_dir else []), *override)


@task(iterable=["override"], help=OVERRIDE | {"raw_dir": "folder of the raw images"})
def data_pack(c: Context, override: list[str], raw_dir: str = "") -> None:
    """Pack raw images into archives and put them under DVC."""
    _data_remote(c, "pack", [_option("data.raw_dir", raw_dir)] if raw_dir else [], override)


@task(iterable=["override"], help=OVERRIDE | {"remote": "local, a folder; storage, the bucket"})
def data_push(c: Context, override: list[str], remote: str = "") -> None:
    """Send the archives to a folder or to the bucket."""
    _data_remote(c, "push", [f"data_remote.name={remote}"] if remote else [], override)


@task(iterable=["override"], help=OVERRIDE | {"remote": "local, a folder; storage, the bucket"})
def data_pull(c: Context, override: list[str], remote: str = "") -> None:
    """Fetch the archives from there, and check them."""
    _data_remote(c, "pull", [f"data_remote.name={remote}"] if remote else [], override)


@task(iterable=["override"], help=OVERRIDE)
def data_report(c: Context, override: list[str]) -> None:
    """Check the data; report and pictures go to data/report."""
    folder = ["data.processed_dir=data/report", "evaluation.reports_dir=data/report"]
    for module in ("data.prepare", "visualize"):
        _module(c, module, *folder, *override)


@task
def repro(c: Context) -> None:
    """Run the stages of dvc.yaml whose inputs changed."""
    _module(c, "pipeline", "repro")


@task(iterable=["override"], help=OVERRIDE)
def train(c: Context, override: list[str]) -> None:
    """Train a model and put the best one into models/latest."""
    _module(c, "train", *override)


@task(iterable=["override"], help=OVERRIDE | {"split": "train, val or test"})
def evaluate(c: Context, override: list[str], split: str = "test") -> None:
    """Measure the model; metrics and figures go to reports/."""
    _module(c, "evaluate", f"evaluation.split={split}", *override)


@task(iterable=["override"], help=OVERRIDE | {"workers": "trials at the same time"})
def sweep(c: Context, override: list[str], workers: str = "") -> None:
    """Search hyper-parameters; the result goes to reports/sweep."""
    _module(c, "sweep", *([f"hparams_search.workers={workers}"] if workers else []), *override)


@task(iterable=["override"], help=OVERRIDE)
def visualize(c: Context, override: list[str]) -> None:
    """Draw a sheet of the prepared data into reports/figures."""
    _module(c, "visualize", *override)


@task(iterable=["override"], help=OVERRIDE | {"variant": "fp32, int8 (quantised) or pruned (trained)"})
def export(c: Context, override: list[str], variant: str = "fp32") -> None:
    """Write the model as ONNX, or a smaller variant of it."""
    if variant == "pruned":
        _module(c, "train", "experiment=pruned", *override)
    else:
        _module(c, "export", f"export.variant={variant}", *override)


@task(iterable=["override"], help=OVERRIDE)
def calibrate(c: Context, override: list[str]) -> None:
    """Fit temperature and thresholds of the model anew."""
    _module(c, "calibrate", *override)


@task(iterable=["override"], help=OVERRIDE)
def parity(c: Context, override: list[str]) -> None:
    """Check that torch, ONNX, HTTP and BentoML answer the same."""
    _module(c, "parity", *override)


@task(iterable=["override"], help=OVERRIDE)
def benchmark(c: Context, override: list[str]) -> None:
    """Measure accuracy, size and speed of every model form."""
    _run(c, sys.executable, "-m", "benchmarks.variants", *override)


@task(iterable=["override"], help=OVERRIDE)
def robustness(c: Context, override: list[str]) -> None:
    """Measure the model under rain, blur, noise and more."""
    _module(c, "robustness", *override)


@task(iterable=["override"], help=OVERRIDE)
def card(c: Context, override: list[str]) -> None:
    """Write model card and data card from measured results."""
    _module(c, "card", *override)


@task(iterable=["override"], help=OVERRIDE | {"push": "send the tag to Git's remote origin"})
def register(c: Context, override: list[str], push: bool = False) -> None:
    """Make the current model the next version."""
    _registry(c, "register", {"push": push}, override)


@task(
    iterable=["override"],
    help=OVERRIDE
    | {
        "version": "such as v3; the newest without it",
        "stage": "staging or production",
        "force": "even if the gate refuses; it is recorded",
        "push": "send the tag to Git's remote origin",
    },
)
def promote(
    c: Context, override: list[str], version: str = "", stage: str = "", force: bool = False, push: bool = False
) -> None:
    """Put a version into a stage, if it passes the gate."""
    _registry(c, "promote", {"version": version, "stage": stage, "force": force, "push": push}, override)


@task(
    iterable=["override"],
    help=OVERRIDE | {"stage": "staging or production", "push": "send the tag to Git's remote origin"},
)
def rollback(c: Context, override: list[str], stage: str = "production", push: bool = False) -> None:
    """Put the version before the current one back."""
    _registry(c, "rollback", {"stage": stage, "push": push}, override)


@task(
    iterable=["override"],
    help=OVERRIDE | {"version": "such as v3, or a tag of the registry; the newest without it"},
)
def pull_model(c: Context, override: list[str], version: str = "") -> None:
    """Fetch a version, checked, into models/release."""
    _registry(c, "pull", {}, [*([_option("registry.version", version)] if version else []), RELEASE, *override])


@task(iterable=["override"], help=OVERRIDE)
def registry(c: Context, override: list[str]) -> None:
    """Show all versions, their stages and their state."""
    _registry(c, "show", {}, override)


@task(
    help={
        "image": "a picture, folder, glob or URL",
        "out": "parquet, csv or jsonl to write",
        "model": MODEL,
        "engine": "local or ray",
    }
)
def predict(c: Context, image: str, out: str = "", model: str = "", engine: str = "") -> None:
    """Classify a picture, or all below a folder or URL."""
    # The command runs at the root, but paths are meant from where it was typed.
    source = image if "://" in image else str(Path(image).absolute())
    target = str(Path(out).absolute()) if out else ""
    _module(c, "predict", source, *_options({"--out": target, "--model": model, "--engine": engine}))


@task(help={"image": "the picture", "out": "PNG to write", "model": MODEL})
def explain(c: Context, image: str, out: str = "", model: str = "") -> None:
    """Show which parts of a picture decided, as a PNG."""
    target = str(Path(out).absolute()) if out else ""
    _module(c, "explain", str(Path(image).absolute()), *_options({"--out": target, "--model": model}))


@task(
    help={
        "model": MODEL,
        "port": "port to listen on",
        "host": "address to listen on",
        "workers": "processes; as many as cores is fastest",
    }
)
def api(c: Context, model: str = "", port: str = "", host: str = "", workers: str = "") -> None:
    """Start the service; try it at http://localhost:8000."""
    _module(c, "api", *_options({"--model": model, "--port": port, "--host": host, "--workers": workers}))


@task(
    help={
        "host": "a service that runs already; none starts one",
        "users": "users at the same time",
        "seconds": "how long",
        "pictures": "folder of pictures to send; none draws signs",
        "model": MODEL,
        "workers": "processes of the service that is started",
    }
)
def loadtest(
    c: Context,
    host: str = "",
    users: str = "",
    seconds: str = "",
    pictures: str = "",
    model: str = "",
    workers: str = "",
) -> None:
    """Let ten users ask the service for a minute."""
    folder = str(Path(pictures).absolute()) if pictures else ""
    size = {"--users": users, "--seconds": seconds, "--workers": workers}
    _module(c, "loadtest", *_options({"--host": host, "--pictures": folder, "--model": model, **size}))


@task(help={"port": "port to listen on"})
def serve_bento(c: Context, port: str = "3000") -> None:
    """Start the same classifier behind BentoML."""
    _run(c, "uv", "run", "--group", "bento", "bentoml", "serve", "src.mlops.bentoml_service:SignClassifier", "-p", port)


@task(help={"engine": "docker, podman or any command that takes the same options"})
def docker_build(c: Context, engine: str = "docker") -> None:
    """Build the images of the service and of the training."""
    for kind in IMAGES:
        _run(c, engine, "build", "-f", f"dockerfiles/Dockerfile.{kind}", "-t", f"{kind}:latest", ".")


@task(help={"engine": "docker or podman", "port": "port of this machine", "model": "a model file below models/latest"})
def docker_run(c: Context, engine: str = "docker", port: str = "8000", model: str = "") -> None:
    """Run the image of the service, with a read-only file system."""
    options = ["--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "-p", f"{port}:8000"]
    if model:
        options += [
            "-v",
            f"{Path(model).absolute()}:/model/{Path(model).name}:ro",
            "-e",
            f"MLOPS_MODEL=/model/{Path(model).name}",
        ]
    _run(c, engine, "run", *options, "api:latest")


DRY = {"dry_run": "print the commands instead of running them"}


def _cloud(c: Context, name: str, override: list[str], dry_run: bool) -> None:
    _module(c, f"cloud.{name}", *override, *(["cloud.dry_run=true"] if dry_run else []))


@task(iterable=["override"], help=OVERRIDE | DRY)
def gcp_bootstrap(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Set up a Google Cloud project; a second time is fine."""
    _cloud(c, "bootstrap", override, dry_run)


@task(iterable=["override"], help=OVERRIDE | DRY)
def gcp_build(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Test, build and deploy in Cloud Build."""
    _cloud(c, "build", override, dry_run)


@task(iterable=["override"], help=OVERRIDE | DRY)
def gcp_train(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Train on Vertex AI and fetch the model."""
    _cloud(c, "train", override, dry_run)


@task(iterable=["override"], help=OVERRIDE | DRY)
def gcp_deploy(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Deploy to Cloud Run; rolled back when it fails."""
    _cloud(c, "deploy", override, dry_run)


@task(iterable=["override"], help=OVERRIDE | DRY)
def gcp_teardown(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Delete what stands in Google Cloud; asks to confirm."""
    _cloud(c, "teardown", override, dry_run)


@task
def quickstart(c: Context) -> None:
    """Draw signs, train, evaluate, serve and ask, in minutes."""
    _module(c, "quickstart", "experiment=quickstart")


@task(help={"all_": "also the tests marked slow or gtsrb"})
def test(c: Context, all_: bool = False) -> None:
    """Run the tests on all cores, with branch coverage."""
    some = [] if all_ else ["-m", "not slow and not gtsrb"]
    _run(c, sys.executable, "-m", "pytest", "-n", "auto", *some)


@task
def check(c: Context) -> None:
    """Run every static check: code, spelling, YAML, images."""
    _run(c, "ruff", "check", ".")
    _run(c, "ruff", "format", "--check", ".")
    _run(c, "mypy")
    _run(c, "codespell")
    workflows = sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".github/workflows").glob("*.yaml"))
    _run(c, "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    _run(c, "check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    _run(c, "check-jsonschema", "--builtin-schema", "vendor.cloudbuild", "cloudbuild.yaml")
    _run(c, "zizmor", "--offline", "--quiet", ".github")
    _run(c, "yamllint", "--strict", ".")
    if sys.platform != "win32":  # hadolint has no package for Windows
        _run(c, "hadolint", *(f"dockerfiles/Dockerfile.{kind}" for kind in IMAGES))
    _run(c, "shellcheck", ".ci/run")


@task
def audit(c: Context) -> None:
    """Ask whether a pinned package has a known hole."""
    _run(
        c, "uv", "export", "--quiet", "--all-groups", "--format", "requirements-txt", "--no-emit-project", "-o", AUDITED
    )
    # strict: a database that cannot be reached is no "nothing known".
    _run(c, "pip-audit", "--strict", "--require-hashes", "--disable-pip", "-r", AUDITED)


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
