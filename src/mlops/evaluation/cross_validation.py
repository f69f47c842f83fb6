"""Estimates the accuracy of settings by cross-validation, and compares two configurations: `inv cross-validate`.

One split by track cannot rank settings if a few physical signs cause most errors. Here, each training and validation
image is classified once per seed, by a model that was trained without any image of its track. Test images and the
reference split are not used.
"""

import logging
import math
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from src.mlops import ROOT
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import Config, load_config
from src.mlops.data.additional import classes_to_learn, prepare_training
from src.mlops.data.checks import merge_tracks
from src.mlops.data.packing import Pack, SplitArrays, without
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, DataError, shorten
from src.mlops.evaluation.folds import classes_in_one_fold, classify_folds, divide, load_folds, of_fold
from src.mlops.io.files import to_json, write_atomically
from src.mlops.model import choose_device
from src.mlops.training.fit import require_known_classes, require_trainable
from src.mlops.training.run_dir import require_writable

logger = logging.getLogger("src.mlops.evaluation.cross_validation")
RESULTS_FILE = "cross_validation.json"
_NAMES = ("first", "second")

app = new_app()


@app.command("cross-validate")
def main(
    overrides: Overrides,
    other: Annotated[
        list[str],
        typer.Option(
            default_factory=list,
            show_default=False,
            help="A further override of a second configuration, to compare with the first; may be given several times.",
        ),
    ],
    seeds: Annotated[int, typer.Option(help="Trainings of each fold: with seed, seed + 1 and so on.")] = 1,
) -> None:
    """Estimates the accuracy of settings by cross-validation, and compares two configurations."""
    cross_validate(load_config(overrides), load_config([*overrides, *other]) if other else None, seeds)


def cross_validate(config: Config, other: Config | None = None, seeds: int = 1) -> dict[str, Any]:
    """Trains and measures one or two configurations on the same folds, and writes and prints the results.

    Args:
        config: `data` says where the images are, and `data.split.seed` how they are divided into folds; `model` and
            `training` how each model is trained. `run_dir` is the folder for the results of finished folds; null:
            `models/cross_validation`.
        other: The configuration to compare with the first.
        seeds: Number of trainings of each fold, with `seed`, `seed` + 1 and so on. The folds stay the same.

    Returns:
        The content of `cross_validation.json`: `images`, `tracks`, `folds`; `changed`, the settings that differ, with
        both values; for each of the `configurations`, its `settings`, `seeds` and the result of `summarise`; and the
        `difference` between them, the result of `compare`, or None.

    Raises:
        ConfigError: A setting cannot be used, or the two configurations cannot be compared.
        DataError: There are too few images, or a file cannot be written.
        TrainingError: The loss is not finite.
    """
    configs = [config] if other is None else [config, other]
    changed = _changed(config, other) if other else {}
    if other and not changed:
        raise ConfigError(
            "The second configuration has the settings of the first, so there is nothing to compare. Change a setting "
            "of the training with --other, such as --other training.epochs=30."
        )
    for one in configs:
        _require_usable(one, seeds)
    if any(one.training.teachers for one in configs):
        logger.warning(
            "A teacher that was trained on images of these folds passes on some of what it learned, so the accuracy "
            "with training.teachers can be too high. Compare it only with that of other settings with these teachers"
        )
    require_writable(config.evaluation.reports_dir)
    divided = [_divide(one) for one in configs]
    _require_same_folds(divided)
    numbers, tracks = divided[0].numbers, divided[0].tracks
    _warn_about_single_tracks(divided[0])
    wrong = [_classify_wrongly(*one, seeds) for one in zip(configs, divided, strict=True)]
    results = {
        "images": len(numbers),
        "tracks": len(np.unique(tracks)),
        "folds": len(np.unique(numbers)),
        "changed": changed,
        "configurations": [
            {"settings": _settings(one), "seeds": [*_seeds(one, seeds)], **summarise(found, numbers)}
            for one, found in zip(configs, wrong, strict=True)
        ],
        "difference": compare(wrong[0], wrong[1], numbers, tracks) if other else None,
    }
    file = config.evaluation.reports_dir / RESULTS_FILE
    try:
        write_atomically(file, f"{to_json(results, indent=2)}\n".encode())
    except OSError as error:
        raise DataError(f"Cannot write {file}: {error}. The same command reuses the finished trainings.") from error
    _show(results)
    logger.info("Wrote %s", file)
    return results


