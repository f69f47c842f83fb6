"""The commands of this repository: `inv --list` shows all of them, `inv --help COMMAND` shows the options of one."""

import functools
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.runners import Local
from invoke.tasks import Task

ROOT = Path(__file__).parent
OVERRIDE = {"override": "a Hydra override such as training.epochs=3; may be given several times"}
DRY = {"dry_run": "print the commands instead of running them"}
PUSH = {"push": "push the tag to the Git remote origin, which starts the workflow"}
REMOTE = {"remote": "local (a folder) or storage (the bucket)"}
STAGE = {"stage": "staging or production"}
WINDOW = {
    "log": "folder or gs:// URL of the prediction log",
    "window": "24h, 7d, START/END or all",
}
CLUSTERS = {
    "cluster_seconds": "longest time between two frames of a sign; 0: independent images; default: as for the baseline",
}
LABELLED = WINDOW | {"cluster_seconds": "longest time between two frames of a sign; 0: independent images; default: 2"}
MODEL = "model file; latest is the newest trained model"
AUDITED = "requirements.txt"  # list of packages that `inv audit` checks
RELEASE = "ckpt_path=models/release/best_model.pth"  # target of `inv registry.pull`; never overwrites a trained model
IMAGES = ("api", "train", "drift")
FORMS = (".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/feature.yml")
PARALLEL = ("-n", "auto", "--dist", "worksteal")  # test durations differ widely, so idle workers take over tests


class CheckedArgument(Argument):
    """An argument whose value must be of its kind; invoke itself shows a traceback, or takes an option for a path."""

    def set_value(self, value: Any, cast: bool = True) -> None:
        """Sets the value, or raises ParseError."""
        if self.positional and str(value).startswith("--"):
            raise ParseError(f"{value} stands where the {self.name} must be. `inv --help COMMAND` shows the options")
        try:
            super().set_value(value, cast)
        except ValueError as error:
            raise ParseError(f"--{self.name} must be a whole number, but is {value!r}") from error


class CommandTask(Task[Any]):
    """A task in which only `--override` has a short form, `-o`, so one letter never means two options."""

    def arg_opts(self, name: str, default: str, taken_names: set[str]) -> dict[str, Any]:
        """Returns the option for one argument, without the automatic short form."""
        described = super().arg_opts(name, default, taken_names)
        if name != "override":
            described["names"] = described["names"][:1]
        return described

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Returns the arguments, with checked values."""
        return [
            CheckedArgument(
                names=argument.names,
                kind=argument.kind,
                default=argument.default,
                help=argument.help,
                positional=argument.positional,
                optional=argument.optional,
                incrementable=argument.incrementable,
                attr_name=argument.attr_name,
            )
            for argument in super().get_arguments(ignore_unknown_help)
        ]


def command(name: str, /, **help_by_argument: str) -> Callable[[Callable[..., None]], Task[Any]]:
    """Returns a decorator that makes a task.

    Args:
        name: Name of the task for `inv`.
        help_by_argument: Help text of each argument.
    """
    iterable = [argument for argument in ("override", "other") if argument in help_by_argument]
    return lambda body: CommandTask(body, name=name, iterable=iterable, help=help_by_argument)


class ForwardingRunner(Local):
    """Passes SIGTERM on to the running command, which would otherwise outlive `inv`."""

    _former: Any = None  # handler of SIGTERM while no command is running

    def start(self, command: str, shell: str, env: dict[str, Any]) -> None:
        """Starts a command."""
        super().start(command, shell, env)
        running = self.pid if self.using_pty or not self.process else self.process.pid
        self._former = signal.signal(signal.SIGTERM, lambda *_: os.kill(running, signal.SIGTERM))

    def stop(self) -> None:
        """Cleans up after the command."""
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)
        super().stop()


def _run(c: Context, *words: str) -> None:
    """Runs a command in the repository root. If it fails, the task ends with the same exit code."""
    c.config.runners.local = ForwardingRunner
    with c.cd(str(ROOT)):
        result = c.run(shlex.join(words), pty=sys.stdout.isatty() and sys.platform != "win32", warn=True)
    if result is None or result.failed:
        raise Exit(code=1 if result is None else result.exited)  # a failed result is false


def _module(c: Context, name: str, *arguments: str) -> None:
    _run(c, sys.executable, "-m", name, *arguments)


def _hydra(c: Context, name: str, *overrides: str) -> None:
    """Runs a command that takes Hydra overrides."""
    _module(c, f"src.mlops.{name}", *overrides)


def _typer(c: Context, name: str, *arguments: str, **options: str | int | bool | list[str] | None) -> None:
    """Runs a command that takes options. Options without a value are omitted."""
    words: list[str] = []
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        if isinstance(value, list):
            words += [word for entry in value for word in (flag, entry)]
        elif value != "" and value is not None and value is not False:
            words += [flag] if value is True else [flag, str(value)]
    _module(c, "src.mlops", *name.split(), *words, *arguments)


def _option(key: str, value: str) -> list[str]:
    """Returns an override with a quoted value, which may contain spaces or special characters."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return [f"{key}='{escaped}'"] if value else []


