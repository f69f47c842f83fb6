"""Training and inference on a GPU. The tests are skipped where torch finds none."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from src.mlops.config import Config
from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import ConfigError
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.inference.classifier import Classifier
from src.mlops.model import build_model, choose_device
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.modelfile.metadata import FP16_TOLERANCE
from src.mlops.modelfile.onnx_export import export
from src.mlops.training.train import train
from src.mlops.training.train_loop import State, train_step
from tests.helpers.storage_emulator import free_port

MakeConfig = Callable[..., Config]
CUDA = "CUDAExecutionProvider"
pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_learns_in_each_precision(make_config: MakeConfig, tmp_path: Path, precision: str) -> None:
    config = make_config("device=cuda", "training.epochs=12", f"training.precision={precision}")
    metrics = train(config)
    assert metrics["val_Accuracy"] > 0.9
    weights = load_checkpoint(tmp_path / "latest/best_model.pth").model.state_dict()
    assert all(tensor.device.type == "cpu" and tensor.isfinite().all() for tensor in weights.values())
    # The same model on the GPU and on the CPU
    results = [evaluate(config.replace({"device": device})) for device in ("cuda", "cpu")]
    assert results[0]["Accuracy"] == pytest.approx(results[1]["Accuracy"], abs=1 / 12)


def test_a_resumed_run_continues(make_config: MakeConfig, tmp_path: Path) -> None:
    own = ["device=cuda", "training.schedule=constant", "training.precision=fp16", "training.early_stopping=0"]
    train(make_config(*own, "training.epochs=6", f"run_dir={tmp_path / 'whole'}"))
    train(make_config(*own, "training.epochs=3"))
    metrics = train(make_config(*own, "training.epochs=6", "training.resume=true"))
    lines = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert len(lines) == len((tmp_path / "whole/metrics.csv").read_text().splitlines()) == 7
    # On a GPU, sums depend on the order of threads, so the weights need not be bit-identical.
    assert metrics["val_Accuracy"] > 0.9


def test_one_gpu_by_number(make_config: MakeConfig) -> None:
    last = torch.cuda.device_count() - 1
    assert choose_device(f"cuda:{last}") == torch.device("cuda", last)
    train(make_config("training.epochs=1", f"device=cuda:{last}"))
    with pytest.raises(ConfigError, match=rf"'cuda:{last + 1}' does not exist.*cuda:0 to cuda:{last}"):
        choose_device(f"cuda:{last + 1}")


def test_channels_last_weights_stay_so(make_config: MakeConfig) -> None:
    config = make_config("device=cuda")
    model = build_model(config.model, 43).cuda().to(memory_format=torch.channels_last)
    state = State(config, model, steps_per_epoch=4, data_fingerprint="", classes=SIGNS)
    state.start_epoch()
    images = torch.rand(8, 3, 24, 24, device="cuda") * 255
    totals = train_step(state, images, torch.arange(8, device="cuda"))
    assert totals.device.type == "cuda"
    assert totals.isfinite().all()
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_one_process_with_nccl(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    torch.distributed.init_process_group("nccl", rank=0, world_size=1)
    try:
        config = make_config("device=cuda")
        model = torch.nn.parallel.DistributedDataParallel(build_model(config.model, 43).cuda())
        images = torch.randint(0, 256, (8, 3, 24, 24), dtype=torch.uint8, device="cuda")
        torch.nn.functional.cross_entropy(model(images), torch.arange(8, device="cuda")).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert train(config)["val_loss"] > 0
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is not installed")
@pytest.mark.parametrize("fp16", [False, True])
def test_exports_run_with_the_cuda_provider(checkpoint: Path, tmp_path: Path, fp16: bool) -> None:
    file = export(Path(shutil.copy(checkpoint, tmp_path)), fp16=fp16)
    images = np.random.default_rng(0).integers(0, 256, (32, 3, 24, 24), np.uint8)
    session = onnxruntime.InferenceSession(file, providers=[CUDA])
    assert session.get_providers()[0] == CUDA
    found = session.run(["probabilities"], {"images": images})[0]
    assert found.shape == (32, len(SIGNS))
    expected = Classifier.load(checkpoint).run(images.transpose(0, 2, 3, 1)).probabilities
    np.testing.assert_allclose(found, expected, atol=FP16_TOLERANCE)  # the GPU may compute in TF32
