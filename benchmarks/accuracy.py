r"""Measures accuracy, size and cost of the configurations that the documentation compares.

    uv run python -m benchmarks.accuracy default record data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.accuracy record teacher tiny --seed 1 --seed 2 --seed 3 training.precision=bf16 \
        data.raw_dir=../shared/gtsrb

Trains each named configuration with each seed, then evaluates it once on the test images. All settings were chosen on
validation images before. `tiny` learns from the models of `teacher` with the seeds 1 and 2, so train them first.
`ms_per_image` is the median of 200 forward passes of one image in torch, and `ms_per_image_onnx` in ONNX Runtime with
one thread, without decoding. Overrides apply to all configurations. Writes benchmarks/results/accuracy.csv and keeps
the rows of other configurations, seeds and overrides.

Models and reports are in models/benchmarks/NAME-SEED/. The same command continues an interrupted training there. A
finished best_model.pth in that folder is only evaluated, also if another command wrote it, and not even that if its row
exists; `model` is the start of the SHA-256 of the checkpoint. `--again` deletes the folder and starts over.
"""

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.environment import KEPT, Row, in_new_process, names_and_overrides, read_results, write_results
from benchmarks.one_variant import load
from src.mlops.cli import new_app, typer_main
from src.mlops.config import Config, load_config
from src.mlops.errors import ConfigError
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.io.files import sha256
from src.mlops.model import count_parameters
from src.mlops.modelfile.checkpoint import Checkpoint, load_checkpoint
from src.mlops.modelfile.onnx_export import export
from src.mlops.training.run_dir import CONFIG
from src.mlops.training.train import train

app = new_app()

_PATHS = ",".join(f"'{KEPT}/teacher-{seed}/best_model.pth'" for seed in (1, 2))
_TEACHERS = f"training.teachers=[{_PATHS}]"
CONFIGURATIONS = {
    "default": [],
    "teacher": ["experiment=teacher"],
    "record": ["experiment=record"],
    "tiny": ["experiment=tiny", _TEACHERS],
    "efficientnet_lite0": ["model=efficientnet_lite0"],
    "tiny_cnn": ["model=tiny_cnn"],
    "baseline": ["experiment=baseline"],
}
# Settings that decide which model is trained. Of `data` and `training`, not the places and the files that are written.
_SECTIONS = ("seed", "model", "training", "calibration", "data")
_OTHER = ("source", "raw_dir", "raw_url", "processed_url", "processed_dir", "resume", "publish", "export", "profile")


@app.command()
def main(
    words: Annotated[list[str], typer.Argument(help=f"Some of {', '.join(CONFIGURATIONS)}; and Hydra overrides.")],
    seed: Annotated[list[int], typer.Option(default_factory=lambda: [42], help="Seed; can be repeated.")],
    again: Annotated[bool, typer.Option("--again", help="Delete models and train them again.")] = False,
) -> None:
    """Measures each configuration with each seed in new processes."""
    names, overrides = names_and_overrides(words, CONFIGURATIONS, "Configuration")
    runs = [_Run(name, one, [*CONFIGURATIONS[name], *overrides]) for name in names for one in seed]
    _require_teachers(runs)  # before the first training
    if not again:
        for run in runs:
            run.require_same_settings()
    for run in runs:
        if again:
            shutil.rmtree(run.folder, ignore_errors=True)
        elif run.is_measured():
            sys.stderr.write(
                f"Skipped {run.folder.name}: accuracy.csv has its row. --again trains and measures it again.\n"
            )
            continue
        memory = "" if run.model.is_file() else in_new_process(_train, run.config)["peak_memory_mb"]
        row = {**run.key, **in_new_process(_measure, run.config), "peak_memory_mb": memory}
        write_results("accuracy", [row], tuple(run.key))


class _Run:
    """One configuration with one seed, and its folder.

    Attributes:
        key: The columns that identify its row.
        folder: Folder with the run, the model and the reports.
        config: The complete configuration.
        model: The checkpoint. It exists as soon as the training is finished.
    """

    def __init__(self, name: str, seed: int, overrides: list[str]) -> None:
        located = ("data.raw_dir=", "data.processed_dir=", _TEACHERS)
        measured = [one for one in overrides if not one.startswith(located)]
        self.key = {"configuration": name, "seed": str(seed), "overrides": " ".join(measured)}
        self.folder = KEPT / f"{name}-{seed}"
        self.model = self.folder / "best_model.pth"
        own = {
            "run_dir": self.folder / "run",
            "ckpt_path": self.model,
            "evaluation.reports_dir": self.folder / "reports",
        }
        self.config = load_config([*overrides, *(f"{key}='{path}'" for key, path in own.items()), f"seed={seed}"])

    def is_measured(self) -> bool:
        """Returns whether the results have a row of the model, or a row and there is nothing to continue with."""
        for row in read_results("accuracy"):
            if all(row[column] == value for column, value in self.key.items()):
                if self.model.is_file():
                    return row.get("model") == _version(self.model)
                return not _started(self.config)
        return False

    def require_same_settings(self) -> None:
        """Checks a finished or interrupted training in the folder.

        Raises:
            ConfigError: It has other settings.
        """
        if self.model.is_file():
            stored = load_checkpoint(self.model).config
        elif _started(self.config):
            stored = json.loads((self.folder / "run" / CONFIG).read_text() or "{}")  # empty: killed at its start
        else:
            return
        if changed := ", ".join(changed_settings(self.config.to_dict(), stored, load_config([]).to_dict())):
            raise ConfigError(
                f"{self.folder} contains a training with other settings: {changed}. Use the same settings to continue, "
                "move the folder to keep the model, or delete it with --again."
            )