def _from_here(path: str) -> str:
    """Makes a path absolute, because commands run in the repository root and not in the user's working directory."""
    return str(Path(path).absolute()) if path and "://" not in path else path


# --- data


@command(
    "prepare",
    raw_dir="folder, .zip or .tar of the raw images, see docs/reference/data.md; relative to the repository root",
    **OVERRIDE,
)
def data_prepare(c: Context, override: list[str], raw_dir: str = "") -> None:
    """Check, split and pack the raw images into data/processed."""
    _hydra(c, "data.prepare", *_option("data.raw_dir", raw_dir), *override)


@command("report", **OVERRIDE)
def data_report(c: Context, override: list[str]) -> None:
    """Check the data and write a report to data/report."""
    folder = ["data.processed_dir=data/report", "evaluation.reports_dir=data/report"]
    for module in ("data.prepare", "data.contact_sheet"):
        _hydra(c, module, *folder, *override)


@command("sheet", **OVERRIDE)
def data_sheet(c: Context, override: list[str]) -> None:
    """Draw a contact sheet of the data into reports/latest/figures."""
    _hydra(c, "data.contact_sheet", *override)


@command(
    "signs",
    raw_dir="folder or archive of images of GTSRB, to show next to drawn ones",
    out="folder to write to; default: reports/signs",
)
def data_signs(c: Context, raw_dir: str = "", out: str = "") -> None:
    """Draw contact sheets of all signs that can be drawn."""
    _typer(c, "data signs", raw_dir=_from_here(raw_dir), out=_from_here(out))


@command("label-errors", **OVERRIDE)
def data_label_errors(c: Context, override: list[str]) -> None:
    """List images whose label is doubtful."""
    _hydra(c, "evaluation.label_errors", *override)


@command("pack", raw_dir="folder of the raw images", **OVERRIDE)
def data_pack(c: Context, override: list[str], raw_dir: str = "") -> None:
    """Pack raw images into archives and track them with DVC."""
    _typer(c, "data pack", override=[*_option("data.raw_dir", raw_dir), *override])


@command("push", **REMOTE, **OVERRIDE)
def data_push(c: Context, override: list[str], remote: str = "") -> None:
    """Upload the archives to a folder or to the bucket."""
    _typer(c, "data push", remote=remote, override=override)


@command("pull", **REMOTE, **OVERRIDE)
def data_pull(c: Context, override: list[str], remote: str = "") -> None:
    """Fetch the archives from a folder or the bucket, and check them."""
    _typer(c, "data pull", remote=remote, override=override)


# --- from data to an evaluated model


@command("quickstart")
def quickstart(c: Context) -> None:
    """Run all steps on synthetic images in a few minutes."""
    _hydra(c, "quickstart", "experiment=quickstart")


@command("train", **OVERRIDE)
def train(c: Context, override: list[str]) -> None:
    """Train a model and save the best one to models/latest."""
    _hydra(c, "train", *override)


@command("evaluate", split="train, val or test", **OVERRIDE)
def evaluate(c: Context, override: list[str], split: str = "test") -> None:
    """Evaluate the model and write metrics and figures to reports/latest."""
    _hydra(c, "evaluate", f"evaluation.split={split}", *override)


