"""Signs that the data does not have, which are drawn: which images are for which split."""

from pathlib import Path

import pytest

from src.mlops.config import Config, SyntheticConfig
from src.mlops.data.additional import (
    TrainingData,
    classes_to_learn,
    load_further,
    prepare_collected,
    prepare_drawn,
    prepare_further,
)
from src.mlops.data.classes import ClassInfo, ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.packing import Pack
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError, DataError
from tests.helpers.synthetic import FURTHER, draw_quickly
from tests.helpers.tiny import quick_config, tiny_overrides, write_collected, write_kaggle

DRAWN = SyntheticConfig(tracks_per_class=3, frames_per_track=1, test_tracks_per_class=1, seed=0, signs="germany")


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_quickly(monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return quick_config(tiny_overrides(tmp_path, write_kaggle(tmp_path / "raw")))


def training_data(config: Config, collected: Pack | None = None) -> TrainingData:
    return TrainingData(prepare(config.data), collected, prepare_drawn(config.data, DRAWN), [])


class TestClasses:
    def test_are_those_of_the_drawings_if_they_are_more(self) -> None:
        assert classes_to_learn(SIGNS, None) is SIGNS
        assert classes_to_learn(SIGNS, DRAWN) == FURTHER
        assert classes_to_learn(FURTHER, DRAWN) is FURTHER

    def test_those_of_the_data_keep_their_own_mirrors(self) -> None:
        own = ClassList(ClassInfo(sign.class_id, sign.name) for sign in SIGNS)
        assert classes_to_learn(own, DRAWN.model_copy(update={"signs": "gtsrb"})) is own

    @pytest.mark.parametrize(
        ("data", "signs", "message"),
        [
            (ClassList.of_names(["apple", "pear"]), "germany", "class 0 is 'apple' instead of 'Speed limit 20 km/h'"),
            # A number of classes would be misleading here, because the data need not have all of them.
            (
                ClassList([*SIGNS, ClassInfo(43, "Tunnel")]),
                "germany",
                "class 43 is 'Tunnel' instead of 'Double bend, first to the right'",
            ),
            (FURTHER, "gtsrb", "45 classes instead of 43"),
            (
                ClassList([ClassInfo(0, "Stop"), ClassInfo(1, "Give way")]),
                "gtsrb",
                "class 0 is 'Stop' instead of 'Speed limit 20",
            ),
            (
                ClassList([ClassInfo(place, f"other {place}") for place in range(45)]),
                "germany",
                "class 0 is 'other 0' instead of 'Speed limit 20 km/h'",
            ),
        ],
    )
    def test_drawings_of_other_signs_than_those_of_the_data_are_refused(
        self, data: ClassList, signs: str, message: str
    ) -> None:
        settings = DRAWN.model_copy(update={"signs": signs})
        with pytest.raises(ConfigError, match=rf"training\.drawn\.signs={signs}.*{message}.*training\.drawn=null"):
            classes_to_learn(data, settings)


class TestSplits:
    def test_drawings_of_further_signs_are_split_and_all_others_are_for_training(self, config: Config) -> None:
        data = training_data(config)
        assert data.classes == FURTHER
        training = data.training_images("train")
        real = len(data.pack.load("train").rows)
        assert len(training.rows) == real + 43 * 4 + 2 * 2  # four tracks of each sign, two in the split for training
        further = {name: data.further(name) for name in ("train", "val", "test")}
        assert all(arrays and set(arrays.labels) == {43, 44} for arrays in further.values())
        hashes = {name: set(arrays.hashes) for name, arrays in further.items() if arrays}
        assert hashes["train"] <= set(training.hashes)
        assert not (hashes["val"] | hashes["test"]) & set(training.hashes)
        both = data.training_images("train", "val")
        assert hashes["val"] <= set(both.hashes)
        assert not hashes["test"] & set(both.hashes)
        assert set(data.load("val").labels) == {0, 1, 2, 3}

    def test_their_reference_split_is_for_validation(self, config: Config) -> None:
        many = DRAWN.model_copy(update={"tracks_per_class": 25})  # 225 tracks are held out
        pack = prepare_drawn(config.data, many)
        index = pack.index()
        held_out = index[index["split"].isin({"val", "reference"}) & (index["class_id"] >= 43)]
        assert "reference" in set(held_out["split"])
        assert len(load_further(pack, "val", 43, 45).rows) == len(held_out)

    def test_without_further_signs_there_are_none(self, config: Config) -> None:
        drawn = prepare_drawn(config.data, DRAWN.model_copy(update={"signs": "gtsrb"}))
        data = TrainingData(prepare(config.data), None, drawn, [])
        assert data.further("val") is None
        assert data.classes == SIGNS
        assert data.drawn_classes(synthetic=False) == []

    def test_other_drawings_change_the_fingerprint(self, config: Config) -> None:
        first = training_data(config)
        second = first._replace(drawn=prepare_drawn(config.data, DRAWN.model_copy(update={"tracks_per_class": 4})))
        assert len({first.fingerprint, second.fingerprint, first._replace(drawn=None).fingerprint}) == 3
        assert first._replace(drawn=None).fingerprint == first.pack.fingerprint


class TestPhotographs:
    def test_classes_without_them_are_known(self, config: Config) -> None:
        data = training_data(config)
        assert data.drawn_classes(synthetic=False) == [43, 44]
        assert data.drawn_classes(synthetic=True) == list(range(45))

    def test_collected_ones_can_show_further_signs(self, config: Config, tmp_path: Path) -> None:
        write_collected(tmp_path / "collected", ["Tunnel", "Stop"], groups=4)
        settings = config.replace({"data.collected": str(tmp_path / "collected")}).data
        pack = prepare(settings)
        with pytest.raises(DataError, match=r"does not contain all labels.*'Tunnel'"):
            prepare_collected(settings, pack)
        collected = prepare_collected(settings, pack, FURTHER)
        assert collected
        assert set(collected.load("train").labels) == {14, 44}
        assert training_data(config, collected).drawn_classes(synthetic=False) == [43]


class TestOfAModel:
    def test_a_model_of_the_same_classes_needs_no_drawings(self, config: Config) -> None:
        assert prepare_further(config.data, prepare(config.data), SIGNS, DRAWN.model_dump()) is None
        assert not (config.data.processed_dir / "drawn").exists()

    def test_they_are_drawn_as_in_its_training(self, config: Config) -> None:
        pack = prepare(config.data)
        found = prepare_further(config.data, pack, FURTHER, DRAWN.model_dump())
        assert found
        assert found.fingerprint == prepare_drawn(config.data, DRAWN).fingerprint
        assert set(load_further(found, "test", 43, 45).labels) == {43, 44}
        # A later release that draws more signs still draws those of this model.
        assert set(load_further(found, "test", 43, 44).labels) == {43}

    @pytest.mark.parametrize("drawn", [None, {}, DRAWN.model_dump() | {"signs": "gtsrb"}, {"signs": "france"}])
    def test_classes_that_cannot_be_drawn_are_left_out(
        self, config: Config, drawn: dict[str, object] | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert prepare_further(config.data, prepare(config.data), FURTHER, drawn) is None
        assert "only 43 of the 45 classes of the model" in caplog.text

    def test_images_fit_a_model_with_more_classes(self, config: Config) -> None:
        pack = prepare(config.data)
        pack.require_fit(24, FURTHER)
        names = SIGNS.names
        for others, message in (
            (names[:42], "43 classes instead of 42"),
            (["Tunnel", *names[1:]], "class 0 is 'Speed limit 20 km/h' instead of 'Tunnel'"),
            (["Tunnel", *names], "class 0 is 'Speed limit 20 km/h' instead of 'Tunnel'"),
        ):
            with pytest.raises(DataError, match=f"do not have the classes of the model: {message}"):
                pack.require_fit(24, ClassList(ClassInfo(place, name) for place, name in enumerate(others)))
