"""Makes records of a prediction log, and a baseline that they agree with, without images or a network."""

import numpy as np
import pandas as pd

from src.mlops.monitoring.baseline import Baseline, Knowledge, Origin
from src.mlops.monitoring.observations import CAMERA, FEATURES
from src.mlops.monitoring.records import Model, observe

CLASSES = 5
MODEL = Model("0123456789ab", "cafe")
CENTRES = np.eye(CLASSES, 8, dtype=np.float32)


def records(count: int, seed: int = 0, shares: list[float] | None = None, seconds: float = 10.0) -> pd.DataFrame:
    """Returns records of clean traffic, `seconds` apart, in the order of time."""
    rng = np.random.default_rng(seed)
    predicted = rng.choice(CLASSES, count, p=shares)
    embedding = (CENTRES[predicted] + rng.normal(0, 0.1, (count, 8))).astype(np.float16)
    start = pd.Timestamp("2026-11-30", tz="UTC")
    return pd.DataFrame(
        {name: rng.normal(predicted, 1, count).astype(np.float32) for name in CAMERA}
        | {
            "time": start + pd.to_timedelta(np.arange(count) * seconds, "s"),
            "model_version": MODEL.version,
            "class_list": MODEL.class_list,
            "predicted_class": predicted,
            "probability": rng.beta(20, 1, count),
            "is_unknown": rng.random(count) < 0.01,
            "energy": rng.normal(-10, 1, count),
            "embedding": pd.Series(list(embedding), dtype=object),
        }
    )


def baseline(count: int = 2000, seed: int = 99) -> Baseline:
    """Returns the baseline of clean traffic."""
    knowledge = Knowledge(
        CENTRES,
        np.eye(CLASSES, dtype=np.float32),
        np.empty(0),
        np.empty((0, len(FEATURES) + 1)),
        np.array(0.0),
    )
    origin = Origin("reference", "2026-11-01T00:00:00Z", "tests", "traffic", *MODEL, [*"abcde"], 0)
    return Baseline.of(observe(records(count, seed), CENTRES, MODEL, 0)[0], origin, knowledge)
