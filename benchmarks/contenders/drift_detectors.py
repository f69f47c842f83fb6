r"""Runs drift detectors of other libraries on the streams that `benchmarks.drift --streams FOLDER` has written.

    uv run --isolated --no-project --python 3.11 --with frouros==0.9.0 \
        python benchmarks/contenders/drift_detectors.py frouros-ks FOLDER

alibi-ks needs `--with alibi-detect==0.13.0`, alibi-mmd `--with 'alibi-detect[torch]==0.13.0'`, and evidently-ks
`--with evidently==0.7.23 --with 'pandas<3'`. The libraries need older versions of NumPy and Pillow than this project,
so each runs in an environment of its own, and this script imports nothing from the project.

Each detector compares the first n images of each stream with the
baseline. Its budget is 1 % per 1,000 windows, divided by the number of features if it tests each of them (Bonferroni);
`lenient` rows have 1 % per window. Prints CSV: detector, shift, strength, images, found, found_lenient.
"""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIZES = (100, 300, 1000)
ERROR_RATE = 0.01  # per 1,000 windows; `lenient`: per window
LOOKS = 1000
STREAMS = 50
PERMUTATIONS = 200  # of the MMD tests; the smallest p-value is about 1 / 200, so they can only be lenient
BASELINE = 1000  # images of the baseline for the MMD tests, whose time grows with the square
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

    detector = MMDDrift(baseline[:BASELINE], backend="pytorch", p_val=ERROR_RATE, n_permutations=PERMUTATIONS)
    return lambda window: max(float(detector.predict(window)["data"]["p_val"]), 1 / PERMUTATIONS)


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
    detector.fit(X=baseline[:BASELINE])
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
    """Prints one row per shift, strength and number of images."""
    baseline = np.load(folder / "baseline.npy").astype(np.float64)
    mean, deviation = baseline.mean(axis=0), baseline.std(axis=0) + 1e-9
    test = DETECTORS[name]((baseline - mean) / deviation)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["detector", "shift", "strength", "images", "found", "found_lenient"])
    for path in sorted(folder.glob("*@*.npy")):
        shift, _, strength = path.stem.partition("@")
        streams = (np.load(path)[:STREAMS].astype(np.float64) - mean) / deviation
        for size in SIZES:
            p = np.array([test(stream[:size]) for stream in streams])
            writer.writerow([name, shift, strength, size, (p < ERROR_RATE / LOOKS).mean(), (p < ERROR_RATE).mean()])
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
