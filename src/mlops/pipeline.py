"""The stages of dvc.yaml: `python -m src.mlops.pipeline train`. `repro` runs the stages whose inputs changed.

All stages read params.yaml, which contains the complete configuration. `dvc exp run` composes it from
configshydra/pipeline.yaml and its `-S` options. `dvc repro` does not compose it. Therefore the first stage does, which
runs whenever a file in configshydra/ changed.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path

import typer
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main
from src.mlops.config import Config, compose, parse_config
from src.mlops.data.dvc import require_repository
from src.mlops.errors import ConfigError

app = new_app("Runs the stages of dvc.yaml; each stage reads params.yaml.")
logger = logging.getLogger("src.mlops.pipeline")
PIPELINE = "pipeline"  # name of the config in configshydra/
PARAMS = "params.yaml"
IN_EXPERIMENT = "DVC_EXP_NAME"  # DVC sets it for the stages of `dvc exp run`


@app.command()
def prepare() -> None:
    """Checks, splits and packs the images."""
    from src.mlops.data.prepare import main

    if IN_EXPERIMENT not in os.environ:
        write_params(ROOT / PARAMS)
    main(read_params(ROOT / PARAMS))


@app.command()
def train() -> None:
    """Trains the model."""
    from src.mlops.training.train import train

    train(read_params(ROOT / PARAMS))


@app.command()
def evaluate() -> None:
    """Evaluates the model on the test images."""
    from src.mlops.evaluation.evaluate import evaluate

    evaluate(read_params(ROOT / PARAMS))


@app.command()
def export() -> None:
    """Exports the model as ONNX."""
    from src.mlops.export import main

    main(read_params(ROOT / PARAMS))


@app.command()
def cards() -> None:
    """Writes the model card and the data card."""
    from src.mlops.evaluation.model_card import write_cards

    write_cards(read_params(ROOT / PARAMS))


@app.command("repro")
def reproduce() -> None:
    """Runs all stages whose inputs or settings changed since dvc.lock was written."""
    require_repository(ROOT)
    write_params(ROOT / PARAMS)
    # Stages run with the same Python interpreter as this command.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", "repro"]
    raise typer.Exit(subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=False).returncode)  # noqa: S603


def write_params(path: Path, config_name: str = PIPELINE) -> None:
    """Composes the pipeline configuration and writes it to a file, unless the file is up to date.

    Raises:
        ConfigError: configshydra/ cannot be composed.
    """
    raw = compose(config_name)
    parse_config(raw)
    OmegaConf.resolve(raw)
    content = OmegaConf.to_yaml(raw)
    if not path.is_file() or path.read_text() != content:
        path.write_text(content)
        logger.info("Composed %s from configshydra/%s.yaml", path.name, config_name)


def read_params(path: Path) -> Config:
    """Reads a composed configuration.

    Raises:
        ConfigError: The file cannot be read, has an unknown key or a value out of range, or names collected images.
    """
    try:
        raw = OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"Cannot read the pipeline configuration from {path}: {reason}. Create it with `inv repro`."
        ) from error
    if not isinstance(raw, DictConfig):
        raise ConfigError(f"{path} must contain keys and values, but contains a list. Create it with `inv repro`.")
    config = parse_config(raw)
    if config.data.collected:
        raise ConfigError(
            "data.collected must be null in the pipeline, because dvc.yaml does not track the collected images. Train "
            "with `inv train`, or add the images to the raw data."
        )
    return config


if __name__ == "__main__":
    typer_main(app)
