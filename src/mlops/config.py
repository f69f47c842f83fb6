"""The configuration: what may stand in `configshydra/`, and how a command line reads it.

Values and their meaning live in the YAML files; types and ranges live here, and a key that is not here is refused.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import hydra
from hydra.errors import HydraException
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
from src.mlops.data.signs import NUM_CLASSES
from src.mlops.errors import ConfigError, MlopsError, describe, report

CONFIG_DIR = ROOT / "configshydra"
_MISSING = object()


def _not_empty(path: object) -> object:
    if path == "":
        raise ValueError("expected a path")
    return path


def _from_root(path: Path) -> Path:
    return ROOT / path.expanduser()


def _to_root(path: Path) -> str:
    # A checkpoint that embeds the config must not carry the paths of one machine.
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


RepoPath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_from_root), PlainSerializer(_to_root)]
"""A path; a relative one is relative to the repository root, wherever the command was started."""

BucketUrl = Annotated[str, Field(pattern=r"^gs://[a-z0-9][a-z0-9._-]+(/[\w.-]+)*$")]
"""A folder of a bucket."""

Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SplitConfig(_Section):
    """How training tracks are divided, see `data/splits.py`."""

    test_size: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


class SyntheticConfig(_Section):
    """How many signs are drawn, see `data/synthetic.py`."""

    tracks_per_class: Annotated[int, Field(ge=2)]
    frames_per_track: Count
    test_tracks_per_class: Count
    seed: Seed


class DataConfig(_Section):
    """Where images come from and how they are packed."""

    source: Literal["local", "official", "synthetic", "archives", "gcs"]
    raw_dir: RepoPath | None
    raw_url: BucketUrl | None
    processed_url: BucketUrl | None
    processed_dir: RepoPath
    image_size: Annotated[int, Field(ge=24, le=512)]
    on_bad_image: Literal["stop", "skip"]
    split: SplitConfig
    synthetic: SyntheticConfig | None


class AugmentationConfig(_Section):
    """Random changes of a training batch, see `data/augment.py`."""

    rotation: Annotated[float, Field(ge=0, le=180)]
    scale: Share
    translation: Probability
    shear: Probability
    brightness: Annotated[float, Field(ge=0)]
    contrast: Annotated[float, Field(ge=0)]
    saturation: Annotated[float, Field(ge=0)]
    white_balance: Annotated[float, Field(ge=0)]
    blur: Probability
    erase: Probability
    mirror: bool


def _positive_lr(optimizer: dict[str, Any]) -> dict[str, Any]:
    lr = optimizer.get("lr")
    if not (isinstance(lr, int | float) and 0 < lr < float("inf")):
        raise ValueError(f"lr is a number above 0, not {lr!r}")
    return optimizer


class TrainingConfig(_Section):
    """Optimiser, schedule and augmentation."""

    epochs: Count
    frozen_epochs: Annotated[int, Field(ge=0)]
    final_fit: bool
    batch_size: Count
    resume: bool
    publish: bool
    export: bool
    start_from: RepoPath | None
    precision: Literal["fp32", "bf16", "fp16"]
    compile: bool
    profile: bool
    optimizer: Annotated[dict[str, Any], AfterValidator(_positive_lr)]
    schedule: Literal["onecycle", "constant"]
    warmup: Annotated[float, Field(gt=0, lt=1)]
    label_smoothing: Share
    ema_decay: Share
    size_schedule: list[tuple[Annotated[int, Field(ge=24, le=512)], Probability]]
    early_stopping: Annotated[int, Field(ge=0)]
    augmentation: AugmentationConfig
    drawn: SyntheticConfig | None
    leave_out: list[Annotated[int, Field(ge=0, lt=NUM_CLASSES)]]

    @model_validator(mode="after")
    def _left_out_means_unseen(self) -> Self:
        if self.leave_out and self.drawn:
            raise ValueError("leave_out needs drawn: null, since the drawn signs are of all classes")
        return self


class TrackingConfig(_Section):
    """Where metrics go."""

    backend: Literal["csv", "wandb"]
    project: str | None
    entity: str | None


class EvaluationConfig(_Section):
    """What is evaluated and where the result goes."""

    split: Literal["train", "val", "test"]
    reports_dir: RepoPath
    batch_size: Count


class CalibrationConfig(_Section):
    """What prediction sets and the decision that a picture is no sign must keep, see `calibration.py`."""

    coverage: Annotated[float, Field(gt=0, lt=1)]
    false_alarms: Annotated[float, Field(gt=0, lt=1)]


class ExportConfig(_Section):
    """What `export.py` writes."""

    variant: Literal["fp32", "int8"]


class ServeConfig(_Section):
    """The Cloud Run service."""

    public: bool
    model: Annotated[str, Field(min_length=1)]
    cpu: Literal[1, 2, 4, 6, 8]
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi)$")]
    concurrency: Annotated[int, Field(ge=1, le=1000)]
    min_instances: Annotated[int, Field(ge=0)]
    max_instances: Count

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if self.min_instances > self.max_instances:
            raise ValueError("expected min_instances not above max_instances")
        return self


class JobConfig(_Section):
    """The training job of Vertex AI."""

    job: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] | None
    data: Annotated[str, Field(pattern=r"^gs://")] | None
    options: list[str]
    machine: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]+$")]
    accelerator: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]+$")] | None
    accelerators: Count
    replicas: Count
    hours: Annotated[int, Field(ge=1, le=168)]


class BuildConfig(_Section):
    """What Cloud Build does beside testing and building."""

    train: bool
    deploy: bool


class DriftConfig(_Section):
    """When and how drift is looked for."""

    schedule: Annotated[str, Field(pattern=r"^\S+ \S+ \S+ \S+ \S+$")]
    command: list[str]


class TeardownConfig(_Section):
    """What `cloud/teardown.py` deletes."""

    confirm: str | None
    data: bool


class CloudConfig(_Section):
    """Names, sizes and limits of what stands in Google Cloud."""

    project: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")]
    region: Annotated[str, Field(pattern=r"^[a-z]+-[a-z]+[0-9]+$")]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$")]
    models: Annotated[str, Field(pattern=r"^gs://")]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,18}[a-z0-9]$")]
    github: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None
    tag: Annotated[str, Field(pattern=r"^[\w][\w.-]{0,127}$")] | None
    dry_run: bool
    serve: ServeConfig
    train: JobConfig
    build: BuildConfig
    budget: Count
    drift: DriftConfig
    teardown: TeardownConfig


class DataRemoteConfig(_Section):
    """What `data/remote.py` does."""

    action: Literal["pack", "push", "pull"]
    name: Annotated[str, Field(pattern=r"^[\w-]+$")]


class RegistryConfig(_Section):
    """Where registered models lie, and what `registry.py` does."""

    store: Annotated[str, Field(min_length=1)]
    action: Literal["show", "register", "promote", "rollback", "pull"]
    version: str | None
    stage: Literal["staging", "production"]
    force: bool
    push: bool


class GateConfig(_Section):
    """What a model must keep to be promoted, see `gate.py`."""

    significance: Annotated[float, Field(gt=0, lt=1)]
    parity_images: Count
    max_calibration_error: Probability
    min_class_f1: Probability
    min_robustness: Probability
    max_latency_ms: Annotated[float, Field(gt=0)]
    max_size_mb: Annotated[float, Field(gt=0)]


class SearchRange(_Section):
    """One dimension of a search: numbers from `low` to `high`, or `choices`."""

    key: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: list[int | float | str] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        ranged = self.low is not None and self.high is not None and self.low < self.high
        if ranged == bool(self.choices):
            raise ValueError("expected low below high, or choices")
        return self


class SearchConfig(_Section):
    """What `sweep.py` searches."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    trials: Count
    workers: Count
    space: list[SearchRange]