@command("sweep", workers="trials in parallel; 0: as configured", **OVERRIDE)
def sweep(c: Context, override: list[str], workers: int = 0) -> None:
    """Search hyperparameters and write the result to reports/latest/sweep."""
    _hydra(c, "sweep", *([f"hparams_search.workers={workers}"] if workers else []), *override)


@command(
    "cross-validate",
    other="an override of a second configuration, to compare with the first; may be given several times",
    seeds="trainings of each fold: with seed, seed + 1 and so on",
    **OVERRIDE,
)
def cross_validate(c: Context, override: list[str], other: list[str], seeds: int = 1) -> None:
    """Measure settings on five folds, or compare two configurations."""
    _typer(c, "cross-validate", *override, other=other, seeds=seeds)


@command("repro")
def repro(c: Context) -> None:
    """Run the stages of dvc.yaml whose inputs changed."""
    _typer(c, "pipeline repro")


@command("export", variant="fp32, fp16 (half as large), int8 (quantised) or pruned (trained again)", **OVERRIDE)
def model_export(c: Context, override: list[str], variant: str = "fp32") -> None:
    """Export the model, or a smaller variant, as ONNX."""
    if variant == "pruned":
        _hydra(c, "train", "experiment=pruned", *override)
    else:
        _hydra(c, "export", f"export.variant={variant}", *override)


@command("recalibrate", **OVERRIDE)
def model_recalibrate(c: Context, override: list[str]) -> None:
    """Fit temperature and thresholds of the model again."""
    _hydra(c, "evaluation.recalibrate", *override)
    _hydra(c, "export", *override)  # with the reference of drift detection, which depends on the thresholds


@command("parity", **OVERRIDE)
def model_parity(c: Context, override: list[str]) -> None:
    """Check that torch, ONNX, HTTP and BentoML give equal results."""
    _hydra(c, "evaluation.parity", *override)


@command("robustness", **OVERRIDE)
def model_robustness(c: Context, override: list[str]) -> None:
    """Measure the accuracy under rain, blur, noise, stickers and more."""
    _hydra(c, "evaluation.robustness", *override)


@command("reencoding", **OVERRIDE)
def model_reencoding(c: Context, override: list[str]) -> None:
    """Measure how often saving an image again as JPEG changes its class."""
    _hydra(c, "evaluation.reencoding", *override)


@command("benchmark", **OVERRIDE)
def model_benchmark(c: Context, override: list[str]) -> None:
    """Measure accuracy, size and speed of all model variants."""
    _module(c, "benchmarks.variants", *override)


@command("card", **OVERRIDE)
def model_card(c: Context, override: list[str]) -> None:
    """Write model card and data card from measured results."""
    _hydra(c, "evaluation.model_card", *override)


# --- versions of the model


@command("list", **OVERRIDE)
def registry_list(c: Context, override: list[str]) -> None:
    """Show all versions with their stages and states."""
    _typer(c, "registry list", override=override)


@command("register", **PUSH, **OVERRIDE)
def registry_register(c: Context, override: list[str], push: bool = False) -> None:
    """Register the current model as the next version."""
    _typer(c, "registry register", push=push, override=override)


@command(
    "promote",
    version="such as v3; default: the newest",
    force="promote even if the gate rejects the version; this is recorded",
    **STAGE,
    **PUSH,
    **OVERRIDE,
)
def registry_promote(
    c: Context, override: list[str], version: str = "", stage: str = "staging", force: bool = False, push: bool = False
) -> None:
    """Promote a version to a stage if it passes the gate."""
    _typer(c, "registry promote", *filter(None, [version]), stage=stage, force=force, push=push, override=override)


@command("rollback", **STAGE, **PUSH, **OVERRIDE)
def registry_rollback(c: Context, override: list[str], stage: str = "production", push: bool = False) -> None:
    """Restore the previous version in a stage."""
    _typer(c, "registry rollback", stage=stage, push=push, override=override)


@command("sync", **OVERRIDE)
def registry_sync(c: Context, override: list[str]) -> None:
    """Write the versions in the stages to the store, from the Git tags."""
    _typer(c, "registry sync", override=override)


@command("pull", version="such as v3, or a tag of the registry; default: the newest", **OVERRIDE)
def registry_pull(c: Context, override: list[str], version: str = "") -> None:
    """Fetch a version into models/release and check it."""
    _typer(c, "registry pull", *filter(None, [version]), override=[RELEASE, *override])


