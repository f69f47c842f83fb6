"""Measures on real test images how well networks classify that were trained on drawn signs only.

    uv run python -m benchmarks.synthetic_only synthetic_only --seed 1 --seed 2 --seed 3 data.raw_dir=../shared/gtsrb
    uv run python -m benchmarks.synthetic_only quickstart data.raw_dir=../shared/gtsrb

Trains the named experiments from the drawings to the model, with each seed also as the seed of the drawn images, and
runs each model once on the real test images in `data.raw_dir`. `seconds` covers rendering, packing, training and
export. Writes benchmarks/results/synthetic_only.csv, and synthetic_only_classes.csv with the recall of each class.
"""

import shutil
import time
from typing import Annotated

import typer

from benchmarks.environment import KEPT, Row, in_new_process, names_and_overrides, write_results
from src.mlops.cli import new_app, typer_main
from src.mlops.config import load_config
from src.mlops.data.prepare import prepare
from src.mlops.data.sources import locate_raw
from src.mlops.errors import ConfigError
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.training.train import train

app = new_app()

EXPERIMENTS = ("synthetic_only", "quickstart")


@app.command()
def main(
    words: Annotated[list[str], typer.Argument(help=f"Some of {', '.join(EXPERIMENTS)}; and Hydra overrides.")],
    seed: Annotated[list[int], typer.Option(default_factory=lambda: [42], help="Seed; can be repeated.")],
) -> None:
    """Measures each experiment with each seed in a new process."""
    names, overrides = names_and_overrides(words, EXPERIMENTS, "Experiment")
    if not names:
        raise ConfigError(f"Name at least one experiment: {', '.join(EXPERIMENTS)}.")
    prepare(load_config(overrides).data)  # the real images, before the first training
    for name in names:
        for one in seed:
            row = in_new_process(_measure, name, one, overrides)
            recall = row.pop("recall")
            classes: list[Row] = [{"experiment": name, "seed": one, **entry} for entry in recall]
            write_results("synthetic_only", [row], ("experiment", "seed"))
            write_results("synthetic_only_classes", classes, ("experiment", "seed", "class"))


def _measure(name: str, seed: int, overrides: list[str]) -> Row:
    folder = KEPT / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    own = {"run_dir": "run", "ckpt_path": "best_model.pth", "evaluation.reports_dir": "reports"}
    own |= {"data.raw_dir": "raw", "data.processed_dir": "data"}
    places = [f"{key}='{folder / value}'" for key, value in own.items()]
    config = load_config([f"experiment={name}", *places, f"seed={seed}", f"data.synthetic.seed={seed}"])
    started = time.perf_counter()
    locate_raw(config.data)
    rendered = time.perf_counter()
    best = train(config)
    trained = time.perf_counter()
    real = load_config([*overrides, *(place for place in places if not place.startswith("data."))])
    test = evaluate(real)
    for folder_of_images in ("raw", "data"):
        shutil.rmtree(folder / folder_of_images)
    return {
        "experiment": name,
        "seed": seed,
        "seconds": round(trained - started),
        "seconds_rendering": round(rendered - started),
        "val_accuracy_drawn": round(best["val_Accuracy"], 5),
        "test_accuracy": round(test["Accuracy"], 5),
        "test_wrong": test["errors"],
        "test_images": test["images"],
        "recall": [
            {"class": entry["name"], "images": entry["images"], "recall": round(entry["recall"], 4)}
            for entry in test["classes"]
        ],
    }


if __name__ == "__main__":
    typer_main(app)