def summarise(wrong: NDArray[np.bool_], numbers: NDArray[np.int64]) -> dict[str, Any]:
    """Returns the accuracy of a configuration and its standard error.

    Each fold counts equally. The accuracy of a fold is first averaged over the seeds, because only the folds have
    different images. The standard error of the mean over K folds is s / sqrt(K), s being the standard deviation with
    K - 1 in the denominator. It is an approximation, and tends to be too small, because the trainings share images:
    there is no unbiased estimator of the variance of a cross-validation (Bengio and Grandvalet 2004, JMLR 5).

    Args:
        wrong: Whether each image is misclassified with each seed, bool [S, N].
        numbers: The fold of each image, int64 [N], at least two.

    Returns:
        `accuracy` and `standard_error`; `wrong`, the number of misclassified images for each seed; and `results`, for
        each seed a list with the `images`, `wrong` images and `accuracy` of each fold.
    """
    sizes = np.bincount(numbers)
    by_fold = [np.bincount(numbers, weights=one).astype(int) for one in wrong]
    accuracies = [1 - found / sizes for found in by_fold]
    mean, error = _mean_and_error(np.array(accuracies))
    return {
        "accuracy": mean,
        "standard_error": error,
        "wrong": [int(found.sum()) for found in by_fold],
        "results": [
            [
                {"images": int(size), "wrong": int(count), "accuracy": float(accuracy)}
                for size, count, accuracy in zip(sizes, *one, strict=True)
            ]
            for one in zip(by_fold, accuracies, strict=True)
        ],
    }


def compare(
    first: NDArray[np.bool_], second: NDArray[np.bool_], numbers: NDArray[np.int64], tracks: NDArray[np.int64]
) -> dict[str, Any]:
    """Compares two configurations fold by fold and seed by seed.

    Both were trained and measured on the same folds, so a fold that is difficult for both does not add to the error of
    the difference. Its mean and standard error are calculated as in `summarise`.

    Args:
        first: Whether each image is misclassified with each seed, bool [S, N].
        second: The same for the second configuration.
        numbers: The fold of each image, int64 [N], at least two.
        tracks: The track of each image, int64 [N].

    Returns:
        `accuracy`, that of the second minus that of the first, and its `standard_error`; `by_fold`, the differences
        for each seed and fold; and for the images that only the first or only the second misclassifies
        (`only_first_wrong`, `only_second_wrong`), their number for each seed (`images`), and the number of tracks that
        any of them is from (`tracks`), because the images of a track are not independent.
    """
    gains = first.astype(np.int64) - second  # 1 where only the second is right
    differences = np.array([np.bincount(numbers, weights=one) for one in gains]) / np.bincount(numbers)
    mean, error = _mean_and_error(differences)
    only = {"only_first_wrong": first & ~second, "only_second_wrong": second & ~first}
    return {
        "accuracy": mean,
        "standard_error": error,
        "by_fold": differences.tolist(),
        **{
            name: {"images": found.sum(axis=1).tolist(), "tracks": len(np.unique(tracks[found.any(axis=0)]))}
            for name, found in only.items()
        },
    }


def _mean_and_error(values: NDArray[np.floating]) -> tuple[float, float]:
    """Returns the mean of values [S, K] and its standard error over the K folds."""
    by_fold = values.mean(axis=0)
    return float(by_fold.mean()), float(by_fold.std(ddof=1) / math.sqrt(len(by_fold)))


class _Divided(NamedTuple):
    """The images of a configuration, with the track and the fold of each, int64 [N]."""

    pack: Pack
    arrays: SplitArrays
    tracks: NDArray[np.int64]
    numbers: NDArray[np.int64]


def _divide(config: Config) -> _Divided:
    pack = prepare(config.data)
    require_known_classes(config, classes_to_learn(pack.classes, config.training.drawn))
    arrays = without(pack.load("train", "val"), config.training.leave_out)
    tracks = merge_tracks(pack.index().loc[arrays.rows]).to_numpy()
    return _Divided(pack, arrays, tracks, divide(arrays.labels, tracks, config.data.split.seed))


