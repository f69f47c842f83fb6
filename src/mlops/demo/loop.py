"""Shows the whole loop on this machine: `python -m src.mlops.demo.loop`, or `inv loop.demo`.

A model is trained, promoted and served. The traffic turns foggy, an alert fires, recorded images get labels, a second
model is trained with them, passes the gate, and replaces the first one while the service runs. Everything happens in a
temporary clone of the repository, with the commands that people would type.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import httpx2 as httpx
import typer
from rich.console import Console

from src.mlops import ROOT
from src.mlops.cli import OverrideOption, new_app, typer_main
from src.mlops.demo.loop_data import Scene, draw_scene, hold_out_scene
from src.mlops.demo.loop_report import Story, draw, measure, show, to_markdown
from src.mlops.demo.services import (
    WINDOW_SECONDS,
    Services,
    UnsuccessfulError,
    has_alerts,
    reported,
    running_services,
    say,
)
from src.mlops.demo.traffic import Traffic
from src.mlops.errors import ServiceError
from src.mlops.io.files import write_atomically
from src.mlops.io.git import git

app = new_app()
FIRST, SECOND = "first", "second"  # the runs of the two models
# A model of drawn signs reports few foggy ones as unknown, because it has learned from dark and covered ones.
_ALERT = {"ConfidenceDropped"}
_CLEAR_SECONDS = 45.0  # of traffic before the fog, which become the baseline of drift detection
_FOG_SECONDS = 30.0  # of traffic in fog for a drift report if no alerts are installed
_AFTER_SECONDS = 20.0  # of traffic in fog for the second model
_SLOW = 5.0  # images per second during the training, which needs the processor
_EPOCHS = {FIRST: 12, SECOND: 6}
_FAST = 40.0  # images per second otherwise


class _Clone(NamedTuple):
    """A temporary clone of the repository, and the settings of its commands: own ones, and those of the user."""

    root: Path
    settings: list[str]
    override: list[str]

    def run(self, module: str, *arguments: str) -> None:
        """Runs a command in the clone, and shows what it prints.

        Raises:
            UnsuccessfulError: It failed.
        """
        done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=self.root, check=False)  # noqa: S603
        if done.returncode:
            raise UnsuccessfulError(f"`python -m {module}` failed with code {done.returncode}; its error is above.")

    def train(self, run: str, *own: str) -> None:
        """Trains, measures and registers a model, and promotes it to production."""
        own = (f"training.epochs={_EPOCHS[run]}", f"run_dir=models/runs/{run}", *own, *self.override)
        settings = [*self.settings, *own]
        options = [word for setting in settings for word in ("-o", setting)]
        say(f"Training the {run} model with {' '.join(own)}")
        self.run("src.mlops.train", *settings)
        say("Measuring it on test images, also on corrupted ones.")
        self.run("src.mlops.evaluate", *settings)
        self.run("src.mlops.evaluation.robustness", *settings)
        say("Registering it, and promoting it to production if it passes the gate.")
        self.run("src.mlops", "registry", "register", *options)
        self.run("src.mlops", "registry", "promote", "--stage", "production", *options)


@app.command("loop-demo")
def main(
    override: OverrideOption,
    raw_dir: Annotated[str, typer.Option(help="Folder of images in any layout; default: drawn signs.")] = "",
    labels: Annotated[int, typer.Option(min=1, help="Number of recorded images to label.")] = 1000,
    out: Annotated[str, typer.Option(help="Folder for the figure and the table; default: only print them.")] = "",
) -> None:
    """Serves a model, lets the traffic turn foggy, and trains, tests and swaps in a better model."""
    started = time.monotonic()
    with reported(), tempfile.TemporaryDirectory(prefix="mlops-loop-", ignore_cleanup_errors=True) as work:
        clone, scene = _prepare(Path(work), raw_dir, override)
        clone.train(FIRST)
        token = "loop-demo"  # noqa: S105 - of a service on this machine that lives for minutes
        settings = {"MLOPS_ADMIN_TOKEN": token, "MLOPS_LOG_IMAGES": "1"}
        with (
            running_services("production", settings, clone.root, alerts=has_alerts()) as services,
            Traffic(services.service.base_url, scene.images) as traffic,
        ):
            services.service.headers["Authorization"] = f"Bearer {token}"
            story = _run_loop(clone, services, traffic, scene, labels)
        say("Both models classify the test images, which nothing above has used except the gate.")
        files = {run: clone.root / "models" / "runs" / run / "best_model.onnx" for run in (FIRST, SECOND)}
        rows = measure(story, scene.processed, files[FIRST], files[SECOND])
        Console().print(show(rows))
        minutes = (time.monotonic() - started) / 60
        say(f"{story.labels} labels, {traffic.sent:,} images classified, none lost, {minutes:.1f} minutes.")
        if out:
            draw(story, Path(out) / "loop.png")
            write_atomically(Path(out) / "loop.md", to_markdown(rows).encode())
            say(f"Wrote the figure and the table to {out}.")


def _prepare(work: Path, raw_dir: str, override: list[str]) -> tuple[_Clone, Scene]:
    root = work / "clone"
    say("Cloning the repository to a temporary folder. Nothing is written to yours.")
    if git(ROOT, "status", "--porcelain"):
        say("Uncommitted changes are not part of the clone.")
    git(ROOT, "clone", "--quiet", "--no-tags", str(ROOT), str(root))
    git(root, "remote", "remove", "origin")
    for key, value in {"user.name": "loop demo", "user.email": "loop-demo@localhost"}.items():
        git(root, "config", key, value)
    scene = hold_out_scene(Path(raw_dir).resolve(), work) if raw_dir else draw_scene(work)
    say(f"The camera will see {len(scene.truth):,} images of {scene.signs:,} signs that no training has seen.")
    reports = f"evaluation.reports_dir={work / 'reports'}"
    return _Clone(root, [*scene.settings, reports], override), scene


def _run_loop(clone: _Clone, services: Services, traffic: Traffic, scene: Scene, labels: int) -> Story:
    services.show_addresses()
    story = Story(traffic.answers, scene.truth)
    traffic.rate = _FAST
    story.add("Clear traffic. It becomes the baseline of drift detection")
    time.sleep(_CLEAR_SECONDS)
    log = ("--log", services.log)
    clone.run("src.mlops", "drift", *log, "--accept", "--model", "production", "--cluster-seconds", "0")

    story.add("Fog")
    traffic.bring_fog()
    _wait_for_alarm(services)
    story.add("Alert")

    traffic.rate = _SLOW
    story.labels = _label(services.service, traffic, scene, labels)
    story.add(f"{story.labels} labels")

    collected = clone.root.parent / "collected"
    clone.run("src.mlops", "labels", "export", str(collected), *log, "--only-reviewed")
    start = f"training.start_from=models/runs/{FIRST}/best_model.pth"
    try:
        clone.train(SECOND, f"data.collected={collected}", start)
    except UnsuccessfulError:
        say(f"There is no second model in production. The service keeps the first one, {_served(services)}.")
        raise
    services.service.post("/admin/reload").raise_for_status()
    traffic.rate = _FAST
    story.add("New model")
    time.sleep(_AFTER_SECONDS)

    traffic.severity = 0
    story.add("The fog clears")
    time.sleep(WINDOW_SECONDS + 1)
    if services.alertmanager:
        services.wait_for_alerts(_ALERT, fire=False)
    if traffic.failed:
        raise UnsuccessfulError(f"{traffic.failed} of {traffic.sent} images were not classified.")
    return story


def _served(services: Services) -> str:
    return str(services.service.get("/model").raise_for_status().json()["model_version"])


def _wait_for_alarm(services: Services) -> None:
    if services.alertmanager:
        services.wait_for_alerts(_ALERT, fire=True)
    else:
        say("Prometheus and Alertmanager are not installed, so the drift report takes the place of the alerts.")
        time.sleep(_FOG_SECONDS)
    found = services.report_drift()["findings"]
    if not found:
        raise UnsuccessfulError("The drift report found no drift in the fog.")
    say(f"The drift report found: {', '.join(finding['title'] for finding in found)}.")
    if services.alertmanager:
        services.wait_for_alerts({"DriftFound"}, fire=True)


def _label(service: httpx.Client, traffic: Traffic, scene: Scene, wanted: int) -> int:
    """Labels the images of the review queue, as a person would on the page, but with the known true classes."""
    say(f"Labelling {wanted} images of the review queue, with the known true classes instead of a person.")
    done = 0
    while done < wanted:
        known = {answer.request_id: scene.truth[answer.number] for answer in list(traffic.answers)}
        queue = service.get("/review/queue", params={"reviewer": "loop"}).raise_for_status().json()["images"]
        fresh = [image for image in queue if image["request_id"] in known]
        if not fresh:
            raise ServiceError(f"The review queue has only {done} images, but {wanted} labels are wanted.")
        for image in fresh[: wanted - done]:
            decision = {"record_id": image["record_id"], "verdict": "class", "expected": image["label_id"]}
            decision["class_id"] = known[image["request_id"]]
            service.post("/review/labels", json=decision).raise_for_status()
            done += 1
    return done


if __name__ == "__main__":
    typer_main(app)
