"""Tests splits, batches and augmentation."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from src.mlops.config import AugmentationConfig, Config, SplitConfig
from src.mlops.data.augment import OUTLIER, augment
from src.mlops.data.checks import check
from src.mlops.data.dataset import Batches
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.packing import SplitArrays, stack
from src.mlops.data.prepare import prepare
from src.mlops.data.splits import assign_splits, hold_out
from tests.helpers.tiny import quick_config


def table(groups_per_class: int, classes: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"class_id": class_id, "group": class_id * 1000 + group}
            for class_id in range(classes)
            for group in range(groups_per_class)
            for _ in range(5)
        ]
    )


class TestHoldOut:
    @pytest.mark.parametrize("test_size", [0.01, 0.2, 0.5, 0.99])
    def test_every_class_is_on_both_sides_but_no_group_is(self, test_size: float) -> None:
        frame = table(10)
        held_out = hold_out(frame, test_size=test_size, seed=0)
        for _, rows in frame.groupby("class_id"):
            assert 0 < held_out[rows.index].mean() < 1
        assert (held_out.groupby(frame["group"]).nunique() == 1).all()
        assert held_out.mean() == pytest.approx(test_size, abs=0.1)

    @pytest.mark.parametrize("seed", range(5))
    def test_groups_with_several_classes(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        frame = pd.DataFrame({"class_id": rng.integers(0, 30, 400), "group": rng.integers(0, 12, 400)})
        held_out = hold_out(frame, test_size=0.2, seed=seed)
        assert (held_out.groupby(frame["group"]).nunique() == 1).all()
        assert set(frame["class_id"][~held_out]) == set(frame["class_id"])
        assert 0.1 < held_out.mean() < 0.5

    def test_seed_decides(self) -> None:
        frame = table(20)
        first, again, other = (hold_out(frame, test_size=0.2, seed=seed) for seed in (1, 1, 2))
        assert first.equals(again)
        assert not first.equals(other)


class TestReference:
    @staticmethod
    def splits(groups_per_class: int, given: str = "train") -> pd.Series:
        frame = table(groups_per_class).rename(columns={"group": "track_id"}).astype({"track_id": str})
        frame["content_hash"] = frame.index.astype(str)
        frame["path"] = frame["content_hash"] + ".png"
        half = frame["track_id"].isin(frame["track_id"].unique()[::2])
        frame["split"] = np.where(half, given, "train")
        test = frame.tail(5).assign(split="test", track_id="x", path="t.png", content_hash="t")
        frame = pd.concat([frame, test], ignore_index=True)
        facts = {"problem": "", "width": 0, "height": 0, "found_width": 1, "found_height": 1}
        findings = check(frame.assign(**facts), SIGNS, [])
        split = assign_splits(frame, findings, SplitConfig(test_size=0.2, seed=0))
        assert (split.groupby(frame["track_id"]).nunique() == 1).all()  # no group crosses a split
        return split

    def test_a_quarter_of_the_groups_held_out_for_validation(self) -> None:
        counts = self.splits(400).value_counts()
        assert dict(counts) == {"train": 4800, "val": 900, "reference": 300, "test": 5}

    def test_training_images_do_not_depend_on_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_reference = self.splits(400) == "train"
        monkeypatch.setattr("src.mlops.data.splits.FEWEST_GROUPS", 10**9)
        without = self.splits(400)
        assert with_reference.equals(without == "train")
        assert "reference" not in set(without)

    def test_few_images_and_given_validation_images_are_left_as_they_are(self) -> None:
        assert "reference" not in set(self.splits(300))
        assert "reference" not in set(self.splits(2000, given="val"))


@pytest.fixture
def arrays() -> SplitArrays:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 24, 24, 3), dtype=np.uint8)
    rows = np.arange(10, 47)
    return SplitArrays(images, rows, rows % 43, [str(row) for row in rows], [f"{row:032x}" for row in rows])


class TestBatches:
    def test_keeps_order_without_a_seed(self, arrays: SplitArrays) -> None:
        batches = list(Batches(arrays, 8).epoch())
        assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 5]
        images = torch.cat([images for images, _ in batches])
        assert (images.dtype, images.shape) == (torch.uint8, (37, 3, 24, 24))
        np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), arrays.images[10:47])
        np.testing.assert_array_equal(torch.cat([labels for _, labels in batches]).numpy(), arrays.labels)

    def test_each_epoch_has_every_image_once_in_its_own_order(self, arrays: SplitArrays) -> None:
        def order(seed: int, epoch: int) -> list[int]:
            return [int(label) for _, labels in Batches(arrays, 8, seed).epoch(epoch) for label in labels]

        assert sorted(order(0, 0)) == sorted(arrays.labels.tolist())
        assert order(0, 1) == order(0, 1)
        assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def settings(**changes: float | bool) -> AugmentationConfig:
    return quick_config().training.augmentation.model_copy(update=changes)


MIRRORS = torch.tensor(SIGNS.mirrors)
OFF = dict.fromkeys(AugmentationConfig.model_fields, 0.0) | {"mirror": False}


def run(images: torch.Tensor, labels: torch.Tensor, size: int = 24, seed: int = 0, **changes: float | bool):  # type: ignore[no-untyped-def]
    return augment(images, labels, settings(**changes), torch.Generator().manual_seed(seed), size, MIRRORS)


class TestAugment:
    images = torch.randint(0, 256, (43, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(43)

    def test_no_augmentation_changes_nothing(self) -> None:
        images, labels = run(self.images, self.labels, **OFF)
        torch.testing.assert_close(images, self.images.float(), atol=1e-2, rtol=0)
        assert torch.equal(labels, self.labels)

    @pytest.mark.parametrize(
        "change", [{name: 0.5} for name in AugmentationConfig.model_fields if name != "mirror"] + [{"mirror": True}]
    )
    def test_each_change_changes_images_within_bounds(self, change: dict[str, float]) -> None:
        images, _ = run(self.images, self.labels, **(OFF | change))
        assert (images - self.images).abs().max() > 1
        assert images.min() >= -1e-3
        assert images.max() <= 255 + 1e-3

    def test_resizes_to_the_training_size(self) -> None:
        assert run(self.images, self.labels, size=16)[0].shape == (43, 3, 16, 16)

    def test_same_seed_same_batch(self) -> None:
        assert torch.equal(run(self.images, self.labels, seed=3)[0], run(self.images, self.labels, seed=3)[0])
        assert not torch.equal(run(self.images, self.labels, seed=3)[0], run(self.images, self.labels, seed=4)[0])

    def test_some_signs_lose_all_colour_and_keep_their_brightness(self) -> None:
        images, _ = run(self.images, self.labels, **(OFF | {"saturation": 2.0}))
        grey = (images.amax(dim=1) - images.amin(dim=1)).amax(dim=(1, 2)) < 1e-2
        assert 0 < grey.sum() < len(images)
        expected = self.images.float().mean(dim=1)[grey]
        torch.testing.assert_close(images[grey].mean(dim=1), expected, atol=1e-2, rtol=0)

    def test_mirrored_signs_get_the_mirrored_class(self) -> None:
        images, labels = run(self.images, self.labels, **(OFF | {"mirror": True}))
        mirrored = torch.flip(self.images.float(), dims=[3])
        for sign, image, label in zip(SIGNS, images, labels.tolist(), strict=True):
            if torch.allclose(image, mirrored[sign.class_id], atol=1e-2):
                assert label == sign.mirror
            else:
                assert label == sign.class_id
        assert (labels != self.labels).any()

    def test_outliers_are_not_mirrored(self) -> None:
        outliers = torch.full_like(self.labels, OUTLIER)
        images, labels = run(self.images, outliers, **(OFF | {"mirror": True}))
        torch.testing.assert_close(images, self.images.float(), atol=1e-2, rtol=0)
        assert torch.equal(labels, outliers)

    @pytest.mark.parametrize("left_out", [sign.class_id for sign in SIGNS if sign.mirror not in (None, sign.class_id)])
    def test_mirroring_creates_no_left_out_class(self, left_out: int) -> None:
        kept = (self.labels != left_out).nonzero().squeeze(1).repeat(8)
        changes = settings(**(OFF | {"mirror": True}))
        generator = torch.Generator().manual_seed(0)
        images, labels = augment(self.images[kept], self.labels[kept], changes, generator, 24, MIRRORS, [left_out])
        assert left_out not in labels
        assert set(labels.tolist()) == set(range(43)) - {left_out}
        unchanged = images[kept == SIGNS[left_out].mirror] - self.images[SIGNS[left_out].mirror]
        assert unchanged.abs().max() < 1e-2


def test_signs_mirror_each_other() -> None:
    for sign in SIGNS:
        if sign.mirror is not None:
            assert SIGNS[sign.mirror].mirror == sign.class_id
    assert [sign.class_id for sign in SIGNS] == list(range(43))
    assert len({sign.name for sign in SIGNS}) == len({sign.number for sign in SIGNS}) == 43


def test_stacked_packs_are_read_as_one(arrays: SplitArrays) -> None:
    other = SplitArrays(255 - arrays.images, arrays.rows[:5], arrays.labels[:5], arrays.paths[:5], arrays.hashes[:5])
    whole = stack(stack(arrays, other), arrays)
    expected = np.concatenate([arrays.images, 255 - arrays.images, arrays.images])
    rows = np.random.default_rng(0).permutation(len(expected))
    assert whole.images.shape == expected.shape
    np.testing.assert_array_equal(whole.images[rows], expected[rows])
    batches = torch.cat([images for images, _ in Batches(whole, 7).epoch()]).permute(0, 2, 3, 1).numpy()
    chosen = [arrays.images[arrays.rows], other.images[other.rows], arrays.images[arrays.rows]]
    np.testing.assert_array_equal(batches, np.concatenate(chosen))


def test_images_stay_memory_mapped(make_config: Callable[..., Config]) -> None:
    assert isinstance(prepare(make_config().data).load("train").images, np.memmap)


def test_releasing_pages_changes_no_image(make_config: Callable[..., Config]) -> None:
    arrays = prepare(make_config().data).load("train", "val")
    for _ in range(2):  # after some batches, the pages that were read are released
        images = torch.cat([images for images, _ in Batches(arrays, 1).epoch()]).permute(0, 2, 3, 1).numpy()
        assert len(images) > 64
        assert (images == arrays.images[arrays.rows]).all()
