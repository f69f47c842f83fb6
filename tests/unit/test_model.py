"""The networks: shapes, sizes, and what may be built."""

import pytest
import torch

from src.mlops.config import load_config
from src.mlops.errors import ConfigError
from src.mlops.model import LIMIT, MODELS, SignNet, build_model, choose_device, count_parameters, predict_logits
from src.mlops.optimization import average_weights, build_optimizer, build_scheduler, size_of_epoch

SMALL = [{"_target_": "src.mlops.model.SignNet", "width": 4}, {"_target_": "src.mlops.model.TinyCNN"}]
LITE0 = {"_target_": "src.mlops.model.EfficientNetLite0"}


@pytest.mark.parametrize("config", [*SMALL, LITE0])
@pytest.mark.parametrize("shape", [(24, 24), (32, 32), (48, 64), (65, 41)])
def test_any_input_size_of_24_and_more(config: dict[str, object], shape: tuple[int, int]) -> None:
    model = build_model(config).eval()
    images = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    logits = model(images)
    assert (logits.shape, logits.dtype) == ((2, 43), torch.float32)
    embedding = model.embed(images)
    assert embedding.ndim == 2
    torch.testing.assert_close(model.head(embedding), logits)


@pytest.mark.parametrize("config", SMALL)
def test_light_and_what_lies_around_the_sign_change_little(config: dict[str, object]) -> None:
    model = build_model(config).eval()
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
def test_uint8_and_float_pixels_give_the_same_answer(config: dict[str, object]) -> None:
    model = build_model(config).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(model(images), model(images.float()))


def test_signnet_has_the_size_that_it_is_documented_with() -> None:
    assert count_parameters(SignNet()) == 299_107


@pytest.mark.parametrize("config", SMALL)
def test_learns_a_batch_by_heart(config: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = build_model({**config, "dropout": 0.0})
    images = torch.randint(0, 256, (16, 3, 24, 24), dtype=torch.uint8)
    labels = torch.arange(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


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
def test_refuses_what_is_not_in_the_list(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        build_model(config)


@pytest.mark.parametrize("name", ["signnet", "tiny_cnn", "efficientnet_lite0"])
def test_config_groups_build(name: str) -> None:
    assert type(build_model(load_config([f"model={name}"]).model)) in MODELS.values()


def test_predict_logits_keeps_order_and_restores_nothing_random() -> None:
    model = build_model(SMALL[0])
    images = torch.randint(0, 256, (5, 3, 24, 24), dtype=torch.uint8)
    labels = torch.zeros(5)
    whole = predict_logits(model, [(images, labels)])
    parts = predict_logits(model, [(images[:2], labels[:2]), (images[2:], labels[2:])])
    torch.testing.assert_close(torch.from_numpy(whole), torch.from_numpy(parts))


def test_device_that_is_not_there() -> None:
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda'"):
            choose_device("cuda")


class TestOptimization:
    def test_weight_decay_is_for_weights_only(self) -> None:
        model = build_model(SMALL[0])
        weights, others = build_optimizer(model, load_config().training).param_groups
        assert weights["weight_decay"] == 0.05
        assert others["weight_decay"] == 0.0
        assert {parameter.ndim for parameter in others["params"]} == {1}
        assert sum(len(group["params"]) for group in (weights, others)) == len(list(model.parameters()))

    @pytest.mark.parametrize("target", ["torch.optim.Nothing", "os.system", "torch.optim.lr_scheduler.OneCycleLR"])
    def test_refuses_what_is_no_optimizer(self, target: str) -> None:
        training = load_config([f"training.optimizer._target_={target}"]).training
        with pytest.raises(ConfigError, match=r"a class of torch\.optim"):
            build_optimizer(build_model(SMALL[0]), training)

    def test_refuses_unknown_arguments(self) -> None:
        training = load_config(["+training.optimizer.speed=3"]).training
        with pytest.raises(ConfigError, match="speed"):
            build_optimizer(build_model(SMALL[0]), training)

    @pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "Adagrad"])
    def test_one_cycle_works_with_any_optimizer(self, name: str) -> None:
        training = load_config([f"training.optimizer._target_=torch.optim.{name}", "training.epochs=1"]).training
        optimizer = build_optimizer(build_model(SMALL[0]), training)
        scheduler = build_scheduler(optimizer, training, steps_per_epoch=10)
        rates = []
        for _ in range(9):
            rates.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        assert max(rates) == pytest.approx(0.004)
        assert rates[0] < rates[2] > rates[-1]

    def test_average_follows_slowly_and_copies_counters(self) -> None:
        model = build_model(SMALL[0])
        averaged = average_weights(model, decay=0.9)
        averaged.update_parameters(model)
        before = averaged.module.head.weight.clone()
        with torch.no_grad():
            model.head.weight += 1
        model(torch.zeros(2, 3, 24, 24, dtype=torch.uint8))  # BatchNorm counts it
        averaged.update_parameters(model)
        share = (averaged.module.head.weight - before).mean().item()
        assert 0.1 < share < 1
        counters = [tensor for name, tensor in averaged.module.state_dict().items() if "num_batches" in name]
        assert counters
        assert all(int(counter) == 1 for counter in counters)
        assert torch.equal(average_weights(model, decay=0.0).module.head.weight, model.head.weight)

    def test_sizes_of_the_record_schedule(self) -> None:
        training = load_config(["training.epochs=18"]).training
        assert [size_of_epoch(epoch, training, 48) for epoch in range(18)] == [32] * 6 + [40] * 4 + [48] * 8
        assert {size_of_epoch(epoch, training, 28) for epoch in range(18)} == {28}
