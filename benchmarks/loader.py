"""Images per second of two ways to make augmented training batches, and their memory.

    uv run python -m benchmarks.loader data.raw_dir=../shared/gtsrb

(a) What most projects do: a Dataset that opens each file with Pillow and transforms it with torchvision, behind a
DataLoader with 0 and 2 workers. (b) This project's packed arrays and augmentation of whole batches, alone and with a
training step on each batch, all on the CPU. Both make 128 shuffled images of 48 px, changed equally strongly; (b) also
mirrors them and shifts their white balance. Files and arrays are in the page cache. Five trials, taking turns; the
median counts.

Then an epoch of (b) alone in a fresh process, with the pack as it is and repeated 10 and 100 times on disk (of the last
a tenth of an epoch), to see how the cost grows; 100 times needs 32 GB of disk, and `--repeat 1 10` leaves it out.
`grown_mb` is what the resident set grew by at most, `of_that_mapped_mb` (Linux) pages of the mapped file, which the
system drops when it needs the memory. Writes benchmarks/results/loader.csv.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch

from benchmarks.baseline import Batch, ImageFiles, data_loader
from benchmarks.environment import Row, command_line, in_new_process, parse, write_results
from src.mlops.config import Config, load_config
from src.mlops.data.augment import augment
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import IMAGES, INDEX, Pack
from src.mlops.data.prepare import prepare
from src.mlops.loop import State, train_step
from src.mlops.model import build_model
from src.mlops.progress import ProgressBar

TRIALS = 5
WARMUP = 3  # batches before the clock starts
BATCHES = {
    "packed": 150,
    "packed, trained on": 24,
    "pillow": 12,
    "pillow, 2 workers": 24,
}  # measured in each trial: some seconds
Source = Callable[[], Iterator[Batch]]


def main(words: list[str]) -> None:
    """Measures speed in turns, then memory and growth, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader")
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 10, 100])
    options, overrides = parse(parser, words)
    config = load_config(overrides)
    pack = prepare(config.data)
    size = config.training.batch_size
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
    for repeat in options.repeat:
        with tempfile.TemporaryDirectory(dir=pack.directory.parent) as folder:
            repeated = pack if repeat == 1 else _repeat(pack, Path(folder), repeat)
            row = in_new_process(_epoch, overrides, repeated, repeat)
        row.pop("peak_memory_mb")
        row = {"loader": "packed, one epoch", "repeated": repeat, "trials": 1, **row}
        write_results("loader", [row], ("loader", "repeated"))


def _rates(config: Config, pack: Pack) -> dict[str, list[float]]:
    """Measures images per second of each loader, in turns."""
    size = pack.image_size
    files = ImageFiles(config, pack, "train", size)
    sources: dict[str, Source] = {
        "packed": lambda: _packed(config, pack),
        "packed, trained on": lambda: _trained_on(config, pack),
        "pillow": lambda: iter(data_loader(files, config.training.batch_size, workers=0)),
        "pillow, 2 workers": lambda: iter(data_loader(files, config.training.batch_size, workers=2)),
    }
    rates: dict[str, list[float]] = {name: [] for name in sources}
    with ProgressBar("taking turns", TRIALS * len(sources)) as bar:
        for done in range(TRIALS * len(sources)):
            name = list(sources)[done % len(sources)]
            batches = sources[name]()
            for _ in islice(batches, WARMUP):
                pass
            started = time.perf_counter()
            images = sum(len(labels) for _, labels in islice(batches, BATCHES[name]))
            rates[name].append(images / (time.perf_counter() - started))
            del batches  # ends its workers
            bar.show(done + 1, f"{name}: {rates[name][-1]:,.0f} images/s")
    return rates


def _packed(config: Config, pack: Pack) -> Iterator[Batch]:
    batches = Batches(pack.load("train"), config.training.batch_size, seed=config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    for images, labels in batches.epoch(0):
        yield augment(images, labels, config.training.augmentation, generator, pack.image_size)


def _trained_on(config: Config, pack: Pack) -> Iterator[Batch]:
    """Trains on each batch, so that what making it costs can be seen in proportion."""
    model = build_model(config.model).to(memory_format=torch.channels_last)
    state = State(config, model, steps_per_epoch=1000, data_fingerprint="")
    state.start_epoch()
    for images, labels in _packed(config, pack):
        train_step(state, images, labels)
        yield images, labels


def _repeat(pack: Pack, folder: Path, times: int) -> Pack:
    """Writes a pack with all images so many times over, as a real set of that size would lie on the disk."""
    index = pd.read_csv(pack.directory / INDEX)
    pd.concat([index] * times).to_csv(folder / INDEX, index=False)
    source = np.load(pack.directory / IMAGES, mmap_mode="r")
    target = np.lib.format.open_memmap(
        folder / IMAGES, mode="w+", dtype=source.dtype, shape=(len(source) * times, *source.shape[1:])
    )
    for number in range(times):
        target[number * len(source) : (number + 1) * len(source)] = source
    target.flush()
    return Pack(folder, pack.manifest)


def _epoch(overrides: list[str], pack: Pack, repeated: int) -> Row:
    """Opens a pack and goes through an epoch of it, or the tenth part of one of 100 times the images."""
    config = load_config(overrides)
    size = config.training.batch_size
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
    command_line(main)