class Config(_Section):
    """The whole configuration."""

    data: DataConfig
    model: dict[str, Any]
    training: TrainingConfig
    tracking: TrackingConfig
    calibration: CalibrationConfig
    evaluation: EvaluationConfig
    export: ExportConfig
    cloud: CloudConfig
    data_remote: DataRemoteConfig
    registry: RegistryConfig
    gate: GateConfig
    hparams_search: SearchConfig
    seed: Seed
    device: Literal["auto", "cpu", "cuda", "mps"]
    run_dir: RepoPath | None
    ckpt_path: RepoPath

    def to_dict(self) -> dict[str, Any]:
        """Returns the config as nested plain values, with paths as they were written."""
        return self.model_dump(mode="json")

    def replace(self, values: Mapping[str, Any]) -> "Config":
        """Returns the config with other values for some keys.

        Args:
            values: Dotted keys such as `training.optimizer.lr`.

        Raises:
            ConfigError: A key does not exist, or a value is out of its range.
        """
        raw = OmegaConf.create(self.to_dict())
        for key, value in values.items():
            if OmegaConf.select(raw, key, default=_MISSING) is _MISSING:
                raise ConfigError(f"expected a key of {CONFIG_DIR.name}/, found {key!r}.")
            OmegaConf.update(raw, key, value)
        return parse_config(raw)


