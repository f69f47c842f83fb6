"""Makes records of a prediction log, and a baseline that they agree with, without images or a network."""

import base64
from pathlib import Path

import numpy as np
import onnx
import pandas as pd

from src.mlops import ROOT
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import to_json
from src.mlops.modelfile.locate import BUNDLED
from src.mlops.modelfile.metadata import REFERENCE
from src.mlops.monitoring.baseline import Baseline, Knowledge, Origin
from src.mlops.monitoring.observations import CAMERA, FEATURES
from src.mlops.monitoring.records import Model, observe
from src.mlops.monitoring.schema import SCHEMA_VERSION
from src.mlops.monitoring.segments import CLOSED, RECORDS, pack_lines
from tests.helpers.graphs import rewritten

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


def write_model(path: Path, reference: Baseline | None) -> Model:
    """Writes the bundled model with another reference, or without one. Returns what its records state."""

    def change(graph: onnx.ModelProto) -> None:
        kept = {entry.key: entry.value for entry in graph.metadata_props if entry.key != REFERENCE}
        if reference:
            kept[REFERENCE] = to_json(base64.b64encode(reference.to_bytes()).decode())
        onnx.helper.set_model_props(graph, kept)

    rewritten(ROOT / BUNDLED, path, change)
    return MODEL._replace(version=Classifier.load(path).version)


def write_log(folder: Path, frame: pd.DataFrame, model: Model) -> str:
    """Writes records of a model as one segment of a prediction log, in the folder of the first day."""
    start = f"{frame['time'].min():%Y-%m-%d}"
    encoded = [base64.b64encode(value.tobytes()).decode() for value in frame["embedding"]]
    rows = frame.assign(
        embedding=encoded,
        schema_version=SCHEMA_VERSION,
        record_id=[f"{start}-{number}" for number in range(len(frame))],
        model_version=model.version,
        class_list=model.class_list,
    )
    day = folder / RECORDS / f"date={start}"
    day.mkdir(parents=True)
    lines = rows.to_json(orient="records", lines=True, date_format="iso").encode().splitlines()
    (day / f"00000000T000000.000000Z-abcdef-000000{CLOSED}").write_bytes(pack_lines(lines))
    return str(folder)
