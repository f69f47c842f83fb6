"""One stage of dvc.yaml: `python -m src.mlops.pipeline train`. `inv repro` runs those whose inputs changed.

All stages read params.yaml, the whole configuration as one file. `dvc exp run` composes it from
configshydra/pipeline.yaml and its `-S` options. A plain `dvc repro` composes nothing, so that the first stage does: it
runs whenever something in configshydra/ changed.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from src.mlops import ROOT
from src.mlops.card import write_cards
from src.mlops.config import Config, compose, log_to_stderr, parse_config
from src.mlops.data import prepare
from src.mlops.errors import ConfigError, MlopsError, report
from src.mlops.evaluate import evaluate
from src.mlops.export import export
from src.mlops.train import train

logger = logging.getLogger("src.mlops.pipeline")
PIPELINE = "pipeline"  # of configshydra/
PARAMS = "params.yaml"
IN_EXPERIMENT = "DVC_EXP_NAME"  # DVC sets it for the stages of `dvc exp run`


def run_stage(name: str, root: Path = ROOT) -> None:
    """Runs one stage with the configuration in params.yaml.

    Args:
        name: A key of `STAGES`.
        root: Folder of params.yaml.

    Raises:
        ConfigError: There is no such stage, or params.yaml cannot be used.
        MlopsError: What the stage itself raises.
    """
    if name not in STAGES:
        raise ConfigError(f"expected one of the stages {', '.join(STAGES)}, found {name!r}.")
    path = root / PARAMS
    if name == "prepare" and IN_EXPERIMENT not in os.environ:
        write_params(path)
    STAGES[name](read_params(path))


def write_params(path: Path, config_name: str = PIPELINE) -> None:
    """Composes the pipeline's configuration into a file, unless it says the same already.

    Raises:
        ConfigError: configshydra/ cannot be composed.
    """
    raw = compose(config_name)
    parse_config(raw)
    OmegaConf.resolve(raw)
    content = OmegaConf.to_yaml(raw)
    if not path.is_file() or path.read_text() != content:
        path.write_text(content)
        logger.info("composed %s from configshydra/%s.yaml", path.name, config_name)


def read_params(path: Path) -> Config:
    """Reads a composed configuration.

    Raises:
        ConfigError: There is none, or it holds an unknown key or a value out of its range.
    """
    try:
        raw = OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"expected the pipeline's configuration at {path}, found: {reason}. Make it: `inv repro`."
        ) from error
    if not isinstance(raw, DictConfig):
        raise ConfigError(f"expected keys and values in {path}, found a list. Make it: `inv repro`.")
    return parse_config(raw)


def reproduce(root: Path = ROOT) -> int:
    """Builds what changed since dvc.lock was written, with the settings that configshydra/ has now.

    Returns:
        The exit code of DVC, which has told what it did.

    Raises:
        ConfigError: configshydra/ cannot be composed.
    """
    write_params(root / PARAMS)
    # The stages' `python` is the one that runs this.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", "repro"]
    return subprocess.run(command, cwd=root, env={**os.environ, "PATH": path}, check=False).returncode  # noqa: S603


STAGES: dict[str, Callable[[Config], object]] = {
    "prepare": prepare.main,
    "train": train,
    "evaluate": evaluate,
    "export": lambda config: export(config.ckpt_path),
    "cards": write_cards,
}


def main() -> None:
    """Runs the stage that the command line names, or with `repro` all of them whose inputs changed."""
    log_to_stderr()
    try:
        if sys.argv[1:] == ["repro"]:
            sys.exit(reproduce())
        run_stage(" ".join(sys.argv[1:]))
    except MlopsError as error:
        report(error)


if __name__ == "__main__":
    main()