def parse_config(raw: DictConfig) -> Config:
    """Checks a composed Hydra config.

    Raises:
        ConfigError: A key is unknown or missing, or a value is of the wrong type or out of its range.
    """
    try:
        return Config.model_validate(OmegaConf.to_container(raw, resolve=True))
    except ValidationError as error:
        faults = describe(error)
    except OmegaConfBaseException as error:
        faults = [str(error).splitlines()[0]]
    raise ConfigError(f"{'; '.join(faults)}. The keys and their ranges are in {CONFIG_DIR.name}/.")


def load_config(overrides: Sequence[str] = ()) -> Config:
    """Composes `configshydra/config.yaml` with overrides, as the command line does.

    Args:
        overrides: Hydra overrides such as `training.epochs=3` or `data=synthetic`.

    Raises:
        ConfigError: An override names an unknown key or a value out of its range.
    """
    return parse_config(compose("config", overrides))


def compose(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Composes a file of `configshydra/`, unchecked.

    Raises:
        ConfigError: There is no such file, or an override names an unknown key.
    """
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base=None):
        try:
            return hydra.compose(name, list(overrides))
        except (HydraException, YAMLError) as error:
            raise _composition_error(error) from error


def hydra_main(task: Callable[[Config], object]) -> None:
    """Runs `task` as a command line that takes Hydra overrides.

    An error of this project or of the overrides ends it with one message and exit code 1; `--debug` or
    `HYDRA_FULL_ERROR=1` shows the traceback.
    """
    log_to_stderr()
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ["HYDRA_FULL_ERROR"] = "1"
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR", "0")
    # Hydra would print several lines of its own for an error; with this set it raises, and the message is ours.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    failures: list[MlopsError] = []

    @hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base=None)
    def run(raw: DictConfig) -> None:
        try:
            task(parse_config(raw))
        except MlopsError as error:  # kept from Hydra, which would announce it
            failures.append(error)

    try:
        run()
    except (HydraException, YAMLError) as error:
        failures.append(_composition_error(error))
    except KeyboardInterrupt:
        sys.stderr.write("stopped by Ctrl-C\n")
        sys.exit(130)  # the shell's code for it
    if failures:
        os.environ["HYDRA_FULL_ERROR"] = wants_traceback
        report(failures[0])


def log_to_stderr() -> None:
    """Shows what the package logs, and of talkative libraries only what matters."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for talkative in ("httpx2", "onnx_ir", "onnxscript"):  # of every request and of every step of an export
        logging.getLogger(talkative).setLevel(logging.WARNING)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # its errors come back as ours


def _composition_error(error: Exception) -> ConfigError:
    # Of Hydra's several lines those that name the fault: neither its advice to add the key, nor where it looked.
    lines = [line.strip() for line in str(error).partition("Config search path")[0].splitlines()]
    reason = " ".join(line for line in lines if line and "To append to your config" not in line).rstrip(".")
    return ConfigError(f"{reason}. The keys and their ranges are in {CONFIG_DIR.name}/; `--cfg job` prints them all.")
