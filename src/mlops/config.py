"""Schema of the configuration in `configshydra/`, and functions that compose it.

The YAML files have the values and explain them. This module defines types and ranges, and rejects unknown keys.
"""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import hydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from yaml import YAMLError

from src.mlops import ROOT
from src.mlops.errors import ConfigError, describe, shorten
from src.mlops.io.files import same_place, to_json

CONFIG_DIR = ROOT / "configshydra"
_MISSING = object()


def _not_empty(path: object) -> object:
    if path == "":
        raise ValueError("the path must not be empty")
    return path


def _from_root(path: Path) -> Path:
    return ROOT / path.expanduser()


def _to_root(path: Path) -> str:
    # Checkpoints embed the config, and must not contain paths of one machine.
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


RepoPath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_from_root), PlainSerializer(_to_root)]
"""A path. Relative paths start at the repository root, whatever the working directory is."""


def _is_checkpoint(path: Path) -> Path:
    if path.suffix != ".pth":
        raise ValueError(f"the path of a checkpoint must end in .pth, but is {path}; an ONNX file is found next to it")
    return path


CheckpointPath = Annotated[RepoPath, AfterValidator(_is_checkpoint)]
"""A path that ends in `.pth`. The ONNX file next to it has the same name with another suffix."""

BucketUrl = Annotated[str, Field(pattern=r"^gs://[a-z0-9][a-z0-9._-]+(/[\w.-]+)*$")]
"""URL of a folder in a bucket."""

Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # NumPy's global generator and Optuna's samplers take no larger seeds
Strength = Annotated[float, Field(ge=0, le=10)]
SMALLEST_SIDE = 24  # px; the networks need this
Pixels = Annotated[int, Field(ge=SMALLEST_SIDE, le=512)]
ImageSide = Annotated[float, Field(gt=0, le=1)] | Pixels
"""A side of an image: a share of `data.image_size`, or a number of pixels."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SplitConfig(_Section):
    """Split of the training tracks, see `data/splits.py`."""

    test_size: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


SignList = Literal["gtsrb", "germany"]  # the 43 classes; with further German signs


class SyntheticConfig(_Section):
    """Numbers of synthetic images, see `data/synthetic/generate.py`."""

    tracks_per_class: Annotated[int, Field(ge=2)]
    frames_per_track: Count
    test_tracks_per_class: Count
    seed: Seed
    signs: SignList = "gtsrb"  # checkpoints of earlier releases have none


class OutlierConfig(_Section):
    """Rendered images of unknown things for training, see `data/synthetic/outliers.py`."""

    images: Annotated[int, Field(ge=100)]
    seed: Seed = 0


class DataConfig(_Section):
    """Source of the images, and how they are packed."""

    source: Literal["local", "official", "synthetic", "archives", "gcs"]
    raw_dir: RepoPath | None
    raw_url: BucketUrl | None
    processed_url: BucketUrl | None
    processed_dir: RepoPath
    image_size: Pixels
    path_column: str | None = None  # checkpoints of earlier releases have none
    label_column: str | None = None
    on_bad_image: Literal["stop", "skip"]
    exclude: RepoPath | None = None  # checkpoints of earlier releases have none
    collected: RepoPath | None = None
    split: SplitConfig
    synthetic: SyntheticConfig | None

    @model_validator(mode="after")
    def _settings_of_the_source(self) -> Self:
        for key, source in (("raw_url", "gcs"), ("synthetic", "synthetic")):
            if getattr(self, key) is not None and self.source != source:
                raise ValueError(
                    f"{key} is only used with source={source}, but source is {self.source}. Use data={source}, or set "
                    f"data.{key}=null"
                )
        return self


class AugmentationConfig(_Section):
    """Random changes of a training batch, see `data/augment.py`."""

    rotation: Annotated[float, Field(ge=0, le=180)]
    scale: Share
    translation: Probability
    shear: Probability
    brightness: Strength
    contrast: Strength
    saturation: Strength
    white_balance: Strength
    blur: Probability
    erase: Probability
    mirror: bool


def _finite(arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        to_json(arguments)  # checkpoints and ONNX files store the config as JSON
    except ValueError as error:
        raise ValueError(f"all numbers must be finite, but the values are {shorten(arguments)}") from error
    return arguments


def _positive_lr(optimizer: dict[str, Any]) -> dict[str, Any]:
    lr = optimizer.get("lr")
    if isinstance(lr, bool) or not (isinstance(lr, int | float) and 0 < lr < float("inf")):
        raise ValueError(f"lr must be a number above 0, but is {shorten(lr)}")
    return optimizer


LARGEST_BATCH = 128  # default images per step
STEPS = 64  # per epoch that the default batch size aims at


class TrainingConfig(_Section):
    """Optimiser, schedule and augmentation."""

    epochs: Count
    frozen_epochs: Annotated[int, Field(ge=0)]
    final_fit: bool
    batch_size: Count | None
    resume: bool
    publish: bool
    export: bool
    start_from: CheckpointPath | None
    precision: Literal["fp32", "bf16", "fp16"]
    compile: bool
    profile: bool
    optimizer: Annotated[dict[str, Any], AfterValidator(_positive_lr), AfterValidator(_finite)]
    schedule: Literal["onecycle", "constant"]
    warmup: Annotated[float, Field(gt=0, lt=1)]
    label_smoothing: Share
    class_weights: Literal["balanced"] | None = None  # checkpoints of earlier releases have none
    ema_decay: Share
    size_schedule: list[tuple[ImageSide, Annotated[float, Field(gt=0, le=1)]]]
    early_stopping: Annotated[int, Field(ge=0)]
    augmentation: AugmentationConfig
    drawn: SyntheticConfig | None
    outliers: OutlierConfig | None = None  # checkpoints of earlier releases have none
    teachers: list[CheckpointPath] = []
    leave_out: list[Annotated[int, Field(ge=0)]]

    def batch_size_for(self, images: int) -> int:
        """Returns the images per step: `batch_size`, or by default 128, but fewer if there are few training images.

        Small data sets need small batches: with few steps per epoch, the network learns too little.

        Args:
            images: Number of training images.
        """
        return self.batch_size or min(LARGEST_BATCH, 16 * max(round(images / STEPS / 16), 1))

    @model_validator(mode="after")
    def _parts_fit_the_whole(self) -> Self:
        if self.frozen_epochs >= self.epochs:
            raise ValueError(
                f"frozen_epochs must be below epochs={self.epochs}, but is {self.frozen_epochs}; the features would "
                "never be trained"
            )
        total = math.fsum(share for _, share in self.size_schedule)
        if total > 1 + 1e-9:
            raise ValueError(f"the shares of size_schedule must sum to at most 1, but sum to {total:g}")
        return self


class TrackingConfig(_Section):
    """Backend that receives the metrics."""

    backend: Literal["csv", "tensorboard", "wandb"]
    project: str | None
    entity: str | None

    @model_validator(mode="after")
    def _only_wandb_has_projects(self) -> Self:
        for key in ("project", "entity"):
            if self.backend != "wandb" and getattr(self, key) is not None:
                raise ValueError(
                    f"{key} is not used with backend={self.backend}. Use tracking=wandb, or set tracking.{key}=null"
                )
        return self


class EvaluationConfig(_Section):
    """Images to evaluate, and the folder for the results."""

    split: Literal["train", "val", "test"]
    reports_dir: RepoPath
    batch_size: Count


class CalibrationConfig(_Section):
    """Targets of prediction sets and of the detection of unknown images, see `modelfile/calibration.py`."""

    coverage: Annotated[float, Field(gt=0, lt=1)]
    false_alarms: Annotated[float, Field(gt=0, lt=1)]


class ExportConfig(_Section):
    """Variant that `modelfile/onnx_export.py` writes."""

    variant: Literal["fp32", "fp16", "int8"]
    opset: Annotated[int, Field(ge=18, le=23)]


class ServeConfig(_Section):
    """The Cloud Run service."""

    stage: Literal["staging", "production"]
    public: bool
    model: Annotated[str, Field(min_length=1)]
    cpu: Literal[1, 2, 4, 6, 8]
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi)$")]
    cpu_always: bool
    concurrency: Annotated[int, Field(ge=1, le=1000)]
    min_instances: Annotated[int, Field(ge=0)]
    max_instances: Count
    metrics: bool

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if self.min_instances > self.max_instances:
            raise ValueError(
                f"min_instances must not be above max_instances={self.max_instances}, but is {self.min_instances}"
            )
        return self


class JobConfig(_Section):
    """The training job of Vertex AI."""

    action: Literal["run", "start", "fetch"]
    job: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] | None
    data: Annotated[str, Field(pattern=r"^gs://")] | None
    collected: Annotated[str, Field(pattern=r"^gs://")] | None
    options: list[str]
    machine: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]+$")]
    accelerator: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]+$")] | None
    accelerators: Count
    replicas: Count
    hours: Annotated[int, Field(ge=1, le=168)]


class CanaryConfig(_Section):
    """Traffic of a new revision before it replaces the current one, and the limits that it must meet."""

    share: Annotated[int, Field(ge=0, le=50)]
    minutes: Annotated[float, Field(gt=0, le=60)]
    requests: Count
    max_error_increase: Probability
    max_slowdown: Annotated[float, Field(ge=1)]
    max_unknown_increase: Probability


class LoadConfig(_Section):
    """The load test of the deployed service."""

    users: Count
    seconds: Count


class DriftJobConfig(_Section):
    """The drift job of Cloud Run."""

    window: Annotated[str, Field(min_length=1)]
    schedule: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")] | None


class RetrainConfig(_Section):
    """When `cloud/retrain.py` starts a training job, and with which images."""

    only_after_drift: bool
    min_new: Annotated[int, Field(ge=0)]
    window: Annotated[str, Field(min_length=1)]
    only_reviewed: bool
    options: list[str]


class BuildConfig(_Section):
    """Steps of Cloud Build in addition to testing and building."""

    train: bool
    deploy: bool


class TeardownConfig(_Section):
    """Confirmation and extent of `cloud/teardown.py`."""

    confirm: str | None
    data: bool


class CloudConfig(_Section):
    """Names, sizes and limits of the resources in Google Cloud."""

    project: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")]
    region: Annotated[str, Field(pattern=r"^[a-z]+-[a-z]+[0-9]+$")]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,54}[a-z0-9]$")]  # leaves room for `-builds`
    models: Annotated[str, Field(pattern=r"^gs://")]
    prediction_log: str | None
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,18}[a-z0-9]$")]
    github: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None
    github_id: Count | None
    github_owner_id: Count | None
    tag: Annotated[str, Field(pattern=r"^[\w][\w.-]{0,127}$")] | None
    dry_run: bool
    serve: ServeConfig
    canary: CanaryConfig
    load: LoadConfig
    train: JobConfig
    drift: DriftJobConfig
    retrain: RetrainConfig
    build: BuildConfig
    budget: Count
    alert_email: Annotated[str, Field(pattern=r"^[^@\s,]+@[^@\s,]+\.[^@\s,]+$")] | None
    teardown: TeardownConfig

    @model_validator(mode="after")
    def _in_the_bucket(self) -> Self:
        places = {"models": self.models, "train.data": self.train.data, "train.collected": self.train.collected}
        for name, value in places.items():
            if value and not value.startswith(f"gs://{self.bucket}/"):
                # The accounts have roles on folders of this bucket only.
                raise ValueError(f"{name} must be a folder in the bucket gs://{self.bucket}, but is {value!r}")
        log = f"gs://{self.bucket}/prediction_log"
        if self.prediction_log and not re.fullmatch(rf"{re.escape(log)}(/[\w.-]+)*", self.prediction_log):
            # Access is granted in this bucket, and cloud/lifecycle.json deletes erased records in this folder.
            raise ValueError(f"prediction_log must be null, {log} or a folder in it, but is {self.prediction_log!r}")
        return self


class RegistryConfig(_Section):
    """Location of registered models."""

    store: Annotated[str, Field(min_length=1)]


class GateConfig(_Section):
    """Limits that a model must meet to be promoted, see `registry/gate.py` and `registry/shadow.py`."""

    significance: Annotated[float, Field(gt=0, lt=1)]
    parity_images: Count
    max_calibration_error: Probability
    min_class_f1: Probability
    min_robustness: Probability
    max_latency_ms: Annotated[float, Field(gt=0)]
    max_size_mb: Annotated[float, Field(gt=0)]
    shadow_log: str | None = None  # checkpoints of earlier releases have none of these three
    shadow_images: Count = 1
    max_unknown_rise: Probability = 1.0


class SearchRange(_Section):
    """One dimension of a search: numbers from `low` to `high`, or a list of `choices`."""

    key: Annotated[str, Field(min_length=1)]
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: list[bool | int | float | str] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        ranged = self.low is not None and self.high is not None and self.low < self.high
        if ranged == bool(self.choices) or (self.choices and (self.low, self.high) != (None, None)):
            raise ValueError(
                f"{self.key} needs either low below high, or choices, but has low={self.low}, high={self.high} and "
                f"choices={self.choices}"
            )
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError(
                f"{self.key} has log=true, which needs a range with low above 0, but has low={self.low}, "
                f"high={self.high} and choices={self.choices}"
            )
        if self.choices and len(set(self.choices)) < len(self.choices):
            raise ValueError(f"{self.key} needs choices that differ, but has {self.choices}")
        return self


class SearchConfig(_Section):
    """Search space and number of trials of `training/sweep.py`."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    trials: Count
    workers: Count
    space: Annotated[list[SearchRange], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_key_once(self) -> Self:
        keys = [one.key for one in self.space]
        if repeated := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"space must contain each key once, but contains {min(repeated)} several times")
        return self


