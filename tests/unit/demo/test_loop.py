"""The parts of the loop; tests/integration/demo/test_loop.py runs all of it."""

from pathlib import Path

import pytest
from PIL import Image

from src.mlops.demo import loop_data
from src.mlops.demo.loop_data import draw_scene, hold_out_scene
from src.mlops.demo.loop_report import Event, Row, Story, draw, measure, show, to_markdown
from src.mlops.demo.traffic import Answer
from src.mlops.errors import DataError
from src.mlops.inference.classifier import Classifier
from tests.helpers.images import make_image
from tests.helpers.tiny import quick_config, write_kaggle


def answers(count: int, second: str = "b") -> list[Answer]:
    """Returns one answer per second in fog; the last ones are from the second model."""
    return [Answer(100.0 + i, str(i), i % 4, 5, 1, "a" if i < count - 4 else second) for i in range(count)]


class TestScene:
    def test_the_camera_sees_signs_that_no_training_sees(self, tmp_path: Path) -> None:
        raw = write_kaggle(tmp_path / "raw", classes=3, tracks=5, frames=6)
        scene = hold_out_scene(raw, tmp_path)
        assert (scene.signs, scene.truth) == (3, sorted(scene.truth, key=scene.truth.index))
        assert {len(images) for images in scene.images.values()} == {15}  # 5 frames of one sign of each class
        [exclude] = [setting.partition("=")[2] for setting in scene.settings if setting.startswith("data.exclude")]
        listed = Path(exclude).read_text().splitlines()
        assert len(listed) == 1 + 18  # all frames of these signs
        assert quick_config(scene.settings).data.processed_dir == scene.processed

    def test_without_groups_there_is_nothing_to_hold_out(self, tmp_path: Path) -> None:
        for kind in ("bolt", "nut"):
            for number in range(4):
                (tmp_path / "raw" / kind).mkdir(parents=True, exist_ok=True)
                make_image(number).save(tmp_path / "raw" / kind / f"{number}.png")
        with pytest.raises(DataError, match=r"docs/reference/data\.md"):
            hold_out_scene(tmp_path / "raw", tmp_path)

    def test_drawn_signs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loop_data, "_TRACKS", 1)
        monkeypatch.setattr(loop_data, "_FRAMES", 1)
        scene = draw_scene(tmp_path)
        assert sorted(scene.truth) == list(range(43))
        assert quick_config(scene.settings).data.source == "synthetic"


class TestReport:
    def test_the_figure(self, tmp_path: Path) -> None:
        story = Story(answers(20), [1, 1, 0, 1], [Event(100, "Clear"), Event(104, "Fog")], 5)
        assert story.correct().mean() == 0.75
        draw(story, tmp_path / "loop.png")
        with Image.open(tmp_path / "loop.png") as image:
            assert image.width > 500

    def test_the_table(self) -> None:
        rows = [Row("clear", 0.5, 0.987, "1,000")]
        assert show(rows).row_count == 1
        assert to_markdown(rows).splitlines()[-1] == "| clear | 50.0% | 98.7% | 1,000 |"

    def test_both_models_are_measured(self, trained: Path, exported: Path) -> None:
        story = Story(answers(12, Classifier.load(exported).version), [1, 1, 0, 1])
        clear, fog, traffic = measure(story, trained / "processed", exported, exported)
        assert clear.before == clear.after
        assert fog.name == "test images, in the densest fog"
        assert traffic == Row("traffic in the densest fog, partly the labelled signs", 0.75, 0.75, "8 and 4")
