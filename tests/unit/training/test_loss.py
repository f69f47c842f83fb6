"""The loss with unknown things and with a teacher."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.mlops.config import Config, TrainingConfig
from src.mlops.data.augment import OUTLIER
from src.mlops.errors import ConfigError
from src.mlops.modelfile.checkpoint import load_checkpoint, read_plain, write_content
from src.mlops.training.loss import Loss
from src.mlops.training.train import train
from tests.helpers.synthetic import draw_quickly
from tests.helpers.tiny import quick_config

IMAGES = torch.zeros(3, 3, 24, 24)


class Fixed(nn.Module):
    """A teacher that always gives the same logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def settings(*overrides: str) -> TrainingConfig:
    return quick_config(["training.label_smoothing=0", *overrides]).training


def test_without_outliers_it_is_the_cross_entropy() -> None:
    logits, labels = torch.randn(3, 4), torch.tensor([0, 3, 1])
    loss, correct = Loss(settings(), None, ())(logits, IMAGES, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    assert correct == (logits.argmax(1) == labels).sum()


def test_with_outliers_it_pushes_the_energy_of_unknown_things_up() -> None:
    loss = Loss(settings("training.outliers={images: 100, seed: 0}"), None, ())
    logits = torch.tensor([[2.0, 0.5, -1.0]], requires_grad=True)
    known, _ = loss(logits, IMAGES[:1], torch.tensor([0]))
    [gradient] = torch.autograd.grad(known, logits)
    assert torch.logsumexp(logits - gradient, 1) > torch.logsumexp(logits, 1)
    unknown, correct = loss(logits, IMAGES[:1], torch.tensor([OUTLIER]))
    torch.testing.assert_close(unknown.detach(), torch.log1p(torch.logsumexp(logits, 1).exp()).mean().detach())
    assert correct == 0
    assert loss(torch.full((1, 3), -9.0), IMAGES[:1], torch.tensor([OUTLIER]))[1] == 1
    [gradient] = torch.autograd.grad(unknown, logits)
    assert torch.logsumexp(logits - gradient, 1) < torch.logsumexp(logits, 1)


def test_class_weights_do_not_apply_to_outliers() -> None:
    weights = torch.tensor([5.0, 1.0])
    loss = Loss(settings("training.outliers={images: 100, seed: 0}"), weights, ())
    logits = torch.randn(2, 2)
    alone, _ = loss(logits, IMAGES[:2], torch.tensor([OUTLIER, OUTLIER]))
    torch.testing.assert_close(alone, F.softplus(torch.logsumexp(logits, 1)).mean())


def test_a_teacher_is_followed() -> None:
    teacher = Fixed(torch.tensor([[0.0, 3.0, 0.0]]))
    loss = Loss(settings(), None, [teacher, teacher])
    labels = torch.tensor([0])
    like_the_teacher, _ = loss(torch.tensor([[0.0, 3.0, 0.0]]), IMAGES[:1], labels)
    like_the_label, _ = loss(torch.tensor([[3.0, 0.0, 0.0]]), IMAGES[:1], labels)
    assert like_the_teacher < like_the_label


def test_the_label_of_an_outlier_counts_more_than_its_teacher() -> None:
    teacher = Fixed(torch.tensor([[0.0, 9.0, 0.0]]))
    loss = Loss(settings("training.outliers={images: 100, seed: 0}"), None, [teacher])
    labels = torch.tensor([OUTLIER])
    like_the_teacher, _ = loss(torch.tensor([[0.0, 9.0, 0.0]]), IMAGES[:1], labels)
    like_the_label, _ = loss(torch.full((1, 3), -9.0), IMAGES[:1], labels)
    assert like_the_label < 0.1 < 5 < like_the_teacher


class TestTeacher:
    def test_changes_the_student(self, make_config: Callable[..., Config], checkpoint: Path, tmp_path: Path) -> None:
        def student(*overrides: str) -> Tensor:
            config = make_config("training.epochs=1", *overrides)
            train(config)
            return load_checkpoint(config.ckpt_path).model.head.weight

        alone = student()
        taught = student(f"training.teachers=[{checkpoint}]", f"run_dir={tmp_path / 'second'}")
        assert not torch.equal(alone, taught)

    def test_that_saw_the_validation_images_is_refused(
        self, make_config: Callable[..., Config], checkpoint: Path, tmp_path: Path
    ) -> None:
        content = read_plain(checkpoint)
        content["provenance"]["trained_on"] = ["train", "val"]
        write_content(tmp_path / "final.pth", content)
        with pytest.raises(ConfigError, match=r"training\.teachers.*final\.pth.*best_model\.pth"):
            train(make_config(f"training.teachers=[{tmp_path}/final.pth]"))

    def test_that_knows_a_class_to_leave_out_is_refused(
        self, make_config: Callable[..., Config], checkpoint: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"training\.leave_out: class 2 .*training\.teachers"):
            train(make_config(f"training.teachers=[{checkpoint}]", "training.leave_out=[2]"))

    def test_whose_training_images_are_now_used_for_validation_is_refused(
        self, make_config: Callable[..., Config], checkpoint: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"training\.teachers.*best_model\.pth.*data\.split\.seed"):
            train(make_config(f"training.teachers=[{checkpoint}]", "data.split.seed=3"))

    def test_that_does_not_exist_is_named_before_the_data_is_prepared(
        self, make_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"training\.teachers: there is no .*none\.pth\. Train this model first"):
            train(make_config(f"training.teachers=[{tmp_path}/none.pth]"))
        assert not (tmp_path / "processed").exists()

    def test_that_takes_outliers_for_signs_is_refused(
        self, make_config: Callable[..., Config], checkpoint: Path
    ) -> None:
        outliers = "training.outliers={images: 100, seed: 0}"
        with pytest.raises(ConfigError, match=r"training\.teachers: .* without outliers"):
            train(make_config(f"training.teachers=[{checkpoint}]", outliers))

    def test_of_other_classes_is_refused(
        self, make_config: Callable[..., Config], checkpoint: Path, tmp_path: Path
    ) -> None:
        content = read_plain(checkpoint)
        content["classes"][0]["name"] = "Other"
        write_content(tmp_path / "other.pth", content)
        with pytest.raises(
            ConfigError, match=r"training\.teachers.*other\.pth has other classes.*training\.teachers=\[\]"
        ):
            train(make_config(f"training.teachers=[{tmp_path}/other.pth]"))


def test_outliers_are_trained_on_but_not_validated(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_quickly(monkeypatch)
    config = make_config("training.outliers={images: 100, seed: 0}", "training.epochs=1")
    train(config)
    text = (tmp_path / "run" / "train.log").read_text()
    assert "outliers" in text
    assert load_checkpoint(config.ckpt_path).model.head.out_features == 43