def _require_teachers(runs: Iterable[_Run]) -> None:
    """Checks that each teacher exists or is trained before its student.

    Raises:
        ConfigError: A teacher is missing.
    """
    earlier: set[Path] = set()
    for run in runs:
        for teacher in run.config.training.teachers:
            if not teacher.is_file() and teacher not in earlier:
                raise ConfigError(
                    f"{run.folder.name} learns from {teacher}, which does not exist. Train the teachers first: "
                    "`python -m benchmarks.accuracy teacher --seed 1 --seed 2`, with the same overrides."
                )
        earlier.add(run.model)


def changed_settings(
    wanted: Mapping[str, Any], stored: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[str]:
    """Yields the dotted keys of settings by which two configurations train different models.

    Args:
        wanted: A complete configuration.
        stored: The configuration of an earlier training, perhaps by a version with fewer settings.
        defaults: The values that such a version is assumed to have had for settings that it lacks.
    """
    for section in _SECTIONS:
        if section in stored:
            yield from _differences(section, wanted[section], stored[section], defaults[section])


def _differences(key: str, wanted: Any, stored: Any, default: Any) -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(stored, dict):
        known = default if isinstance(default, dict) else {}
        for name in [*wanted, *(stored.keys() - wanted.keys())]:
            if name not in _OTHER:
                values = wanted.get(name), stored.get(name, known.get(name)), known.get(name)
                yield from _differences(f"{key}.{name}", *values)
    elif key == "training.batch_size" and wanted is None:
        return  # a training stores the size that it chose
    elif wanted != stored:
        yield key


def _started(config: Config) -> bool:
    return config.run_dir is not None and (config.run_dir / CONFIG).is_file()


def _version(model: Path) -> str:
    return sha256(model)[:12]


def _train(config: Config) -> Row:
    config.ckpt_path.with_suffix(".onnx").unlink(missing_ok=True)  # of a model that was deleted
    train(config.replace({"training.resume": _started(config)}))
    return {}


def _measure(config: Config) -> Row:
    checkpoint = load_checkpoint(config.ckpt_path)
    exported = config.ckpt_path.with_suffix(".onnx")
    if not exported.is_file():
        export(config.ckpt_path, opset=config.export.opset)
    onnx = load("ONNX Runtime", exported, threads=1)
    test = evaluate(config)
    epochs = checkpoint.history
    image = _image(checkpoint)
    with torch.inference_mode():
        torch_ms = median_milliseconds(lambda: checkpoint.model(image))
    return {
        "model": _version(config.ckpt_path),
        "image_size": checkpoint.image_size,
        "val_accuracy": round(checkpoint.metrics["val_Accuracy"], 5),
        "test_accuracy": round(test["Accuracy"], 5),
        "test_wrong": test["errors"],
        "test_images": test["images"],
        "test_f1": round(test["F1"], 4),
        "test_calibration_error": round(test["expected_calibration_error"], 4),
        "parameters": count_parameters(checkpoint.model),
        "mmac": round(count_macs(checkpoint) / 1e6, 1),
        "ms_per_image": round(torch_ms, 2),
        "ms_per_image_onnx": round(median_milliseconds(lambda: onnx(image.numpy())), 3),
        "epochs": len(epochs),
        "seconds_per_epoch": round(epochs[-1]["seconds"] / len(epochs), 1) if epochs else "",
    }


def _image(checkpoint: Checkpoint) -> torch.Tensor:
    side = checkpoint.image_size
    return torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)


def count_macs(checkpoint: Checkpoint) -> float:
    """Counts the MACs of convolutions and linear layers for one image."""
    with FlopCounterMode(display=False) as counter:
        checkpoint.model(_image(checkpoint))
    return float(counter.get_total_flops()) / 2


def median_milliseconds(run: Callable[[], object]) -> float:
    """Returns the median time of 200 calls in ms, after 20 calls that are not counted."""
    times = []
    for _ in range(220):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[20:])


if __name__ == "__main__":
    typer_main(app)
