"""The pipeline as a graph: dvc.yaml, params.yaml and what DVC makes of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.config import Config, compose, parse_config
from src.mlops.errors import ConfigError
from src.mlops.pipeline import PIPELINE, STAGES, read_params, run_stage, write_params

GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())


@pytest.fixture(scope="module")
def config() -> Config:
    return parse_config(compose(PIPELINE))


def names(entries: list[str | dict[str, object]]) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def test_each_stage_is_a_command(config: Config) -> None:
    assert list(GRAPH["stages"]) == list(STAGES) == ["prepare", "train", "evaluate", "export", "cards"]
    for name, stage in GRAPH["stages"].items():
        assert stage["cmd"] == f"python -m src.mlops.pipeline {name}"


def test_files_are_where_the_configuration_puts_them(config: Config) -> None:
    stages = GRAPH["stages"]
    own = {
        "prepare": config.data.processed_dir,
        "train": config.ckpt_path.parent,
        "evaluate": config.evaluation.reports_dir,
        "export": config.ckpt_path.parent,
        "cards": config.evaluation.reports_dir,
    }
    for name, folder in own.items():
        for out in names(stages[name].get("outs", []) + stages[name].get("metrics", [])):
            assert (ROOT / out).is_relative_to(folder), out
    assert ROOT / stages["train"]["outs"][1] == config.run_dir


def test_inputs_exist_or_are_made_by_a_stage() -> None:
    stages = GRAPH["stages"].values()
    made = [out for stage in stages for out in names(stage.get("outs", []) + stage.get("metrics", []))]
    for stage in stages:
        for dependency in stage["deps"]:
            assert dependency in made or (ROOT / dependency).exists(), dependency
        assert set(stage.get("params", [])) <= set(Config.model_fields)


def test_params_are_the_whole_configuration(tmp_path: Path, config: Config) -> None:
    write_params(tmp_path / "params.yaml")
    assert read_params(tmp_path / "params.yaml") == config
    before = (tmp_path / "params.yaml").stat().st_mtime_ns
    write_params(tmp_path / "params.yaml")
    assert (tmp_path / "params.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected the pipeline's configuration at .*inv repro"),
        ("a: [1\n", "expected the pipeline's configuration at .*inv repro"),
        ("- 1\n", "expected keys and values"),
        ("nothing: 1\n", "nothing: there is no such key"),
    ],
)
def test_params_that_cannot_be_used(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        run_stage("train", tmp_path)


def test_an_unknown_stage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected one of the stages prepare, train.*found 'fly'"):
        run_stage("fly", tmp_path)


@pytest.mark.parametrize(("experiment", "lr"), [(False, 0.004), (True, 0.002)])
def test_the_first_stage_composes_but_in_an_experiment(
    experiment: bool, lr: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(tmp_path / "params.yaml")
    path = tmp_path / "params.yaml"
    path.write_text(path.read_text().replace("lr: 0.004", "lr: 0.002"))
    if experiment:
        monkeypatch.setenv("DVC_EXP_NAME", "some-name")
    seen: list[Config] = []
    monkeypatch.setitem(STAGES, "prepare", seen.append)
    run_stage("prepare", tmp_path)
    assert [config.training.optimizer["lr"] for config in seen] == [lr]


TINY = """
data: {image_size: 24, synthetic: {tracks_per_class: 3, frames_per_track: 2, test_tracks_per_class: 2}}
training: {epochs: 1, size_schedule: []}
model: {width: 4}
device: cpu
"""


@pytest.mark.slow
def test_dvc_builds_what_changed(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        if name.startswith(("src/", "configshydra/", "dvc.yaml", ".dvc", ".gitignore", "tasks.py")):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    own = clone / "configshydra" / "pipeline.yaml"
    changed = yaml.safe_load(own.read_text())
    for key, value in yaml.safe_load(TINY).items():
        changed[key] = {**changed.get(key, {}), **value} if isinstance(value, dict) else value
    own.write_text(yaml.safe_dump(changed, sort_keys=False))
    surroundings = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(command: str) -> str:
        result = subprocess.run(
            command, shell=True, cwd=clone, env=surroundings, capture_output=True, text=True, timeout=240, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def ran(told: str) -> list[str]:
        return [name for name in STAGES if f"Running stage '{name}'" in told]

    commit = "git add -A && git -c user.name=a -c user.email=a@b commit -qm"
    run(f"git init -q && {commit} one")
    assert ran(run("inv repro")) == list(STAGES)
    run(f"{commit} two")
    assert ran(run("dvc repro")) == []
    accuracy = json.loads(run("dvc metrics show --json"))[""]["data"]["reports/pipeline/metrics.json"]["data"][
        "Accuracy"
    ]
    assert 0 <= accuracy <= 1

    text = own.read_text()
    own.write_text(
        text + "evaluation: {reports_dir: reports/pipeline, batch_size: 64}\n".replace("evaluation", "export")
    )
    own.write_text(text.replace("reports_dir: reports/pipeline", "reports_dir: reports/pipeline\n  batch_size: 64"))
    assert ran(run("dvc repro")) == ["prepare", "evaluate"]  # the first one composes, and finds its data as it was
    own.write_text(text)

    assert ran(run("dvc exp run -S training.optimizer.lr=0.002")) == ["prepare", "train", "evaluate", "export", "cards"]
    told = run("dvc params diff --json")
    assert json.loads(told)["params.yaml"]["training.optimizer.lr"]["new"] == 0.002
    run("dvc metrics diff --json")
    run("dvc plots show")
    assert (clone / "dvc_plots" / "index.html").is_file()
