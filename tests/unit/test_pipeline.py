"""The pipeline as a DVC DAG: dvc.yaml and params.yaml."""

from pathlib import Path

import grimp
import pytest
import yaml

from src.mlops import ROOT
from src.mlops.config import Config, compose, parse_config
from src.mlops.errors import ConfigError, GitError
from src.mlops.pipeline import PIPELINE, prepare, read_params, reproduce, write_params

STAGES = ["prepare", "train", "evaluate", "export", "cards"]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())


@pytest.fixture(scope="module")
def config() -> Config:
    return parse_config(compose(PIPELINE))


def names(entries: list[str | dict[str, object]]) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def test_each_stage_is_a_command(config: Config) -> None:
    assert list(GRAPH["stages"]) == STAGES
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


def test_inputs_exist_or_are_outputs_of_a_stage() -> None:
    stages = GRAPH["stages"].values()
    made = [out for stage in stages for out in names(stage.get("outs", []) + stage.get("metrics", []))]
    for stage in stages:
        for dependency in stage["deps"]:
            assert dependency in made or (ROOT / dependency).exists(), dependency
        for entry in stage.get("params", []):
            if isinstance(entry, str):
                assert entry in Config.model_fields
            else:  # the names of the project
                assert entry == {"pyproject.toml": ["tool.mlops"]}


def test_params_contain_the_complete_configuration(tmp_path: Path, config: Config) -> None:
    write_params(tmp_path / "params.yaml")
    assert read_params(tmp_path / "params.yaml") == config
    before = (tmp_path / "params.yaml").stat().st_mtime_ns
    write_params(tmp_path / "params.yaml")
    assert (tmp_path / "params.yaml").stat().st_mtime_ns == before


STAGE_MODULES = {
    "prepare": "data.prepare",
    "train": "training.train",
    "evaluate": "evaluation.evaluate",
    "export": "export",
    "cards": "evaluation.model_card",
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_every_package_that_it_imports(name: str) -> None:
    """Compares the imports with dvc.yaml, so a new import cannot leave outdated results."""
    module = f"src.mlops.{STAGE_MODULES[name]}"
    imported = {module, *grimp.build_graph("src").find_upstream_modules(module)}
    rooms = {name.split(".")[2] for name in imported if name.startswith("src.mlops.")}
    listed = {Path(path).stem for path in GRAPH["stages"][name]["deps"] if path.startswith("src/")}
    assert listed == rooms - {"cli", "errors"}  # they do not change results


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"params\.yaml: .*inv repro"),
        ("a: [1\n", r"params\.yaml: .*inv repro"),
        ("- 1\n", r"params\.yaml .*list.*inv repro"),
        ("nothing: 1\n", "nothing: "),
    ],
)
def test_invalid_params(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_params(tmp_path / "params.yaml")


def test_collected_images_which_dvc_does_not_track_are_refused(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    write_params(params)
    params.write_text(params.read_text().replace("  collected: null\n  split", "  collected: data/collected\n  split"))
    with pytest.raises(ConfigError, match=r"data\.collected must be null in the pipeline"):
        read_params(params)


@pytest.mark.parametrize(("experiment", "lr"), [(False, 0.004), (True, 0.002)])
def test_the_first_stage_composes_except_in_an_experiment(
    experiment: bool, lr: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(tmp_path / "params.yaml")
    path = tmp_path / "params.yaml"
    path.write_text(path.read_text().replace("lr: 0.004", "lr: 0.002"))
    if experiment:
        monkeypatch.setenv("DVC_EXP_NAME", "some-name")
    seen: list[Config] = []
    monkeypatch.setattr("src.mlops.data.prepare.main", seen.append)
    monkeypatch.setattr("src.mlops.pipeline.ROOT", tmp_path)
    prepare()
    assert [config.training.optimizer["lr"] for config in seen] == [lr]


def test_without_git_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr("src.mlops.pipeline.ROOT", tmp_path)
    with pytest.raises(GitError, match=r"needs a Git repository.*`git init`"):
        reproduce()
    assert list(tmp_path.iterdir()) == []
