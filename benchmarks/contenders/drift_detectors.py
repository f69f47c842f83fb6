r"""Runs drift detectors of other libraries on the streams that `benchmarks.drift --streams FOLDER` has written.

    uv run --isolated --no-project --python 3.11 --with frouros==0.9.0 \
        python benchmarks/contenders/drift_detectors.py frouros-ks FOLDER > FOLDER/frouros-ks.csv

The names are the keys of `DETECTORS`. They need:

- frouros-ks, frouros-mmd, and scipy-ks, which is no library for drift: `--with frouros==0.9.0`
- alibi-ks: `--with alibi-detect==0.13.0`
- alibi-mmd: `--with alibi-detect==0.13.0 --with tensorflow-cpu==2.14.1 --with tensorflow-probability==0.22.1`
  `--with 'tf-keras<2.16'` (PyTorch would come with 5 GB of CUDA)
- evidently-ks: `--with evidently==0.7.23 --with 'pandas<3'`

The libraries need older versions of NumPy and Pillow than this project, so each runs in an environment of its own, and
this script imports nothing from the project. `benchmarks.drift_contenders` compares the results.

Each detector compares the first n images of each stream, and the last n images after every 100 images of runs of clean
traffic, with the baseline. Its budget is 1 % per 1,000 windows, divided by the number of features if it tests each of
them (Bonferroni). With the budget `lenient` it is 1 % per window. Prints CSV.
"""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIZES = (100, 300, 1000)
EVERY = 100
ERROR_RATE = 0.01
BUDGETS = {"1 % per 1,000 windows": ERROR_RATE / 1000, "1 % per window": ERROR_RATE}
# The MMD tests draw permutations, so they take seconds for a window, and their p-values are at least 1 / PERMUTATIONS:
# they can only have the lenient budget. They see fewer shifts and streams, and no runs.
PERMUTATIONS = 200
MMD_BASELINE = 500  # images; the time grows with the square
MMD_STREAMS = 10
MMD_SIZES = (100, 300)
MMD_SHIFTS = (
    "clean@0", "blur@1", "blur@3", "JPEG@1", "JPEG@3", "fog@1", "dark@1", "noise@1", "mix three classes@0.2",
    "mix all classes@0.2", "unknown drawn@0.1",
)  # fmt: skip
COLUMNS = ("detector", "budget", "shift", "strength", "images", "windows", "found", "runs", "runs_with_alarm")
Test = Callable[[np.ndarray], float]  # window [n, F] -> p-value, already corrected for the number of features


def _scipy_ks(baseline: np.ndarray) -> Test:
    from scipy.stats import ks_2samp

    columns = [np.sort(column) for column in baseline.T]
    return lambda window: (
        len(columns)
        * min(ks_2samp(values, column, method="asymp").pvalue for values, column in zip(window.T, columns, strict=True))
    )


def _alibi_ks(baseline: np.ndarray) -> Test:
    from alibi_detect.cd import KSDrift

    detector = KSDrift(baseline, p_val=ERROR_RATE)
    return lambda window: baseline.shape[1] * float(detector.predict(window)["data"]["p_val"].min())


def _alibi_mmd(baseline: np.ndarray) -> Test:
    from alibi_detect.cd import MMDDrift

    detector = MMDDrift(
        baseline[:MMD_BASELINE].astype(np.float32), backend="tensorflow", p_val=ERROR_RATE, n_permutations=PERMUTATIONS
    )
    return lambda window: max(float(detector.predict(window.astype(np.float32))["data"]["p_val"]), 1 / PERMUTATIONS)


def _frouros_ks(baseline: np.ndarray) -> Test:
    from frouros.detectors.data_drift import KSTest

    detectors = []
    for column in baseline.T:
        detector = KSTest()
        detector.fit(X=column)
        detectors.append(detector)
    return lambda window: (
        len(detectors)
        * min(
            float(detector.compare(X=values)[0].p_value) for detector, values in zip(detectors, window.T, strict=True)
        )
    )


def _frouros_mmd(baseline: np.ndarray) -> Test:
    from frouros.callbacks import PermutationTestDistanceBased
    from frouros.detectors.data_drift import MMD

    test = PermutationTestDistanceBased(num_permutations=PERMUTATIONS, random_state=0, num_jobs=1, name="test")
    detector = MMD(callbacks=[test])
    detector.fit(X=baseline[:MMD_BASELINE])
    return lambda window: max(float(detector.compare(X=window)[1]["test"]["p_value"]), 1 / PERMUTATIONS)


def _evidently_ks(baseline: np.ndarray) -> Test:
    import pandas as pd
    from evidently.legacy.calculations.stattests import ks_stat_test
    from evidently.legacy.core import ColumnType

    columns = [pd.Series(column) for column in baseline.T]
    return lambda window: (
        len(columns)
        * min(
            float(ks_stat_test(column, pd.Series(values), ColumnType.Numerical, ERROR_RATE).drift_score)
            for column, values in zip(columns, window.T, strict=True)
        )
    )


DETECTORS = {
    "scipy-ks": _scipy_ks,
    "alibi-ks": _alibi_ks,
    "alibi-mmd": _alibi_mmd,
    "frouros-ks": _frouros_ks,
    "frouros-mmd": _frouros_mmd,
    "evidently-ks": _evidently_ks,
}


def main(name: str, folder: Path) -> None:
    """Prints a row per budget, shift, strength and number of images."""
    mmd = name.endswith("mmd")
    writer = csv.DictWriter(sys.stdout, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()

    def write(shift: str, strength: str, size: int, p: np.ndarray) -> None:
        for budget, limit in BUDGETS.items():
            if not mmd or limit > 1 / PERMUTATIONS:
                row = {"detector": name, "budget": budget, "shift": shift, "strength": strength, "images": size}
                found = {"windows": p.size, "found": float((p < limit).mean())}
                runs = {"runs": len(p), "runs_with_alarm": float((p < limit).any(axis=1).mean())} if p.ndim == 2 else {}
                writer.writerow(row | found | runs)
        sys.stdout.flush()

    baseline = np.load(folder / "baseline.npy").astype(np.float64)
    test = _scaled(name, baseline)
    for path in sorted(folder.glob("*@*.npy")):
        if not mmd or path.stem in MMD_SHIFTS:
            shift, _, strength = path.stem.partition("@")
            streams = np.load(path)[: MMD_STREAMS if mmd else None]
            for size in MMD_SIZES if mmd else SIZES:
                write(shift, strength, size, np.array([test(stream[:size]) for stream in streams]))
    if mmd:
        return
    p = [_looks(name, path) for path in sorted(folder.glob("run-*.npz"))]
    for place, size in enumerate(SIZES):
        write("clean run", "0", size, np.array([run[place] for run in p]))


def _scaled(name: str, baseline: np.ndarray) -> Test:
    """Returns a test of windows, which are scaled like the baseline."""
    mean, deviation = baseline.mean(axis=0), baseline.std(axis=0) + 1e-9
    test = DETECTORS[name]((baseline - mean) / deviation)
    return lambda window: test((window.astype(np.float64) - mean) / deviation)


def _looks(name: str, path: Path) -> np.ndarray:
    """Returns the p-value of each look at a run of clean traffic, float [sizes, looks]."""
    with np.load(path) as run:
        test, stream = _scaled(name, run["baseline"].astype(np.float64)), run["stream"]
    ends = range(max(SIZES), len(stream) + 1, EVERY)
    return np.array([[test(stream[end - size : end]) for end in ends] for size in SIZES])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