# --- using the model


@command(
    "predict",
    image="an image, folder, glob or URL",
    out="file to write: .parquet, .csv or .jsonl",
    model=MODEL,
    engine="local or ray",
)
def predict(c: Context, image: str, out: str = "", model: str = "", engine: str = "") -> None:
    """Classify an image, or all images below a folder or URL."""
    _typer(c, "predict", _from_here(image), out=_from_here(out), model=model, engine=engine)


@command("explain", image="image to explain", out="PNG to write; default: next to the image", model=MODEL)
def explain(c: Context, image: str, out: str = "", model: str = "") -> None:
    """Write a saliency map of an image as a PNG."""
    _typer(c, "explain", _from_here(image), out=_from_here(out), model=model)


@command(
    "api",
    model=MODEL,
    port="port to listen on; 0: the setting, 8000",
    host="address to listen on",
    workers="number of processes, best the number of CPU cores; 0: the setting, 1",
)
def api(c: Context, model: str = "", port: int = 0, host: str = "", workers: int = 0) -> None:
    """Start the service at http://localhost:8000."""
    _typer(c, "api", model=model, port=port or None, host=host, workers=workers or None)


@command(
    "loadtest",
    host="URL of a running service; default: start one",
    users="number of concurrent users",
    seconds="duration",
    images="folder of images to send; default: synthetic images",
    model=MODEL,
    workers="number of processes of the started service",
)
def loadtest(
    c: Context,
    host: str = "",
    users: int = 10,
    seconds: int = 60,
    images: str = "",
    model: str = "",
    workers: int = 1,
) -> None:
    """Test the service under load: ten users for one minute."""
    _typer(c, "loadtest", host=host, users=users, seconds=seconds, images=_from_here(images), model=model,
           workers=workers)  # fmt: skip


@command(
    "erase",
    request_id="ID of the request, from its header X-Request-ID",
    log="folder or gs:// URL of the prediction log; default: MLOPS_LOG_URL",
)
def log_erase(c: Context, request_id: str, log: str = "") -> None:
    """Delete what the prediction log recorded about a request."""
    _typer(c, "erase", "--", request_id, log=_from_here(log))


@command(
    "compact",
    log="folder or gs:// URL of the prediction log; default: MLOPS_LOG_URL",
    before="only days before this one, such as 2026-11-30; default: all days before today (UTC)",
)
def log_compact(c: Context, log: str = "", before: str = "") -> None:
    """Turn the prediction log of past days into one Parquet file per day."""
    _typer(c, "compact", log=_from_here(log), before=before)


@command("serve-bento", port="port to listen on")
def serve_bento(c: Context, port: int = 3000) -> None:
    """Start the same classifier as a BentoML service."""
    service = "src.mlops.serving.bentoml_service:ImageClassifier"
    _run(c, "uv", "run", "--group", "bento", "bentoml", "serve", service, "-p", str(port))


# --- monitoring


@command(
    "export",
    out="new folder for the images and labels.csv, for data.raw_dir",
    only_reviewed="leave out feedback that no reviewer has confirmed",
    **LABELLED,
)
def labels_export(
    c: Context, out: str, log: str = "", window: str = "", cluster_seconds: str = "", only_reviewed: bool = False
) -> None:
    """Write labelled images of the prediction log as training data."""
    _typer(c, "labels export", _from_here(out), log=_from_here(log), window=window, cluster_seconds=cluster_seconds,
           only_reviewed=only_reviewed)  # fmt: skip


@command("accuracy", **LABELLED, model_version="such as 5f2c0a9b7d31; default: that of the newest record")
def labels_accuracy(
    c: Context, log: str = "", window: str = "", cluster_seconds: str = "", model_version: str = ""
) -> None:
    """Estimate the accuracy of the labelled traffic."""
    _typer(c, "labels accuracy", log=_from_here(log), window=window, cluster_seconds=cluster_seconds,
           model_version=model_version)  # fmt: skip


