"""Measures images per second and memory of two methods of data loading for training.

    uv run python -m benchmarks.loader data.raw_dir=../shared/gtsrb

(a) The usual method: a Dataset opens each file with Pillow and transforms it with torchvision, and a DataLoader with 0
and 2 workers builds batches. (b) The method of this project: packed arrays, and augmentation of complete batches. (b)
is also measured together with a training step on each batch. All run on the CPU and produce batches of 128 shuffled
images of 48 px, with augmentation of the same strength; only (b) mirrors signs and shifts the white balance. Files and
arrays are in the page cache. The methods alternate in five trials; results are medians.

Then an epoch of (b) runs in a new process, with the original pack and with its images repeated 10 and 100 times on
disk (for 100 times, a tenth of an epoch), which shows how the cost depends on the number of images. 100 times needs
32 GB of disk space; `--repeat 1 --repeat 10` skips it. `grown_mb` is the peak growth of the RSS.
`of_that_mapped_mb` (Linux) is the part of it that consists of pages of the mapped file, which the system can reclaim
at any time. Writes benchmarks/results/loader.csv.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import psutil
import torch
import typer

from benchmarks.baseline import Batch, ImageFiles, data_loader
from benchmarks.environment import Row, in_new_process, write_results
from src.mlops.cli import Overrides, new_app, typer_main
from src.mlops.config import Config, load_config
from src.mlops.data.augment import augment
from src.mlops.data.classes import CLASSES_FILE
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import IMAGES, INDEX, Pack
from src.mlops.data.prepare import prepare
from src.mlops.io.progress import progress_bar
from src.mlops.model import build_model
from src.mlops.training.train_loop import State, train_step

app = new_app()

TRIALS = 5
WARMUP = 3  # batches before the measurement
BATCHES = {
    "packed": 150,
    "packed + training step": 24,
    "pillow": 12,
    "pillow, 2 workers": 24,
}  # number of batches in each trial, for a few seconds of measurement
Source = Callable[[], Iterator[Batch]]


@app.command()
def main(
    overrides: Overrides,
    repeat: Annotated[
        list[int],
        typer.Option(default_factory=lambda: [1, 10, 100], help="Repetitions of the images; can be repeated."),
    ],
) -> None:
    """Measures the speed of the methods alternately, then memory and scaling in new processes."""
    config = load_config(overrides)
    pack = prepare(config.data)
    size = config.training.batch_size_for(len(pack.load("train").rows))
    rows: list[Row] = []
    for name, rates in _rates(config, pack).items():
        rate = statistics.median(rates)
        row = {"loader": name, "repeated": 1, "trials": TRIALS, "images": len(pack.load("train").rows)}
        row |= {
            "images_per_second": round(rate),
            "slowest": round(min(rates)),
            "ms_per_batch": round(1e3 * size / rate, 2),
        }
        rows.append(row | {"seconds_to_open": "", "grown_mb": "", "of_that_mapped_mb": ""})
    write_results("loader", rows, ("loader", "repeated"))
    for times in repeat:
        with tempfile.TemporaryDirectory(dir=pack.directory.parent) as folder:
            repeated = pack if times == 1 else _repeat(pack, Path(folder), times)
            row = in_new_process(_epoch, overrides, repeated, times)
        row.pop("peak_memory_mb")
        row = {"loader": "packed, one epoch", "repeated": times, "trials": 1, **row}
        write_results("loader", [row], ("loader", "repeated"))


def _rates(config: Config, pack: Pack) -> dict[str, list[float]]:
    """Measures the images per second of each loader alternately. Returns one value per trial."""
    size = pack.image_size
    files = ImageFiles(config, pack, "train", size)
    sources: dict[str, Source] = {
        "packed": lambda: _packed(config, pack),
        "packed + training step": lambda: _trained_on(config, pack),
        "pillow": lambda: iter(data_loader(files, config.training.batch_size_for(len(files)), workers=0)),
        "pillow, 2 workers": lambda: iter(data_loader(files, config.training.batch_size_for(len(files)), workers=2)),
    }
    rates: dict[str, list[float]] = {name: [] for name in sources}
    with progress_bar("trials", TRIALS * len(sources)) as bar:
        for done in range(TRIALS * len(sources)):
            name = list(sources)[done % len(sources)]
            batches = sources[name]()
            for _ in islice(batches, WARMUP):
                pass
            started = time.perf_counter()
            images = sum(len(labels) for _, labels in islice(batches, BATCHES[name]))
            rates[name].append(images / (time.perf_counter() - started))
            del batches  # stops its workers
            bar.update()
    return rates


def _packed(config: Config, pack: Pack) -> Iterator[Batch]:
    arrays = pack.load("train")
    batches = Batches(arrays, config.training.batch_size_for(len(arrays.rows)), seed=config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    mirrors = torch.tensor(pack.classes.mirrors)
    for images, labels in batches.epoch(0):
        yield augment(images, labels, config.training.augmentation, generator, pack.image_size, mirrors)


def _trained_on(config: Config, pack: Pack) -> Iterator[Batch]:
    """Trains on each batch, which shows the fraction of a training step that is spent on data loading."""
    model = build_model(config.model, len(pack.classes)).to(memory_format=torch.channels_last)
    state = State(config, model, steps_per_epoch=1000, data_fingerprint="", classes=pack.classes)
    state.start_epoch()
    for images, labels in _packed(config, pack):
        train_step(state, images, labels)
        yield images, labels


def _repeat(pack: Pack, folder: Path, times: int) -> Pack:
    """Writes a pack that repeats all images on disk, like a real data set of that size."""
    index = pd.read_csv(pack.directory / INDEX)
    pd.concat([index] * times).to_csv(folder / INDEX, index=False)
    source = np.load(pack.directory / IMAGES, mmap_mode="r")
    target = np.lib.format.open_memmap(
        folder / IMAGES, mode="w+", dtype=source.dtype, shape=(len(source) * times, *source.shape[1:])
    )
    for number in range(times):
        target[number * len(source) : (number + 1) * len(source)] = source
    target.flush()
    pack.classes.write(folder / CLASSES_FILE)
    return Pack(folder, pack.manifest)


def _epoch(overrides: list[str], pack: Pack, repeated: int) -> Row:
    """Opens a pack and loads one epoch, or a tenth of an epoch if the images are repeated more than 10 times."""
    config = load_config(overrides)
    size = config.training.batch_size_for(len(pack.load("train").rows))
    process = psutil.Process()
    before = most = process.memory_info()
    started = time.perf_counter()
    batches = _packed(config, pack)
    next(batches)
    opening = time.perf_counter() - started
    total = len(pack.load("train").rows)
    started = time.perf_counter()
    images = 0
    for _, labels in islice(batches, total // size // (10 if repeated > 10 else 1)):
        images += len(labels)
        most = max(most, process.memory_info(), key=lambda memory: memory.rss)
    rate = images / (time.perf_counter() - started)
    return {
        "images": total,
        "images_per_second": round(rate),
        "slowest": "",
        "ms_per_batch": round(1e3 * size / rate, 2),
        "seconds_to_open": round(opening, 2),
        "grown_mb": round((most.rss - before.rss) / 1e6),
        "of_that_mapped_mb": round((most.shared - before.shared) / 1e6) if sys.platform == "linux" else "",
    }


if __name__ == "__main__":
    typer_main(app)