def _is_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:(0|[1-9]\d?))?", name):
        raise ValueError(f"the device must be auto, cpu, mps, cuda, or one GPU such as cuda:1, but is {name!r}")
    return name


class Config(_Section):
    """The complete configuration."""

    data: DataConfig
    model: Annotated[dict[str, Any], AfterValidator(_finite)]
    training: TrainingConfig
    tracking: TrackingConfig
    calibration: CalibrationConfig
    evaluation: EvaluationConfig
    export: ExportConfig
    cloud: CloudConfig
    registry: RegistryConfig
    gate: GateConfig
    hparams_search: SearchConfig
    seed: Seed
    device: Annotated[str, AfterValidator(_is_device)]
    run_dir: RepoPath | None
    ckpt_path: CheckpointPath

    @model_validator(mode="after")
    def _folders_apart(self) -> Self:
        # These folders are read, locked and cleared in different ways. Reports only harm raw images, which are listed.
        folders = {
            "data.raw_dir": self.data.raw_dir,
            "data.processed_dir": self.data.processed_dir,
            "evaluation.reports_dir": self.evaluation.reports_dir,
            "run_dir": self.run_dir,
        }
        if self.training.drawn:
            folders |= {"data.processed_dir/drawn, the folder of training.drawn": self.data.processed_dir / "drawn"}
        for (key, folder), (other_key, other) in combinations(folders.items(), 2):
            shared = "evaluation.reports_dir" in (key, other_key) and key != "data.raw_dir"
            if folder and other and not shared and same_place(folder, other):
                raise ValueError(f"{key} and {other_key} must be different folders, but both are {other}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as nested plain values. Paths below the repository are relative to it."""
        return self.model_dump(mode="json")

    def replace(self, values: Mapping[str, Any]) -> "Config":
        """Returns a copy of the config with new values for some keys.

        Args:
            values: Dotted keys such as `training.optimizer.lr`.

        Raises:
            ConfigError: A key does not exist, or a value is out of range.
        """
        raw = OmegaConf.create(self.to_dict())
        for key, value in values.items():
            if OmegaConf.select(raw, key, default=_MISSING) is _MISSING:
                raise ConfigError(f"The key {key!r} does not exist in {CONFIG_DIR.name}/.")
            OmegaConf.update(raw, key, value)
        return parse_config(raw)


def parse_config(raw: DictConfig) -> Config:
    """Validates a composed Hydra config and returns it as `Config`.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type or is out of range.
    """
    try:
        return Config.model_validate(OmegaConf.to_container(raw, resolve=True))
    except ValidationError as error:
        faults = describe(error)
    except OmegaConfBaseException as error:
        faults = [str(error).splitlines()[0]]
    raise ConfigError(f"{'; '.join(faults)}. See {CONFIG_DIR.name}/ for all keys and their ranges.")


def load_config(overrides: Sequence[str] = ()) -> Config:
    """Composes `configshydra/config.yaml` with overrides, as the command line does.

    Args:
        overrides: Hydra overrides such as `training.epochs=3` or `data=synthetic`.

    Raises:
        ConfigError: An override has an unknown key or a value out of range.
    """
    return parse_config(compose("config", overrides))


def compose(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Composes a file of `configshydra/` without validation.

    Raises:
        ConfigError: The file does not exist, or an override has an unknown key.
    """
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base=None):
        try:
            return hydra.compose(name, list(overrides))
        except (HydraException, YAMLError, ValueError) as error:  # ValueError: a group such as model=null
            raise composition_error(error) from error


def composition_error(error: Exception) -> ConfigError:
    """Converts an error of Hydra into a `ConfigError` with one message."""
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    ambiguous = re.match(r"Ambiguous value for argument '(.*)'$", str(error), re.MULTILINE)
    if ambiguous:
        return ConfigError(
            f"The override {ambiguous[1]} has several values. If it is one value with commas, put quotes around it: "
            f"{_quoted(ambiguous[1])}. To run the command for each value, add --multirun. A list needs brackets: [1,2]."
        )
    # Keep only the lines that describe the error, without the search path and the advice to add the key.
    lines = [line.strip() for line in str(error).partition("Config search path")[0].splitlines()]
    reason = " ".join(line for line in lines if line and "To append to your config" not in line).rstrip(".")
    return ConfigError(
        f"{reason}. See {CONFIG_DIR.name}/ for all keys and their ranges, or print them with "
        "`python -m src.mlops.train --cfg job`."
    )


def _unreadable(override: str) -> ConfigError:
    if not override.partition("=")[0].strip("+~ ") or "=" not in override:
        return ConfigError(f"The override {override!r} must have the form key=value, such as training.epochs=3.")
    reason = "a value with special characters needs quotes"
    if any(override.count(one) != override.count(other) for one, other in ("[]", "{}")):
        reason = "a list or mapping needs its closing bracket, and any other value with brackets needs quotes"
    return ConfigError(f"Cannot read the override {override}: {reason}. Write {_quoted(override)}.")


def _quoted(override: str) -> str:
    """Returns an override with quotes around its value, or around each item of a list, for Hydra and for the shell."""
    key, _, value = override.partition("=")
    if re.fullmatch(r"\[[^\[\]]*\]", value):
        quoted = f"[{','.join(_in_quotes(item.strip()) for item in value[1:-1].split(','))}]"
    else:
        quoted = _in_quotes(value)
    return shlex.quote(f"{key}={quoted}")


def _in_quotes(value: str) -> str:
    # Hydra reads a backslash as itself unless a quote follows.
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ("\\" if found[2] else "") + found[2], value)
    return f'"{escaped}"'