@command(
    "report",
    **WINDOW,
    **CLUSTERS,
    baseline="name of an accepted baseline, reference, or the path of a file; default: the newest accepted one",
    out="folder or gs:// URL for the report",
    model=MODEL,
)
def drift_report(
    c: Context,
    log: str = "",
    window: str = "",
    baseline: str = "",
    out: str = "",
    model: str = "",
    cluster_seconds: str = "",
) -> None:
    """Compare a window of the prediction log with the baseline."""
    given = _from_here(baseline) if baseline.endswith(".npz") else baseline
    chosen = {"window": window, "baseline": given, "model": model, "cluster_seconds": cluster_seconds}
    _typer(c, "drift", log=_from_here(log), out=_from_here(out), **chosen)


@command("baseline", **WINDOW, **CLUSTERS, author="who accepts it; default: the user", model=MODEL)
def drift_baseline(
    c: Context, log: str = "", window: str = "", author: str = "", model: str = "", cluster_seconds: str = ""
) -> None:
    """Accept a window of the prediction log as the baseline."""
    chosen = {"window": window, "author": author, "model": model, "cluster_seconds": cluster_seconds}
    _typer(c, "drift", "--accept", log=_from_here(log), **chosen)


@command("baselines", log=WINDOW["log"], model=MODEL)
def drift_baselines(c: Context, log: str = "", model: str = "") -> None:
    """List the baselines of the model: when, who, and from what."""
    _typer(c, "drift", "--list", log=_from_here(log), model=model)


@command(
    "api",
    log="folder or gs:// URL of the prediction log; default: MLOPS_DRIFT_LOG_URL",
    model=MODEL,
    port="port to listen on; 0: the setting, 8002",
    host="address to listen on",
)
def drift_api(c: Context, log: str = "", model: str = "", port: int = 0, host: str = "") -> None:
    """Start the drift service; the token is MLOPS_DRIFT_TOKEN."""
    _typer(c, "drift-api", log=_from_here(log), model=model, port=port or None, host=host)


@command(
    "demo",
    images="folder of images to send; default: drawn signs",
    model=MODEL,
    stay="keep everything running until Ctrl-C",
)
def monitor_demo(c: Context, images: str = "", model: str = "", stay: bool = False) -> None:
    """Show how alerts fire and resolve when traffic turns foggy."""
    _typer(c, "monitor-demo", images=_from_here(images), model=model, stay=stay)


@command(
    "demo",
    raw_dir="folder of images in any layout; default: drawn signs",
    labels="number of recorded images to label; default: 1000",
    out="folder for the figure and the table; default: only print them",
    **OVERRIDE,
)
def loop_demo(c: Context, override: list[str], raw_dir: str = "", labels: int = 0, out: str = "") -> None:
    """Show the loop: serve, fog, alert, label, retrain, gate, swap."""
    options = {"raw_dir": _from_here(raw_dir), "labels": labels or None, "out": _from_here(out)}
    _typer(c, "loop-demo", override=override, **options)


# --- containers and cloud


@command("build", engine="docker, podman or any command with the same options")
def docker_build(c: Context, engine: str = "docker") -> None:
    """Build the container images for service, training and drift."""
    for kind in IMAGES:
        _run(c, engine, "build", "-f", f"dockerfiles/Dockerfile.{kind}", "-t", f"{kind}:latest", ".")


