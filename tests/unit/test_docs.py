"""The documentation: generated parts, navigation, and the diagram of the architecture."""

import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from docs_generator import architecture, python_api
from docs_generator.__main__ import DIAGRAM, DOCS, PARTS, documents, render
from src.mlops import ROOT, model
from src.mlops.config import load_config
from src.mlops.data.classes import read_classes
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.layouts import read_layout
from src.mlops.data.synthetic import generate as synthetic
from src.mlops.data.synthetic.camera import Frame
from src.mlops.data.synthetic.description import PALETTE, Layer
from src.mlops.data.synthetic.drawing import SIGNS_FOLDER, Drawings


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(DOCS)))
def test_generated_parts_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert render(text) == text, "run: uv run python -m docs_generator"


def test_the_diagram_is_up_to_date() -> None:
    assert DIAGRAM.read_text(encoding="utf-8") == architecture.diagram(), "run: uv run python -m docs_generator"


def test_every_part_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in documents())
    assert [name for name in PARTS if f"<!-- generated: {name} -->" not in text] == []


def test_every_package_has_a_page() -> None:
    assert {page.stem for page in (DOCS / "reference/python").glob("*.md")} == {*python_api.packages(), "index"}


def test_every_step_of_the_architecture_exists() -> None:
    tasks = runpy.run_path(str(ROOT / "tasks.py"))["namespace"].task_names
    for step in architecture.STEPS:
        assert step.command in tasks
        assert (python_api.SOURCE / step.module).is_file()
        assert step.stage in architecture.STAGES


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags stand for environment variables and functions."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"]
    assert sorted(listed(navigation)) == [page.relative_to(DOCS).as_posix() for page in documents()]


def listed(entry: Any) -> list[str]:
    """Returns the pages in a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in listed(value)]


def test_the_network_of_the_guide_can_be_trained_at_all_sizes() -> None:
    page = (DOCS / "how-to/own-model.md").read_text(encoding="utf-8")
    [source] = re.findall(r"^```python\n(class .*?)\n\n\nMODELS", page, flags=re.DOTALL | re.MULTILINE)
    names = dict(vars(model))
    exec(source, names)
    network = names["WideCNN"](5)
    for side in (24, 32, 48):
        assert network(torch.zeros(2, 3, side, side, dtype=torch.uint8)).shape == (2, 5)
    assert network.pooling is not None


def test_the_class_list_of_the_guide_has_the_signs_and_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / "how-to/add-a-sign.md").read_text(encoding="utf-8")
    [source] = re.findall(r"<<'EOF'\n(.*?)^EOF", page, flags=re.DOTALL | re.MULTILINE)
    [line] = re.findall(r"^43,.*$", page, flags=re.MULTILINE)
    file = tmp_path / "data/raw/signs/classes.csv"
    file.parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    exec(source, {})
    with file.open("a") as table:
        table.write(line + "\n")
    classes, _ = read_classes(file)
    assert classes[:-1] == tuple(SIGNS)
    assert classes[-1].name == "Snow chains compulsory"


def test_the_signs_of_the_guide_can_be_drawn(tmp_path: Path) -> None:
    page = (DOCS / "how-to/add-a-sign.md").read_text(encoding="utf-8")
    entries = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    [shape] = re.findall(r"^```xml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    [name] = re.findall(r"Save this as `(.*?)`", page)
    signs = shutil.copytree(SIGNS_FOLDER, tmp_path / "signs")
    (signs / name).write_text(shape, encoding="utf-8")
    with (signs / "germany.yaml").open("a", encoding="utf-8") as file:
        file.writelines(entries)
    drawings = Drawings(signs)
    assert [sign.number for sign in drawings.classes[-3:]] == ["278-50", "350-20", "268"]
    for sign in drawings.classes[-3:]:
        assert drawings.draw(sign.number, drawings.versions(sign.number) - 1).getbbox()


def test_the_guide_has_all_keys_and_colours_of_a_layer() -> None:
    page = (DOCS / "how-to/add-a-sign.md").read_text(encoding="utf-8")
    for name in (*Layer.model_fields, *PALETTE):
        assert f"`{name}`" in page, name


def test_the_image_of_the_tutorial_is_a_stop_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DOCS / "tutorial/first-model.md").read_text(encoding="utf-8")
    [image] = set(re.findall(r"Test/\d+\.png", page))
    # The name depends on the numbers of classes, test tracks and frames, and on the seed, not on the images.
    frame = Frame(Image.new("RGB", (9, 9)), (1, 1, 7, 7))
    monkeypatch.setattr(synthetic, "photograph_track", lambda *arguments: iter([frame] * arguments[2]))
    settings = load_config(["experiment=quickstart"]).data.synthetic
    assert settings
    synthetic.generate(tmp_path / "signs", **{**settings.model_dump(), "tracks_per_class": 1})
    table = read_layout(tmp_path / "signs").test
    [class_id] = table.loc[table["path"] == image, "class_id"]
    assert SIGNS[class_id].name == "Stop"
