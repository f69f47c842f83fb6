"""Pruning of a wide network by BatchNorm scale."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.mlops.config import Config
from src.mlops.errors import ConfigError
from src.mlops.model import SignNet, TinyCNN
from src.mlops.modelfile.checkpoint import read_plain, write_content
from src.mlops.training.pruning import start_from
from src.mlops.training.train import train


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (9, 24, 24, 3), np.uint8)


class TestPruning:
    def test_keeps_the_strongest_channels(self) -> None:
        wide, narrow = SignNet(43, 8).eval(), SignNet(43, 4).eval()
        # Channels with a scale of zero add nothing, so the outputs must not change without them.
        for name, layer in wide.named_modules():
            if name.endswith(".1") and hasattr(layer, "running_mean"):
                layer.weight.data[::2] = 0
                layer.bias.data[::2] = 0
        start_from(narrow, wide)
        images = np.random.default_rng(0).integers(0, 256, (3, 3, 48, 48), np.uint8)
        import torch

        with torch.inference_mode():
            torch.testing.assert_close(narrow(torch.from_numpy(images)), wide(torch.from_numpy(images)))

    def test_refuses_a_model_that_was_trained_on_the_validation_images(
        self, make_config: Callable[..., Config], checkpoint: Path, tmp_path: Path
    ) -> None:
        content = read_plain(checkpoint)
        content["provenance"]["trained_on"] = ["train", "val"]
        write_content(tmp_path / "final.pth", content)
        with pytest.raises(ConfigError, match=r"training\.start_from.*final\.pth.*best_model\.pth"):
            train(make_config(f"training.start_from={tmp_path}/final.pth"))

    def test_refuses_a_model_whose_training_images_are_now_used_for_validation(
        self, make_config: Callable[..., Config], checkpoint: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"training\.start_from.*best_model\.pth.*data\.split\.seed"):
            train(make_config(f"training.start_from={checkpoint}", "data.split.seed=3"))

    @pytest.mark.parametrize("known", [True, False])
    def test_the_images_of_both_trainings_are_recorded(
        self, known: bool, make_config: Callable[..., Config], checkpoint: Path, tmp_path: Path
    ) -> None:
        content = read_plain(checkpoint)
        earlier = content["provenance"]["image_sketch"] + 16 * "f"  # and one other image
        content["provenance"]["image_sketch"] = earlier if known else None
        write_content(tmp_path / "source.pth", content)
        config = make_config(f"training.start_from={tmp_path}/source.pth", "training.epochs=1")
        train(config)
        found = read_plain(config.ckpt_path)["provenance"]["image_sketch"]
        assert found == (content["provenance"]["image_sketch"] if known else None)

    def test_refuses_a_model_that_was_trained_on_a_left_out_class(
        self, make_config: Callable[..., Config], checkpoint: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"training\.leave_out: class 2 .*training\.start_from=.*best_model\.pth"):
            train(make_config(f"training.start_from={checkpoint}", "training.leave_out=[2]"))

    @pytest.mark.parametrize("source", [SignNet(43, 4), TinyCNN(43)])
    def test_refuses_a_network_that_does_not_fit(self, source: SignNet | TinyCNN) -> None:
        with pytest.raises(ConfigError, match=rf"training\.start_from.*SignNet.*{type(source).__name__}"):
            start_from(SignNet(43, 8), source)
