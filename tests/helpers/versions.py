"""Models that can be registered, and repositories to register them in."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from src.mlops.evaluation.evaluate import evaluate
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.checkpoint import read_plain, write_content
from src.mlops.modelfile.onnx_export import export
from src.mlops.training.train import train
from tests.helpers.tiny import quick_config, tiny_overrides, write_kaggle

LENIENT = ["gate.max_calibration_error=1", "gate.min_class_f1=0", "gate.max_latency_ms=1000"]
_SAME_TIME = "2026-01-01T00:00:00Z"


def make_models(folder: Path) -> None:
    """Makes three model folders with results: `good`, `equal` (other file, same predictions), `bad`.

    They record the commit of `make_repository` as the commit of their code.
    """
    measured: dict[str, Any] = {}
    overrides = [*tiny_overrides(folder, write_kaggle(folder / "raw")), "training.epochs=8"]
    train(quick_config(overrides))
    commit = git(make_repository(folder / "code"), "rev-parse", "HEAD")
    content = read_plain(folder / "latest" / "best_model.pth")
    head = [name for name in content["state_dict"] if name.startswith("head.")]
    for name, change in {"good": 1, "equal": 1, "bad": -1}.items():
        own = dict(content)
        own["provenance"] = {**content["provenance"], "git_commit": commit, "created": f"2026-01-01 {name}"}
        own["state_dict"] = {k: change * v if k in head else v for k, v in content["state_dict"].items()}
        path = folder / name / "best_model.pth"
        path.parent.mkdir()
        write_content(path, own)
        version = Classifier.load(export(path)).version
        reports = folder / name / "reports"
        if not measured:  # `equal` has the same metrics, and the tests do not read those of `bad`
            measured = evaluate(quick_config([*overrides, f"ckpt_path={path}", f"evaluation.reports_dir={reports}"]))
        reports.mkdir(exist_ok=True)
        (reports / "metrics.json").write_text(json.dumps({**measured, "provenance": own["provenance"]}))
        report = {"model_version": version, "mean": 0.9}
        (reports / "robustness.json").write_text(json.dumps(report))


def git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def make_repository(folder: Path) -> Path:
    """Makes a repository with one commit, which always has the same hash."""
    folder.mkdir()
    git(folder, "init", "--quiet")
    identify(folder, "A Name")
    (folder / "README.md").write_text("x")
    git(folder, "add", ".")
    same = {"GIT_AUTHOR_DATE": _SAME_TIME, "GIT_COMMITTER_DATE": _SAME_TIME}
    command = ["git", "commit", "--quiet", "-m", "first"]
    subprocess.run(command, cwd=folder, env={**os.environ, **same}, check=True, capture_output=True)
    return folder


def identify(repository: Path, name: str) -> None:
    git(repository, "config", "user.name", name)
    git(repository, "config", "user.email", "a@example.org")


def commit(repository: Path) -> Path:
    """Makes a commit that has no version yet."""
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "next")
    return repository
