"""Each setting of the configuration changes a result, or is refused with an error. None is silently ignored."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args, get_origin

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from src.mlops import export
from src.mlops.cloud import (
    bootstrap,
    build,
    deploy,
    drift_job,
    load_test,
    monitoring,
    retrain,
    rollback,
    submit,
    teardown,
)
from src.mlops.cloud.service import State
from src.mlops.config import AugmentationConfig, Config
from src.mlops.data.additional import prepare_drawn, prepare_outliers
from src.mlops.data.augment import augment
from src.mlops.data.dataset import Batches
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.prepare import prepare
from src.mlops.errors import MlopsError, StorageError
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.inference.classifier import Classifier
from src.mlops.io.storage import Folder
from src.mlops.model import build_model, choose_device
from src.mlops.modelfile.checkpoint import read_plain
from src.mlops.registry.gate import run_gate
from src.mlops.registry.registry import table
from src.mlops.registry.shadow import shadow_checks
from src.mlops.training.optimizer import build_optimizer
from src.mlops.training.schedules import build_scheduler
from src.mlops.training.sweep import sweep
from src.mlops.training.tracking import CsvTracker
from src.mlops.training.train import train
from src.mlops.training.train_loop import seed_everything
from tests.helpers.images import make_image
from tests.helpers.recording import store_shadowed
from tests.helpers.revisions import Revision, compared
from tests.helpers.tiny import quick_config, write_collected, write_kaggle

Probe = Callable[[Config, Path], object]


class Effect(NamedTuple):
    """A setting with another value than in the base configuration of a probe.

    Attributes:
        probe: Returns the results that the setting may change, as plain values.
        override: The setting.
        base: Other settings that both runs need.
        refused: Pattern of the error that the setting causes; None if it changes the result.
    """

    probe: Probe
    override: str
    base: tuple[str, ...] = ()
    refused: str | None = None


# --- probes


def prepared(config: Config, folder: Path) -> object:
    published: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mlops.data.prepare.publish", lambda pack, url: published.append(url))
        pack = prepare(config.data)
    return pack.fingerprint, pack.directory.relative_to(folder), published


def rendered_outliers(config: Config, folder: Path) -> object:
    assert config.training.outliers
    outliers = config.training.outliers
    return rendered(config, folder, lambda: prepare_outliers(config.data, outliers))


def rendered(config: Config, folder: Path, prepare_images: Callable[[], object] | None = None) -> object:
    """Returns the settings with which synthetic images are rendered."""
    calls: list[dict[str, int]] = []

    def generate(target: Path, **settings: int) -> None:
        calls.append(settings)
        write_kaggle(target, classes=1, tracks=2, frames=1, test_images=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mlops.data.sources.generate", generate)
        if prepare_images:
            prepare_images()
        elif config.training.drawn:
            prepare_drawn(config.data, config.training.drawn)
        else:
            prepare(config.data)
    return calls


def optimised(config: Config, folder: Path) -> object:
    seed_everything(config.seed)
    model = build_model(config.model, 43)
    optimizer = build_optimizer(model, config.training)
    scheduler = build_scheduler(optimizer, config.training, steps_per_epoch=4)
    rates = []
    for _ in range(4 * config.training.epochs):
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr())
    return str(model), str(optimizer), rates


def augmented(config: Config, folder: Path) -> object:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (43, 3, 24, 24), np.uint8))
    generator = torch.Generator().manual_seed(config.seed)
    mirrors = torch.tensor(SIGNS.mirrors)
    changed, labels = augment(images, torch.arange(43), config.training.augmentation, generator, 24, mirrors)
    return changed.double().sum().item(), labels.tolist()


def trained_model(config: Config, folder: Path) -> object:
    @contextmanager
    def profiler(target: Path) -> Iterator[SimpleNamespace]:
        target.mkdir()
        yield SimpleNamespace(step=lambda: None)

    def exported_file(path: Path, opset: int, complete: object) -> Path:
        path.with_suffix(".onnx").touch()
        return path.with_suffix(".onnx")

    class Wandb(CsvTracker):
        def __init__(self, run_dir: Path, settings: Config, history: list[dict[str, float]]) -> None:
            super().__init__(run_dir, settings, history)
            (run_dir / f"wandb_{settings.tracking.project}_{settings.tracking.entity}").touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mlops.training.train_loop.profiler", profiler)
        patch.setattr("src.mlops.training.train.export", exported_file)
        patch.setattr("src.mlops.training.train.draw_learning_curves", lambda history, path: None)
        patch.setattr("src.mlops.training.tracking.WandbTracker", Wandb)
        patch.setattr(CsvTracker, "log_figure", lambda tracker, path: None)
        patch.setattr(torch, "compile", lambda forward: lambda images: 1.1 * forward(images))
        train(config)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    content = read_plain(next(folder.glob("run*/best_model.pth")))
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in content["history"]]
    weights = {name: tensor.double().sum().item() for name, tensor in content["state_dict"].items()}
    return files, history, weights, content["calibration"]


def stopped(config: Config, folder: Path) -> object:
    """Returns the number of epochs of a training that gets worse."""
    worse = count(1)
    epochs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "src.mlops.training.train_loop.classification_metrics",
            lambda *_: {"Accuracy": 1 / next(worse), "F1": 0.0},
        )
        patch.setattr("src.mlops.training.train.draw_learning_curves", lambda history, path: None)
        train(config, on_epoch=epochs.append)
    return len(epochs)


def placed(config: Config, folder: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        return str(choose_device(config.device))


def evaluated(config: Config, folder: Path) -> object:
    batches: list[int] = []

    class Counted(Batches):
        def epoch(self, epoch: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for images, labels in super().epoch(epoch):
                batches.append(len(labels))
                yield images, labels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mlops.evaluation.evaluate.draw_evaluation", lambda *_: None)
        patch.setattr("src.mlops.evaluation.evaluate.Batches", Counted)
        results = evaluate(config)
    return results["split"], batches, sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def exported_variant(config: Config, folder: Path) -> object:
    calls: list[tuple[Any, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            export,
            "export",
            lambda path, images=None, complete=None, **options: calls.append((path, images is not None, options)),
        )
        patch.setattr(export, "add_reference", lambda file, pack: None)
        export.main(config)
    return calls


def gated(config: Config, folder: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mlops.registry.gate.TIMED", 1)
        checks = run_gate(config, config.ckpt_path.parent, config.ckpt_path.parent, None)
    return [(check.name, check.limit) for check in checks]


def shadowed(config: Config, folder: Path) -> object:
    """Returns the checks of a model that answered one image as a shadow, and called it unknown."""
    candidate = Classifier.load(config.ckpt_path)
    store_shadowed(str(folder / "log"), candidate.version, 1, unknown=1)
    return [(check.limit, check.passed) for check in shadow_checks(config.gate, candidate)]


def stored(config: Config, folder: Path) -> object:
    def open_storage(url: str) -> None:
        raise StorageError(url)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mlops.registry.registry.open_storage", open_storage)
        return table(config)


def searched(config: Config, folder: Path) -> object:
    processes: list[str] = []

    class Process:
        exitcode = 0

        def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
            processes.append("started")
            self.join = partial(target, *args)

        def start(self) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mlops.training.sweep.SWEEPS", folder)
        patch.setattr("src.mlops.training.sweep.prepare", lambda data: None)
        patch.setattr("src.mlops.training.sweep.start_logging", lambda: None)
        patch.setattr("src.mlops.training.sweep.draw_importances", lambda *_: None)
        patch.setattr("src.mlops.training.sweep.get_param_importances", lambda study: {})
        patch.setattr(
            "src.mlops.training.sweep.multiprocessing",
            SimpleNamespace(get_context=lambda kind: SimpleNamespace(Process=Process)),
        )
        patch.setattr(
            "src.mlops.training.sweep.train",
            lambda trial, on_epoch: {"val_Accuracy": trial.training.optimizer["lr"]},
        )
        trials = sweep(config)
    return trials.to_csv(), processes, sorted(path.name for path in folder.iterdir())


def in_cloud(config: Config, folder: Path) -> object:
    """Returns the commands of a dry run. The names of files in them contain hashes of the files."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setenv("PATH", "")
        patch.setattr("src.mlops.cloud.names.ROOT", folder)
        patch.setattr("src.mlops.cloud.build.source_commit", lambda: "0" * 40)
        bootstrap.bootstrap(config.cloud)
        build.build(config.cloud)
        submit.train(config.cloud, folder)
        deploy.deploy(config.cloud)
        rollback.rollback(config.cloud)
        if config.cloud.prediction_log:
            drift_job.run_drift_job(config.cloud)
        monitoring.monitor(config.cloud)
        teardown.teardown(config.cloud)
    return out.getvalue().replace(str(folder), "")


