"""The networks: shapes, sizes and allowed classes."""

import pytest
import torch

from src.mlops.errors import ConfigError
from src.mlops.model import LIMIT, MODELS, SignNet, build_model, choose_device, count_parameters, predict_logits
from tests.helpers.tiny import quick_config

SMALL = [{"_target_": "src.mlops.model.SignNet", "width": 4}, {"_target_": "src.mlops.model.TinyCNN"}]
LITE0 = {"_target_": "src.mlops.model.EfficientNetLite0"}


@pytest.mark.parametrize("config", [*SMALL, LITE0])
@pytest.mark.parametrize("shape", [(24, 24), (32, 32), (48, 64), (65, 41)])
def test_input_sizes_from_24_px(config: dict[str, object], shape: tuple[int, int]) -> None:
    model = build_model(config, 43).eval()
    images = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    logits = model(images)
    assert (logits.shape, logits.dtype) == ((2, 43), torch.float32)
    embedding = model.embed(images)
    assert embedding.ndim == 2
    torch.testing.assert_close(model.head(embedding), logits)


@pytest.mark.parametrize("config", SMALL)
def test_exposure_and_background_have_little_effect(config: dict[str, object]) -> None:
    model = build_model(config, 43).eval()
    sign = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    normalised = model.features[0](sign)
    middle = normalised[:, :, 6:26, 6:26]
    assert middle.mean().abs() < 1e-5
    assert 0.9 < middle.std() < 1.0
    dark = model.features[0](0.5 * sign)
    assert (dark - normalised).abs().max() < 0.2
    bright_sky = sign.clone()
    bright_sky[:, :, :4] = 10_000.0
    changed = model.features[0](bright_sky)
    assert torch.equal(changed[:, :, 6:26], normalised[:, :, 6:26])
    assert changed.max() == LIMIT


@pytest.mark.parametrize("config", SMALL)
def test_uint8_and_float_pixels_give_equal_logits(config: dict[str, object]) -> None:
    model = build_model(config, 43).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(model(images), model(images.float()))


def test_signnet_has_the_documented_size() -> None:
    assert count_parameters(SignNet(43)) == 299_107


@pytest.mark.parametrize(
    "config",
    [
        {"_target_": "os.system", "command": "echo"},
        {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1},
        {"_target_": None},
        {},
        {"_target_": "src.mlops.model.SignNet", "depth": 3},
        {"_target_": ["src.mlops.model.SignNet"]},
        {"_target_": "src.mlops.model.SignNet", "num_classes": 5},
        {"_target_": "src.mlops.model.SignNet", "width": 0},
        {"_target_": "src.mlops.model.SignNet", "width": 1e22},
        {"_target_": "src.mlops.model.SignNet", "dropout": 2.0},
        {"_target_": "src.mlops.model.EfficientNetLite0", "weights": 5},
    ],
)
def test_unknown_classes_and_arguments_are_rejected(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"src\.mlops\.model\."):
        build_model(config, 43)


@pytest.mark.parametrize("name", ["signnet", "tiny_cnn", "efficientnet_lite0"])
def test_config_groups_build(name: str) -> None:
    assert type(build_model(quick_config([f"model={name}"]).model, 43)) in MODELS.values()


def test_predict_logits_keeps_the_order() -> None:
    model = build_model(SMALL[0], 43)
    images = torch.randint(0, 256, (5, 3, 24, 24), dtype=torch.uint8)
    labels = torch.zeros(5)
    together = predict_logits(model, [(images, labels)])
    parts = predict_logits(model, [(images[:2], labels[:2]), (images[2:], labels[2:])])
    torch.testing.assert_close(torch.from_numpy(together), torch.from_numpy(parts))


def test_unavailable_device() -> None:
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda'"):
            choose_device("cuda")


def test_a_gpu_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cuda").index is None
    with pytest.raises(ConfigError, match=r"'cuda:2' does not exist.*cuda:0 to cuda:1"):
        choose_device("cuda:2")
