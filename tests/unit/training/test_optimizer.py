"""Optimizer, learning rate, EMA weights and image size over a training."""

import re

import pytest
import torch

from src.mlops.config import load_config
from src.mlops.errors import ConfigError
from src.mlops.model import build_model
from src.mlops.training.optimizer import average_weights, build_optimizer, require_usable
from src.mlops.training.schedules import build_scheduler, size_of_epoch
from tests.helpers.tiny import quick_config

SMALL = [{"_target_": "src.mlops.model.SignNet", "width": 4}, {"_target_": "src.mlops.model.TinyCNN"}]


class TestOptimization:
    def test_weight_decay_is_for_weights_only(self) -> None:
        model = build_model(SMALL[0], 43)
        weights, others = build_optimizer(model, quick_config().training).param_groups
        assert weights["weight_decay"] == 0.05
        assert others["weight_decay"] == 0.0
        assert {parameter.ndim for parameter in others["params"]} == {1}
        assert sum(len(group["params"]) for group in (weights, others)) == len(list(model.parameters()))

    @pytest.mark.parametrize("target", ["torch.optim.Nothing", "os.system", "torch.optim.lr_scheduler.OneCycleLR"])
    def test_refuses_a_target_that_is_not_an_optimizer(self, target: str) -> None:
        training = quick_config([f"training.optimizer._target_={target}"]).training
        with pytest.raises(ConfigError, match=rf"training\.optimizer\._target_.*{re.escape(target)}"):
            build_optimizer(build_model(SMALL[0], 43), training)

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["training.optimizer._target_=torch.optim.LBFGS"], "LBFGS.*weight_decay"),
            (["training.optimizer._target_=torch.optim.LBFGS", "~training.optimizer.weight_decay"], "LBFGS.*groups"),
            (["training.optimizer._target_=torch.optim.Muon"], "Muon.*2D"),
            (["training.optimizer._target_=torch.optim.SparseAdam", "~training.optimizer.weight_decay"], "dense grad"),
            (["+training.optimizer.betas=[0.9]"], r"AdamW.*betas.*\[0\.9\]"),
            (["+training.optimizer.eps=tiny"], "AdamW.*eps.*'tiny'"),
            (["+training.optimizer.amsgrad=maybe"], "amsgrad must be true or false.*'maybe'"),
            (["+training.optimizer.differentiable=true"], "differentiable.*in-place"),
            (["training.optimizer.weight_decay=null"], "weight_decay.*None"),
        ],
    )
    def test_refuses_an_optimizer_that_cannot_train_the_model(self, overrides: list[str], message: str) -> None:
        with pytest.raises(ConfigError, match=rf"^training\.optimizer: .*{message}"):
            require_usable(build_model(SMALL[0], 43), load_config(overrides).training)

    @pytest.mark.parametrize("momentum", [None, 0.5])
    def test_one_cycle_keeps_a_configured_momentum(self, momentum: float | None) -> None:
        own = ["training.optimizer._target_=torch.optim.SGD", "training.epochs=1"]
        own += [f"+training.optimizer.momentum={momentum}"] if momentum else []
        training = quick_config(own).training
        optimizer = build_optimizer(build_model(SMALL[0], 43), training)
        build_scheduler(optimizer, training, steps_per_epoch=10)
        assert optimizer.param_groups[0]["momentum"] == (momentum or 0.95)

    def test_refuses_unknown_arguments(self) -> None:
        training = quick_config(["+training.optimizer.speed=3"]).training
        with pytest.raises(ConfigError, match=r"training\.optimizer.*speed"):
            build_optimizer(build_model(SMALL[0], 43), training)

    @pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "Adagrad"])
    def test_one_cycle_works_with_any_optimizer(self, name: str) -> None:
        training = quick_config([f"training.optimizer._target_=torch.optim.{name}", "training.epochs=1"]).training
        optimizer = build_optimizer(build_model(SMALL[0], 43), training)
        scheduler = build_scheduler(optimizer, training, steps_per_epoch=10)
        rates = []
        for _ in range(9):
            rates.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        assert max(rates) == pytest.approx(0.004)
        assert rates[0] < rates[2] > rates[-1]

    def test_average_follows_slowly_and_copies_counters(self) -> None:
        model = build_model(SMALL[0], 43)
        averaged = average_weights(model, decay=0.9)
        averaged.update_parameters(model)
        before = averaged.module.head.weight.clone()
        with torch.no_grad():
            model.head.weight += 1
        model(torch.zeros(2, 3, 24, 24, dtype=torch.uint8))  # increases the counters of BatchNorm
        averaged.update_parameters(model)
        share = (averaged.module.head.weight - before).mean().item()
        assert 0.1 < share < 1
        counters = [tensor for name, tensor in averaged.module.state_dict().items() if "num_batches" in name]
        assert counters
        assert all(int(counter) == 1 for counter in counters)
        assert torch.equal(average_weights(model, decay=0.0).module.head.weight, model.head.weight)

    def test_sizes_of_the_record_schedule(self) -> None:
        training = quick_config(["training.epochs=18"]).training
        assert [size_of_epoch(epoch, training, 48) for epoch in range(18)] == [32] * 6 + [40] * 4 + [48] * 8
        assert [size_of_epoch(epoch, training, 64) for epoch in (0, 6, 10)] == [43, 53, 64]
        assert size_of_epoch(0, training, 24) == 24  # networks need at least this