def canary(config: Config, folder: Path) -> object:
    """Returns how the comparison of two revisions ended, how long it took, and how many images it sent."""
    worse = Revision(errors=0.005, seconds=0.15, unknown=0.05, traffic=20)
    with_traffic = compared(worse, Revision(seconds=0.1, traffic=180), config.cloud.canary)
    slow = Revision(traffic=1)
    without = compared(slow, Revision(traffic=9), config.cloud.canary)
    return with_traffic, without, slow.sent


def loaded(config: Config, folder: Path) -> object:
    """Returns the arguments of the load test."""
    state = State("https://gtsrb", "gtsrb-r2", "gtsrb-r2", {}, {}, {})
    calls: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load_test, "Gcloud", lambda _: SimpleNamespace(login=lambda: None, dry_run=False))
        patch.setattr(load_test, "describe", lambda *_: state)
        patch.setattr(load_test, "request_headers", lambda *_: {})
        patch.setattr(load_test, "load_test", lambda *arguments, **_: calls.append(arguments))
        load_test.run_load_test(config.cloud)
    return calls


def retrained(config: Config, folder: Path) -> object:
    """Returns which labels are used, the training job that is started with them, and what is said about it."""
    calls: list[object] = []

    def export(_: str, out: Path, *window: str, **options: object) -> None:
        calls.extend([window, options])
        out.mkdir()
        (out / "labels.csv").write_text("path,label\nimages/a.png,Stop\nimages/b.png,Stop\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrain, "Gcloud", lambda _: SimpleNamespace(login=lambda: None, dry_run=False))
        patch.setattr(retrain, "pinned_image", lambda *_: "image")
        patch.setattr(retrain, "open_storage", lambda url: Folder(folder / url.removeprefix("gs://")))
        patch.setattr(retrain, "export", export)
        patch.setattr(retrain, "train", lambda cloud, _: calls.append(cloud.train))
        return retrain.retrain(config.cloud), calls


def confirmed(config: Config, folder: Path) -> object:
    def run(command: list[str], **_: object) -> None:
        raise StorageError(f"called {command[0]}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mlops.cloud.gcloud.shutil", SimpleNamespace(which=lambda name: name))
        patch.setattr("src.mlops.cloud.gcloud.subprocess", SimpleNamespace(run=run, PIPE=-1))
        try:
            teardown.teardown(config.cloud)
        except MlopsError as error:
            return str(error)


# --- settings

SYNTHETIC = {"tracks_per_class": 3, "frames_per_track": 2, "test_tracks_per_class": 2, "seed": 1, "signs": "germany"}
BASE_SYNTHETIC = "{{tracks_per_class: 2, frames_per_track: 1, test_tracks_per_class: 1, seed: 0, signs: gtsrb}}"
OUTLIERS = "training.outliers={{images: 100, seed: 0}}"
MODEL_ON_DISK = "ckpt_path={trained}/latest/best_model.pth"
WANDB = "tracking.backend=wandb"

FEW_LABELS = ("cloud.retrain.min_new=2",)
GITHUB = ("cloud.github=owner/name", "cloud.github_id=11", "cloud.github_owner_id=22")

EFFECTS: dict[str, Effect] = {
    "data.source": Effect(prepared, "data.source=archives", refused="No archives"),
    "data.raw_dir": Effect(prepared, "data.raw_dir={other}"),
    "data.raw_url": Effect(prepared, "data.raw_url=gs://bucket/raw", refused=r"raw_url is only used with source=gcs"),
    "data.processed_url": Effect(prepared, "data.processed_url=gs://bucket/prepared"),
    "data.processed_dir": Effect(prepared, "data.processed_dir={folder}/elsewhere"),
    "data.image_size": Effect(prepared, "data.image_size=32"),
    "data.path_column": Effect(prepared, "data.path_column=file", refused=r"Train\.csv has no column 'file'"),
    "data.label_column": Effect(prepared, "data.label_column=kind", refused=r"Train\.csv has no column 'kind'"),
    "data.on_bad_image": Effect(prepared, "data.on_bad_image=stop", refused=r"1 bad image.*extra\.png"),
    "data.collected": Effect(trained_model, "data.collected={collected}"),
    "data.exclude": Effect(prepared, "data.exclude={raw}/wrong.csv"),
    "data.split.test_size": Effect(prepared, "data.split.test_size=0.6"),
    "data.split.seed": Effect(prepared, "data.split.seed=2"),
    **{
        f"data.synthetic.{key}": Effect(
            rendered,
            f"data.synthetic.{key}={value}",
            ("data.source=synthetic", f"data.synthetic={BASE_SYNTHETIC}", "data.raw_dir={folder}/drawn"),
        )
        for key, value in SYNTHETIC.items()
    },
    "model._target_": Effect(optimised, "model._target_=src.mlops.model.TinyCNN", refused="width"),
    "model.width": Effect(optimised, "model.width=8"),
    "model.dropout": Effect(optimised, "model.dropout=0.5"),
    "training.epochs": Effect(trained_model, "training.epochs=1"),
    "training.frozen_epochs": Effect(trained_model, "training.frozen_epochs=1", refused="features of SignNet"),
    "training.final_fit": Effect(trained_model, "training.final_fit=true"),
    "training.batch_size": Effect(trained_model, "training.batch_size=8"),
    "training.resume": Effect(trained_model, "training.resume=true", refused="No run to resume"),
    "training.publish": Effect(trained_model, "training.publish=false"),
    "training.export": Effect(trained_model, "training.export=true"),
    "training.start_from": Effect(trained_model, "training.start_from={trained}/run/best_model.pth"),
    "training.precision": Effect(trained_model, "training.precision=bf16"),
    "training.compile": Effect(trained_model, "training.compile=true"),
    "training.profile": Effect(trained_model, "training.profile=true"),
    "training.optimizer._target_": Effect(optimised, "training.optimizer._target_=torch.optim.Adam"),
    "training.optimizer.lr": Effect(optimised, "training.optimizer.lr=0.1"),
    "training.optimizer.weight_decay": Effect(optimised, "training.optimizer.weight_decay=0"),
    "training.schedule": Effect(optimised, "training.schedule=constant"),
    "training.warmup": Effect(optimised, "training.warmup=0.6"),
    "training.label_smoothing": Effect(trained_model, "training.label_smoothing=0.3"),
    "training.class_weights": Effect(trained_model, "training.class_weights=balanced"),
    "training.ema_decay": Effect(trained_model, "training.ema_decay=0"),
    "training.size_schedule": Effect(trained_model, "training.size_schedule=[[24, 0.5]]", ("data.image_size=32",)),
    "training.early_stopping": Effect(stopped, "training.early_stopping=1"),
    **{
        f"training.augmentation.{key}": Effect(augmented, f"training.augmentation.{key}={'false' if switch else 0}")
        for key, switch in ((key, field.annotation is bool) for key, field in AugmentationConfig.model_fields.items())
    },
    **{
        f"training.drawn.{key}": Effect(
            rendered, f"training.drawn.{key}={value}", (f"training.drawn={BASE_SYNTHETIC}",)
        )
        for key, value in SYNTHETIC.items()
    },
    "training.outliers.images": Effect(rendered_outliers, "training.outliers.images=800", (OUTLIERS,)),
    "training.outliers.seed": Effect(rendered_outliers, "training.outliers.seed=1", (OUTLIERS,)),
    "training.teachers": Effect(trained_model, "training.teachers=[{trained}/latest/best_model.pth]"),
    "training.leave_out": Effect(trained_model, "training.leave_out=[2]"),
    "tracking.backend": Effect(trained_model, WANDB),
    "tracking.project": Effect(trained_model, "tracking.project=signs", (WANDB,)),
    "tracking.entity": Effect(trained_model, "tracking.entity=team", (WANDB,)),
    "calibration.coverage": Effect(trained_model, "calibration.coverage=0.5"),
    "calibration.false_alarms": Effect(trained_model, "calibration.false_alarms=0.5"),
    "evaluation.split": Effect(evaluated, "evaluation.split=val", (MODEL_ON_DISK,)),
    "evaluation.reports_dir": Effect(evaluated, "evaluation.reports_dir={folder}/elsewhere", (MODEL_ON_DISK,)),
    "evaluation.batch_size": Effect(evaluated, "evaluation.batch_size=5", (MODEL_ON_DISK,)),
    "export.variant": Effect(exported_variant, "export.variant=int8", (MODEL_ON_DISK,)),
    "export.opset": Effect(exported_variant, "export.opset=19", (MODEL_ON_DISK,)),
    "registry.store": Effect(stored, "registry.store=gs://bucket/models", refused="gs://bucket/models"),
    **{
        f"gate.{key}": Effect(gated, f"gate.{key}={value}", (MODEL_ON_DISK,))
        for key, value in {
            "significance": 0.2,
            "parity_images": 2,
            "max_calibration_error": 0.5,
            "min_class_f1": 0.1,
            "min_robustness": 0.1,
            "max_latency_ms": 5,
            "max_size_mb": 5,
        }.items()
    },
    "gate.shadow_log": Effect(shadowed, "gate.shadow_log={folder}/log", (MODEL_ON_DISK,)),
    **{
        f"gate.{key}": Effect(shadowed, f"gate.{key}={value}", (MODEL_ON_DISK, "gate.shadow_log={folder}/log"))
        for key, value in {"shadow_images": 1, "max_unknown_rise": 1}.items()
    },
    "hparams_search.name": Effect(searched, "hparams_search.name=other"),
    "hparams_search.trials": Effect(searched, "hparams_search.trials=3"),
    "hparams_search.workers": Effect(searched, "hparams_search.workers=2"),
    "hparams_search.space": Effect(searched, "hparams_search.space=[{{key: training.optimizer.lr, choices: [1.0]}}]"),
    "cloud.github": Effect(in_cloud, "cloud.github=owner/signs", GITHUB),
    "cloud.github_id": Effect(in_cloud, "cloud.github_id=12", GITHUB),
    "cloud.github_owner_id": Effect(in_cloud, "cloud.github_owner_id=23", GITHUB),
    **{
        f"cloud.canary.{key}": Effect(canary, f"cloud.canary.{key}={value}", ("cloud.canary.max_slowdown=3",))
        for key, value in {
            "minutes": 1,
            "requests": 300,
            "max_error_increase": 0,
            "max_slowdown": 1,
            "max_unknown_increase": 0.01,
        }.items()
    },
    **{
        f"cloud.retrain.{key}": Effect(retrained, f"cloud.retrain.{key}={value}", FEW_LABELS)
        for key, value in {
            "only_after_drift": "true",
            "min_new": 3,
            "window": "7d",
            "only_reviewed": "false",
            "options": "[data=official]",
        }.items()
    },
    "cloud.load.users": Effect(loaded, "cloud.load.users=3"),
    "cloud.load.seconds": Effect(loaded, "cloud.load.seconds=5"),
    "cloud.dry_run": Effect(in_cloud, "cloud.dry_run=false", refused="gcloud is not installed"),
    "cloud.teardown.confirm": Effect(confirmed, "cloud.teardown.confirm=my-project", ("cloud.dry_run=false",)),
    "cloud.bucket": Effect(in_cloud, "cloud.bucket=other-bucket", ("cloud.prediction_log=null",)),
    **{
        f"cloud.{key}": Effect(in_cloud, f"cloud.{key}={value}")
        for key, value in {
            "project": "other-project",
            "region": "europe-west1",
            "models": "gs://my-project-gtsrb/other",
            "prediction_log": "gs://my-project-gtsrb/prediction_log/signs",
            "name": "signs",
            "tag": "v2",
            "serve.stage": "staging",
            "serve.public": "true",
            "serve.cpu_always": "true",
            "serve.metrics": "true",
            "alert_email": "me@example.com",
            "canary.share": 20,
            "serve.model": "models:/gtsrb@production",
            "serve.cpu": 2,
            "serve.memory": "2Gi",
            "serve.concurrency": 8,
            "serve.min_instances": 1,
            "serve.max_instances": 5,
            "train.action": "start",
            "train.job": "two",
            "train.data": "gs://my-project-gtsrb/gtsrb/raw/a.zip",
            "train.collected": "gs://my-project-gtsrb/jobs/a/collected.zip",
            "train.options": "[data=official]",
            "train.machine": "g2-standard-4",
            "train.accelerator": "NVIDIA_A100",
            "train.accelerators": 2,
            "train.replicas": 2,
            "train.hours": 3,
            "drift.window": "7d",
            "drift.schedule": "0 7 * * *",
            "build.train": "true",
            "build.deploy": "false",
            "budget": 50,
            "teardown.data": "true",
        }.items()
    },
    "seed": Effect(trained_model, "seed=7"),
    "device": Effect(placed, "device=cuda"),
    "run_dir": Effect(trained_model, "run_dir={folder}/run2"),
    "ckpt_path": Effect(trained_model, "ckpt_path={folder}/elsewhere/best_model.pth"),
}


def leaves(model: type[BaseModel], example: Any, prefix: str = "") -> Iterator[str]:
    """Yields the keys of the schema. Sections without a schema, such as the model, have the keys of the example."""
    for name, field in model.model_fields.items():
        kinds = () if get_origin(field.annotation) is list else (field.annotation, *get_args(field.annotation))
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        value = example.get(name) if isinstance(example, dict) else None
        if section:
            yield from leaves(section, value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            yield from (f"{prefix}{name}.{key}" for key in value)
        else:
            yield f"{prefix}{name}"


@pytest.fixture(scope="module")
def places(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns the folders that the settings above name: a trained model, and two folders of raw images."""
    folder = tmp_path_factory.mktemp("effects")
    raw = write_kaggle(folder / "raw", tracks=4, frames=2, test_images=2)
    make_image(1, seed=5).save(raw / "Train/1/extra.png")  # an unlisted image, so on_bad_image matters
    (raw / "wrong.csv").write_text("path\nTrain/0/00000_00000_00000.png\n")
    other = write_kaggle(folder / "other", tracks=3, frames=2, test_images=2)
    collected = write_collected(folder / "collected", ["0", "1"])
    return {"trained": exported.parents[1], "raw": raw, "other": other, "collected": collected}


@pytest.fixture
def result_of(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., object]:
    """Returns a function that runs a probe in a new folder."""

    def run(probe: Probe, *overrides: str) -> object:
        folder = tmp_path_factory.mktemp("run")
        fresh = probe in (prepared, rendered) or any("image_size" in override for override in overrides)
        base = [
            f"data.raw_dir={'{raw}' if fresh else 'null'}",
            f"data.processed_dir={'{folder}/processed' if fresh else '{trained}/processed'}",
            f"data.on_bad_image={'skip' if fresh else 'stop'}",
            *("data.image_size=24", "model.width=4", "device=cpu", "training.export=false"),
            f"training.epochs={3 if probe is stopped else 2}",
            *("training.batch_size=16", "training.size_schedule=[]", "run_dir={folder}/run"),
            *("ckpt_path={folder}/latest/best_model.pth", "evaluation.reports_dir={folder}/reports"),
            *(
                "cloud.dry_run=true",
                "cloud.train.job=one",
                "cloud.tag=v1",
                "cloud.prediction_log=gs://my-project-gtsrb/prediction_log",
            ),
            "hparams_search.trials=2",
        ]
        given = [override.format(folder=folder, **places) for override in (*base, *overrides)]
        return probe(quick_config(given), folder)

    return run


BASES: dict[tuple[Probe, tuple[str, ...]], object] = {}  # results of the base configurations, each computed once


@pytest.mark.parametrize("key", EFFECTS)
def test_the_setting_takes_effect_or_is_refused(key: str, result_of: Callable[..., object]) -> None:
    effect = EFFECTS[key]
    if effect.refused:
        with pytest.raises(MlopsError, match=effect.refused):
            result_of(effect.probe, *effect.base, effect.override)
        return
    case = (effect.probe, effect.base)
    if case not in BASES:
        BASES[case] = result_of(effect.probe, *effect.base)
    assert result_of(effect.probe, *effect.base, effect.override) != BASES[case]


@pytest.mark.parametrize("probe", sorted({effect.probe.__name__ for effect in EFFECTS.values()} - {"stored"}))
def test_equal_settings_give_equal_results(probe: str, result_of: Callable[..., object]) -> None:
    """Without this, the test above would prove nothing."""
    effect = next(effect for effect in EFFECTS.values() if effect.probe.__name__ == probe and not effect.refused)
    assert result_of(effect.probe, *effect.base) == result_of(effect.probe, *effect.base)


def test_no_setting_is_forgotten() -> None:
    """A new key needs an entry in EFFECTS."""
    assert set(leaves(Config, quick_config().to_dict())) == set(EFFECTS)