@command("run", engine="docker or podman", port="port on this machine", model="path of a model file")
def docker_run(c: Context, engine: str = "docker", port: int = 8000, model: str = "") -> None:
    """Run the container of the service with a read-only file system."""
    options = ["--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "-p", f"{port}:8000"]
    if model:
        path = Path(model).absolute()
        options += ["-v", f"{path}:/model/{path.name}:ro", "-e", f"MLOPS_MODEL=/model/{path.name}"]
    _run(c, engine, "run", *options, "api:latest")


@command("sbom", out="folder for the files")
def docker_sbom(c: Context, out: str = "reports/sbom") -> None:
    """Write the packages of each container image as CycloneDX."""
    for kind in IMAGES:
        _typer(c, "sbom", kind, out=_from_here(f"{out}/{kind}.cdx.json"))


def _cloud(c: Context, name: str, override: list[str], dry_run: bool) -> None:
    _hydra(c, f"cloud.{name}", *override, *(["cloud.dry_run=true"] if dry_run else []))


@command("bootstrap", **DRY, **OVERRIDE)
def gcp_bootstrap(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Set up a Google Cloud project; can be run again."""
    _cloud(c, "bootstrap", override, dry_run)


@command("build", **DRY, **OVERRIDE)
def gcp_build(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Test, build and deploy in Cloud Build."""
    _cloud(c, "build", override, dry_run)


@command("train", detach="only start the job; `inv gcp.collect` registers its model later", **DRY, **OVERRIDE)
def gcp_train(c: Context, override: list[str], detach: bool = False, dry_run: bool = False) -> None:
    """Train on Vertex AI and fetch the model."""
    _cloud(c, "submit", [*(["cloud.train.action=start"] if detach else []), *override], dry_run)


@command("retrain", **DRY, **OVERRIDE)
def gcp_retrain(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Start a training with labelled images of the service."""
    _cloud(c, "retrain", override, dry_run)


@command("collect", **PUSH, **OVERRIDE)
def gcp_collect(c: Context, override: list[str], push: bool = False) -> None:
    """Register the models of training jobs that have ended."""
    _typer(c, "collect", push=push, override=override)


@command("deploy", **DRY, **OVERRIDE)
def gcp_deploy(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Deploy to Cloud Run and roll back after a failure."""
    _cloud(c, "deploy", override, dry_run)


@command("rollback", **DRY, **OVERRIDE)
def gcp_rollback(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Move the traffic back to the promoted version, within seconds."""
    _cloud(c, "rollback", override, dry_run)


@command("loadtest", **DRY, **OVERRIDE)
def gcp_loadtest(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Test the deployed service under load."""
    _cloud(c, "load_test", override, dry_run)


@command("drift", **DRY, **OVERRIDE)
def gcp_drift(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Run the drift job in Cloud Run, and schedule it."""
    _cloud(c, "drift_job", override, dry_run)


@command("monitoring", **DRY, **OVERRIDE)
def gcp_monitoring(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Set up alerts and a dashboard in Cloud Monitoring."""
    _cloud(c, "monitoring", override, dry_run)


@command("teardown", **DRY, **OVERRIDE)
def gcp_teardown(c: Context, override: list[str], dry_run: bool = False) -> None:
    """Delete the Google Cloud resources; needs confirmation."""
    _cloud(c, "teardown", override, dry_run)


# --- working on the repository


@command(
    "test",
    quick="run only the unit tests, in about a minute",
    coverage="also measure coverage, including child processes; takes 50 % longer and fails below 90 % (--quick: 70 %)",
    all_="also run tests marked slow or gtsrb",
)
def test(c: Context, quick: bool = False, coverage: bool = False, all_: bool = False) -> None:
    """Run the tests on all cores."""
    options = ["tests/unit", "-p", "no:schemathesis"] if quick else []
    options += ["--cov", "--cov-report=term-missing:skip-covered"] if coverage else []
    options += ["--cov-fail-under=70"] if quick and coverage else []
    options += [] if all_ else ["-m", "not slow and not gtsrb"]
    _run(c, sys.executable, "-m", "pytest", *PARALLEL, *options)


@command("check")
def check(c: Context) -> None:
    """Run all static checks: code, layers, spelling, YAML, Dockerfiles."""
    _run(c, "ruff", "check", ".")
    _run(c, "ruff", "format", "--check", ".")
    _run(c, "mypy")
    _run(c, "lint-imports")
    _run(c, "codespell")
    _run(c, "pre-commit", "run", "--all-files", "phrases")
    workflows = sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".github/workflows").glob("*.yaml"))
    _run(c, "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    actions = sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".github/actions").glob("*/action.yaml"))
    _run(c, "check-jsonschema", "--builtin-schema", "vendor.github-actions", *actions)
    _run(c, "check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    _run(c, "check-jsonschema", "--builtin-schema", "vendor.cloudbuild", "cloudbuild.yaml")
    _run(c, "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    _run(c, "check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *FORMS)
    _run(c, "check-jsonschema", "--builtin-schema", "vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml")
    _run(c, "check-jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff")
    _run(c, "zizmor", "--offline", "--quiet", ".github")
    _run(c, "yamllint", "--strict", ".")
    if sys.platform != "win32":  # hadolint has no package for Windows
        _run(c, "hadolint", *(f"dockerfiles/Dockerfile.{kind}" for kind in IMAGES))
    _run(c, "shellcheck", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".ci").iterdir()))


@command("audit")
def audit(c: Context) -> None:
    """Check the pinned packages for known vulnerabilities."""
    _run(
        c, "uv", "export", "--quiet", "--all-groups", "--format", "requirements-txt", "--no-emit-project", "-o", AUDITED
    )
    # --strict fails if the vulnerability database cannot be reached.
    _run(c, "pip-audit", "--strict", "--require-hashes", "--disable-pip", "-r", AUDITED)


@command("format")
def format_(c: Context) -> None:
    """Format the code and fix lint errors automatically."""
    _run(c, "ruff", "check", "--fix", ".")
    _run(c, "ruff", "format", ".")


@command("docs", serve="serve the site at http://localhost:8001 and rebuild it after changes")
def docs(c: Context, serve: bool = False) -> None:
    """Write the generated parts of docs/, and build the site into site/."""
    _module(c, "docs_generator")
    command = ["serve", "--dev-addr", "localhost:8001"] if serve else ["build", "--strict"]
    _run(c, "uv", "run", "--group", "docs", "zensical", *command)


def _namespace() -> Collection:
    groups = {
        "data": [data_prepare, data_report, data_sheet, data_signs, data_label_errors, data_pack, data_push, data_pull],
        "model": [
            model_export,
            model_recalibrate,
            model_parity,
            model_robustness,
            model_reencoding,
            model_benchmark,
            model_card,
        ],
        "registry": [
            registry_list,
            registry_register,
            registry_promote,
            registry_rollback,
            registry_sync,
            registry_pull,
        ],
        "log": [log_compact, log_erase],
        "labels": [labels_export, labels_accuracy],
        "drift": [drift_report, drift_baseline, drift_baselines, drift_api],
        "monitor": [monitor_demo],
        "loop": [loop_demo],
        "docker": [docker_build, docker_run, docker_sbom],
        "gcp": [
            gcp_bootstrap,
            gcp_build,
            gcp_train,
            gcp_retrain,
            gcp_collect,
            gcp_deploy,
            gcp_rollback,
            gcp_loadtest,
            gcp_drift,
            gcp_monitoring,
            gcp_teardown,
        ],
    }
    everyday = [quickstart, train, evaluate, sweep, cross_validate, repro, predict, explain, api, loadtest, serve_bento]
    collected = Collection(*everyday, test, check, audit, format_, docs)
    for name, members in groups.items():
        collected.add_collection(Collection(name, *members))
    collected.collections["registry"].default = "list"  # `inv registry` shows the versions
    collected.collections["drift"].default = "report"
    for name in RENAMED.keys() & set(sys.argv):  # only if used, to hide old names from `--list`
        group, _, member = RENAMED[name].partition(".")
        collected.add_task(_renamed(name, collected.collections[group].tasks[member]))
    return collected


# Old task names. They still work and print the new name.
RENAMED = {
    "preprocess-data": "data.prepare",
    "data-report": "data.report",
    "visualize": "data.sheet",
    "data-pack": "data.pack",
    "data-push": "data.push",
    "data-pull": "data.pull",
    "export": "model.export",
    "calibrate": "model.recalibrate",
    "parity": "model.parity",
    "robustness": "model.robustness",
    "benchmark": "model.benchmark",
    "card": "model.card",
    "register": "registry.register",
    "promote": "registry.promote",
    "rollback": "registry.rollback",
    "pull-model": "registry.pull",
    "docker-build": "docker.build",
    "docker-run": "docker.run",
    "gcp-bootstrap": "gcp.bootstrap",
    "gcp-build": "gcp.build",
    "gcp-train": "gcp.train",
    "gcp-deploy": "gcp.deploy",
    "gcp-teardown": "gcp.teardown",
}


def _renamed(name: str, member: Task[Any]) -> Task[Any]:
    @functools.wraps(member.body)
    def body(c: Context, *arguments: Any, **options: Any) -> None:
        sys.stderr.write(f"`inv {name}` is now `inv {RENAMED[name]}`\n")
        member.body(c, *arguments, **options)

    return CommandTask(body, name=name, iterable=member.iterable, help=member.help)


namespace = _namespace()