def _require_usable(config: Config, seeds: int) -> None:
    """Raises an error, before hours of training, if settings cannot be used."""
    if seeds < 1:
        raise ConfigError(f"--seeds must be 1 or more, but is {seeds}.")
    config.replace({"seed": config.seed + seeds - 1})  # raises for a number above the largest seed
    if config.training.start_from:
        raise ConfigError(
            f"training.start_from must be null for a cross-validation, but is {config.training.start_from}. That model "
            "was trained on images of each fold, so the accuracy would be too high."
        )
    require_trainable(of_fold(config))


def _require_same_folds(divided: list[_Divided]) -> None:
    """Raises an error if the configurations do not have the same images in the same folds."""
    first, last = divided[0], divided[-1]
    same = first.arrays.hashes == last.arrays.hashes and all(
        np.array_equal(a, b) for a, b in ((first.arrays.labels, last.arrays.labels), (first.numbers, last.numbers))
    )
    if not same:
        raise ConfigError(
            "The two configurations cannot be compared fold by fold, because they do not have the same images in the "
            f"same folds ({len(first.numbers):,} and {len(last.numbers):,} images). Only settings that do not select "
            "images may differ: give data.raw_dir, data.split, data.exclude and training.leave_out to both, not with "
            "--other."
        )


def _warn_about_single_tracks(divided: _Divided) -> None:
    if alone := classes_in_one_fold(divided.arrays.labels, divided.numbers):
        logger.warning(
            "%d classes have images in one fold only, for example %s. No model has learned these images when it "
            "classifies them, so they count as misclassified unless drawn or collected images show these classes",
            len(alone),
            divided.pack.classes[alone[0]].name,
        )


def _classify_wrongly(config: Config, divided: _Divided, seeds: int) -> NDArray[np.bool_]:
    """Trains the models of all folds and seeds; returns which images they misclassify, bool [S, N]."""
    folds = load_folds(prepare_training(config, divided.pack), divided.arrays, divided.numbers)
    device = choose_device(config.device)
    folder = config.run_dir or ROOT / "models" / "cross_validation"
    wrong = []
    for seed in _seeds(config, seeds):
        logits = classify_folds(config.model_copy(update={"seed": seed}), folds, device, folder)
        wrong.append(logits.argmax(axis=1) != divided.arrays.labels)
        logger.info("Seed %d: %d of %s images misclassified", seed, wrong[-1].sum(), f"{len(wrong[-1]):,}")
    return np.array(wrong)


def _seeds(config: Config, count: int) -> range:
    return range(config.seed, config.seed + count)


def _settings(config: Config) -> dict[str, Any]:
    """Returns the settings that the results depend on."""
    kept = of_fold(config).to_dict()
    return {section: kept[section] for section in ("data", "model", "training")}


def _changed(first: Config, second: Config) -> dict[str, list[Any]]:
    """Returns the settings whose values differ, and both values, except for places of files."""
    flat = [dict(_leaves({**_settings(one), "seed": one.seed})) for one in (first, second)]
    keys = [key for key in flat[0] | flat[1] if key not in ("data.processed_dir", "data.processed_url")]
    both = {key: [one.get(key) for one in flat] for key in keys}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def _leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(results: dict[str, Any]) -> None:
    console = Console(highlight=False, markup=False)
    configurations, difference = results["configurations"], results["difference"]
    console.print(f"{results['images']:,} images of {results['tracks']:,} tracks in {results['folds']} folds")
    table = Table("", "seeds", "accuracy, %\n± standard error", "misclassified")
    for place, (name, one) in enumerate(zip(_NAMES, configurations, strict=False)):
        if difference:
            values = (f"{key}={shorten(values[place])}" for key, values in results["changed"].items())
            console.print(f"{name}: {' '.join(values)}", soft_wrap=True)
        table.add_row(name if difference else "all folds", _listed(one["seeds"]), _percent(one), _listed(one["wrong"]))
    if difference:
        only = [difference[f"only_{name}_wrong"] for name in _NAMES]
        counts = [
            f"only {name}: {_listed(found['images'])} ({found['tracks']} tracks)"
            for name, found in zip(_NAMES, only, strict=True)
        ]
        table.add_row("difference", "", _percent(difference, sign="+"), "\n".join(counts))
    console.print(table)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _percent(result: dict[str, Any], sign: str = "") -> str:
    return f"{100 * result['accuracy']:{sign}.3f} ± {100 * result['standard_error']:.3f}"


if __name__ == "__main__":
    typer_main(app)
