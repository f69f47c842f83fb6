"""Hyperparameter search with Optuna.

Each trial is a training with its own folder. The study is a file, so an interrupted search can be resumed, and several
processes can share it.
"""

import logging
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import optuna
import pandas as pd
import torch
from omegaconf import OmegaConf
from optuna.importance import get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from src.mlops import ROOT
from src.mlops.config import Config, SearchRange
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, TrainingError
from src.mlops.io.logs import start_logging
from src.mlops.training.plots import draw_importances
from src.mlops.training.train import train

logger = logging.getLogger(__name__)
SWEEPS = ROOT / "models" / "sweeps"
_STARTUP_TRIALS = 4  # trials that are never pruned; later trials are compared with their median
# The settings of all trials; the folder of the run is that of the trial.
_FIXED = {"run_dir": None, "training.publish": False, "training.resume": False, "training.final_fit": False}
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def sweep(config: Config, folder: Path | None = None) -> pd.DataFrame:
    """Runs trials until there are `hparams_search.trials`, including those of earlier calls.

    Args:
        config: `hparams_search` defines the search space. The other settings are those of each training.
        folder: Folder for the study and the trials. None is a folder in `models/sweeps` with the name of the search.

    Returns:
        One row per trial, best first: `number`, `state`, `val_Accuracy` (of the best epoch, or of the last epoch of a
        pruned trial) and the values of the trial. The same table is written to `sweep/trials.csv` in the reports
        folder, next to a figure with the importance of each hyperparameter.

    Raises:
        ConfigError: The search space names a key that does not exist or a value out of range, or the search was started
            with another configuration.
        TrainingError: A worker failed.
    """
    search = config.hparams_search
    _require_valid_space(config)
    folder = folder or SWEEPS / search.name
    folder.mkdir(parents=True, exist_ok=True)
    prepare(config.data)
    study = _open_study(config, folder)
    _require_same_search(study, config)
    if search.workers == 1:
        _run_trials(config, folder)
    else:
        processes = multiprocessing.get_context("spawn")
        workers = [processes.Process(target=_work, args=(config, folder, number)) for number in range(search.workers)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise TrainingError(
                f"Some of the {search.workers} workers failed. See their errors above. The trials so far are kept in "
                f"{folder}. Run the same command again to continue the search."
            )
    return _write_results(study, config.evaluation.reports_dir / "sweep")


def _require_valid_space(config: Config) -> None:
    """Raises an error if a trial could not use the values of one dimension."""
    plain = OmegaConf.create(config.to_dict())
    for one in config.hparams_search.space:
        if one.key in _FIXED:
            raise ConfigError(f"hparams_search.space: {one.key} cannot be searched, because the search sets it itself.")
        values: Sequence[bool | int | float | str] = one.choices or _bounds(one, OmegaConf.select(plain, one.key))
        for value in values:
            config.replace({one.key: value})  # raises for an unknown key, and for a value out of range


def _bounds(one: SearchRange, current: object) -> tuple[int, int] | tuple[float, float]:
    """Returns the lowest and the highest value of a range, as integers if both and the setting are integers."""
    if one.low is None or one.high is None or isinstance(current, bool) or not isinstance(current, int | float):
        raise ConfigError(
            f"hparams_search.space: {one.key} must be a number to have low and high, but is {current!r}. Use choices."
        )
    # The current value of a setting that can be a fraction may be written as an integer, such as model.dropout=0.
    if isinstance(current, int) and one.low.is_integer() and one.high.is_integer():
        return int(one.low), int(one.high)
    return one.low, one.high


def _open_study(config: Config, folder: Path, worker: int = 0) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=config.hparams_search.name,
        storage=JournalStorage(JournalFileBackend(str(folder / "study.log"))),
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, n_warmup_steps=config.training.epochs // 2),
        load_if_exists=True,
    )
    # The seed depends on the number of trials, because a resumed search must not try the same values again.
    done = len(study.get_trials(deepcopy=False))
    seed = (config.seed + 1000 * worker + done) % 2**32
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return study


def _require_same_search(study: optuna.Study, config: Config) -> None:
    """Raises an error if the trials of the study have another configuration."""
    mine = config.to_dict()
    kept = {section: mine[section] for section in ("data", "model", "training", "seed")}
    before = study.user_attrs.get("config")
    if before is None:
        study.set_user_attr("config", kept)
    elif before != kept:
        raise ConfigError(
            f"The search {config.hparams_search.name!r} was started with a different configuration. Choose a different "
            "name with hparams_search.name."
        )


def _work(config: Config, folder: Path, worker: int) -> None:
    """Runs trials in a process of its own, with its share of the cores."""
    start_logging()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.hparams_search.workers))
    _run_trials(config, folder, worker)


def _run_trials(config: Config, folder: Path, worker: int = 0) -> None:
    """Runs trials until there are enough."""
    study = _open_study(config, folder, worker)
    trials = config.hparams_search.trials
    if len(study.get_trials(deepcopy=False, states=_ENDED)) >= trials:
        return
    study.optimize(
        lambda trial: _run_trial(trial, config, folder),
        callbacks=[MaxTrialsCallback(trials, states=_ENDED)],
        catch=(TrainingError,),  # a diverging loss is a result of the trial, and must not stop the search
    )


def _run_trial(trial: optuna.Trial, config: Config, folder: Path) -> float:
    plain = OmegaConf.create(config.to_dict())
    space = config.hparams_search.space
    values = {one.key: _suggest(trial, one, OmegaConf.select(plain, one.key)) for one in space}
    logger.info("Trial %d: %s", trial.number, values)
    run_dir = folder / f"trial_{trial.number:04d}"

    def report(metrics: dict[str, float]) -> None:
        trial.report(metrics["val_Accuracy"], int(metrics["epoch"]))
        if trial.should_prune():
            raise optuna.TrialPruned

    return train(config.replace(values | _FIXED | {"run_dir": str(run_dir)}), on_epoch=report)["val_Accuracy"]


def _suggest(trial: optuna.Trial, one: SearchRange, current: object) -> float | int | str | None:
    if one.choices:
        return trial.suggest_categorical(one.key, one.choices)
    low, high = _bounds(one, current)
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(one.key, low, high, log=one.log)
    return trial.suggest_float(one.key, low, high, log=one.log)


def _write_results(study: optuna.Study, folder: Path) -> pd.DataFrame:
    table = study.trials_dataframe(attrs=("number", "state", "value", "params"))
    table.columns = [name.removeprefix("params_").replace("value", "val_Accuracy") for name in table.columns]
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, "val_Accuracy"]))).sort_values(
        "val_Accuracy", ascending=False, ignore_index=True
    )
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "trials.csv", index=False)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) > 1:
        draw_importances(get_param_importances(study), len(complete), folder / "importances.png")
    logger.info("Best trials:\n%s\nSee %s for all trials", table.head(10).to_string(index=False), folder)
    if complete:
        best = " ".join(f"{key}={value}" for key, value in study.best_params.items())
        logger.info("Train with the best values: uv run python -m src.mlops.train %s", best)
    return table
