"""Tests that mistakes in the descriptions of signs are explained."""

import re
import shutil
from pathlib import Path

import pytest

from src.mlops.data.synthetic.drawing import SIGNS_FOLDER, Drawings
from src.mlops.errors import DataError

NEW = '- number: "999"\n  name: New sign\n  '
VALID = f"{NEW}drawings: [[red_circle]]\n"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{}</svg>'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SIGNS_FOLDER, tmp_path / "signs"))


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


def refuse(folder: Path, message: str) -> None:
    """Expects an error that begins with the file or folder, and has the message as plain text."""
    with pytest.raises(DataError) as caught:
        Drawings(folder)
    assert str(folder) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_new_sign_is_a_class_and_can_be_drawn(folder: Path) -> None:
    append(folder / "germany.yaml", VALID)
    read = Drawings(folder)
    sign = read.classes[-1]
    assert (sign.name, sign.number, sign.shape, sign.mirror) == ("New sign", "999", "red_circle", None)
    assert read.versions("999") == 1
    assert read.draw("999", size=32).tobytes() == read.draw("250", size=32).tobytes()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("[red_circle, unicorn]", "sign 999 has the shape 'unicorn', but there is no shapes/unicorn.svg."),
        ("[red_circle, {text: a, font: bold}]", "sign 999 has the font 'bold', but glyphs.yaml only has wide, narrow"),
        (
            '[red_circle, {text: "5$"}]',
            "sign 999 has the text '5$', but the font 'wide' has no glyph for '$'. Add it to glyphs.yaml.",
        ),
        ("[{shape: red_circle, colour: blue}]", "colours the shape 'red_circle', but nothing in shapes/red_circle.svg"),
        ("[{shape: car, colour: pink}]", "layer 0: colour must be one of white, black, grey, "),
        ("[red_circle, {shape: car, text: a}]", "version 0, layer 1: a layer needs either shape or text."),
        ("[red_circle, {x: 3}]", "version 0, layer 1: a layer needs either shape or text."),
        ("[red_circle, {shape: car, height: 5}]", "version 0, layer 1: a layer with shape cannot have height."),
        ("[red_circle, {text: a, scale: 2}]", "version 0, layer 1: a layer with text cannot have scale."),
        ("[red_circle, 5]", "layer 1: a layer must be the name of a shape, or have shape or text, but is 5."),
        ("[red_circle, {shape: car, size: 2}]", "version 0, layer 1, size: this key does not exist."),
        ("[{shape: car, x: 201}]", "layer 0, x: Input should be less than or equal to 200, but is 201."),
        ("[{shape: car, y: -101}]", "layer 0, y: Input should be greater than or equal to -100, but is -101."),
        ("[{shape: car, x: .nan}]", "layer 0, x: Input should be less than or equal to 200, but is nan."),
        ("[{shape: car, x: no}]", "layer 0, x: Input should be a valid number, but is False."),
        ("[{shape: car, scale: 0}]", "layer 0, scale: Input should be greater than 0, but is 0."),
        ("[{shape: car, scale: 4.1}]", "layer 0, scale: Input should be less than or equal to 4, but is 4.1."),
        ("[{shape: car, turn: 361}]", "layer 0, turn: Input should be less than or equal to 360, but is 361."),
        ("[{text: a, height: 101}]", "layer 0, height: Input should be less than or equal to 100, but is 101."),
        ("[{text: a, spacing: 101}]", "layer 0, spacing: Input should be less than or equal to 100, but is 101."),
        ('[{text: ""}]', "layer 0, text: "),
        ("[{text: 30}]", "layer 0, text: the value must be in quotes, because without them YAML reads it as 30."),
        ("[{text: 030}]", "layer 0, text: the value must be in quotes, because without them YAML reads it as 24."),
        ("[{text: no}]", "layer 0, text: the value must be in quotes, because without them YAML reads it as False."),
        ("[]", "version 0: a drawing must be a list of layers, such as [red_circle, car], but is []."),
        (
            "red_circle",
            "version 0: a drawing must be a list of layers, such as [red_circle, car], but is 'red_circle'.",
        ),
    ],
)
def test_a_mistake_in_a_drawing(layers: str, message: str, folder: Path) -> None:
    append(folder / "germany.yaml", f"{NEW}drawings:\n    - {layers}\n")
    refuse(folder, message)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("- red_circle", " must have the keys number, name and drawings, but is 'red_circle'."),
        ("- name: A\n  drawings: [[red_circle]]", " is not valid: number: this key is missing."),
        (
            "- number: 325.10\n  name: A\n  drawings: [[red_circle]]",
            " is not valid: number: the value must be in quotes, because without them YAML reads it as 325.1.",
        ),
        ("- number: 0101\n  name: A\n  drawings: [[red_circle]]", "number: the value must be in quotes"),
        ("- number: 102\n  name: A\n  drawings: [[red_circle]]", "number: the value must be in quotes"),
        ('- number: " 999"\n  name: A\n  drawings: [[red_circle]]', "number: String should match"),
        ('- number: "999"\n  drawings: [[red_circle]]', "germany.yaml: sign 999 needs a name."),
        (f"{NEW}drawings: []", "sign 999 is not valid: a sign needs either drawings or mirrored."),
        (
            f'{NEW}mirrored: "211"\n  drawings: [[car]]',
            "sign 999 is not valid: a sign needs either drawings or mirrored.",
        ),
        (f"{NEW}drawing: [[red_circle]]", "sign 999 is not valid: drawing: this key does not exist"),
        (f'{NEW}mirrored: "888"', "sign 999 mirrors sign 888, which is not described."),
        (f"{NEW}mirrored: 209-10", "sign 999 mirrors sign 209-10, which has no drawings."),
        (f'{NEW}mirrored: "999"', "sign 999 mirrors sign 999, which has no drawings."),
        (f'{NEW}mirrored: "102"', "sign 999 mirrors sign 102, which is symmetric. Remove mirrored or symmetric."),
        (f'{NEW}mirrored: "301"', "sign 999 mirrors sign 301, which is symmetric. Remove mirrored or symmetric."),
        (f'{NEW}mirrored: "209"', "sign 999 mirrors sign 209, but so does sign 209-10. Only one of them can."),
        (f'{NEW}mirrored: "286"\n  symmetric: true', "a sign cannot be symmetric and the mirror image of another one."),
        (f"{VALID}{VALID}", "germany.yaml: sign 999 is described again. Keep one entry, with all its drawings."),
        ('- number: "301"\n  name: A\n  drawings: [[car]]', "germany.yaml: sign 301 is described again."),
        (
            '- number: "999"\n  name: Stop\n  drawings: [[car]]',
            "not a valid class list: the name 'Stop' occurs more than",
        ),
        (f"{NEW}name: B\n  drawings: [[car]]", "the key 'name' occurs twice."),
        (f"{NEW}drawings: [[red_circle", "Cannot read "),
        ("  - misplaced", "Cannot read "),
    ],
)
def test_a_mistake_in_an_entry(entry: str, message: str, folder: Path) -> None:
    append(folder / "germany.yaml", f"{entry}\n")
    refuse(folder, message)


def test_a_drawing_that_shows_nothing(folder: Path) -> None:
    append(folder / "germany.yaml", f"{NEW}drawings: [[{{shape: car, x: 200, scale: 0.1}}]]\n")
    refuse(folder, "sign 999, version 0, layer 0 shows nothing: ")


@pytest.mark.parametrize("layer", ["{shape: car, scale: 1.0e-9}", "{text: ' '}", "{text: a, x: 200, height: 5}"])
def test_a_layer_that_shows_nothing_on_a_sign(layer: str, folder: Path) -> None:
    append(folder / "germany.yaml", f"{NEW}drawings: [[car], [red_circle, {layer}]]\n")
    refuse(folder, "sign 999, version 1, layer 1 shows nothing: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('<g id="new"><use href="#new"/></g>', "sign 999, version 0, layer 1 shows nothing: "),
        (
            '<g id="new1"><use href="#new2"/></g><g id="new2"><use href="#new1"/></g>',
            "sign 999, version 0, layer 1 cannot be rendered: ",
        ),
        ('<path d="M5 5" fill="red"/>', "sign 999, version 0, layer 1 shows nothing: "),
        ('<rect width="9" height="9" fill="none"/>', "sign 999, version 0, layer 1 shows nothing: "),
    ],
)
def test_a_shape_that_shows_nothing_on_a_sign(content: str, message: str, folder: Path) -> None:
    (folder / "shapes/new.svg").write_text(SVG.format(content))
    append(folder / "germany.yaml", f"{NEW}drawings: [[red_circle, new]]\n")
    refuse(folder, message)


def test_yaml_that_is_nested_too_deeply(folder: Path) -> None:
    append(folder / "germany.yaml", f"- {'[' * 5000}{']' * 5000}\n")
    refuse(folder, "germany.yaml: maximum recursion depth exceeded")


def test_malformed_yaml_names_the_line(folder: Path) -> None:
    (folder / "germany.yaml").write_text("- number: a\n  name: [\n")
    refuse(folder, "germany.yaml: line 3: ")


@pytest.mark.parametrize("content", ["", "a: b\n", "text\n"])
def test_descriptions_must_be_a_list(content: str, folder: Path) -> None:
    (folder / "germany.yaml").write_text(content)
    refuse(folder, "germany.yaml must be a list with one entry for each sign.")


def test_the_signs_of_gtsrb_are_complete(folder: Path) -> None:
    file = folder / "gtsrb.yaml"
    content = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r'- number: "206"\n.*?(?=- number)', "", content, flags=re.DOTALL), encoding="utf-8")
    refuse(folder, "gtsrb.yaml must describe all signs of GTSRB, but sign 206 is missing.")
    append(file, VALID)
    refuse(folder, "gtsrb.yaml: sign 999 must be one of GTSRB")


@pytest.mark.parametrize("name", ["gtsrb.yaml", "germany.yaml", "glyphs.yaml"])
def test_a_missing_or_unreadable_file(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"\xff\xfe")
    refuse(folder, f"{name}: ")
    (folder / name).unlink()
    refuse(folder, f"{name}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- wide", "glyphs.yaml must have a key for each font."),
        (
            "wide: {stroke: 51, glyphs: {}}",
            "the font 'wide' is not valid: stroke: Input should be less than or equal to 50",
        ),
        ('wide: {stroke: 14, glyphs: {"1": {path: M0 0}}}', "the font 'wide' is not valid: glyphs.1.width: this key"),
        ('wide: {stroke: 14, glyphs: {"1": {width: 5, path: "M0 0\\"/>"}}}', "glyphs.1.path: String should match"),
        ('wide: {stroke: 14, glyphs: {"1": {width: 5, path: 0 0 9 9}}}', "glyphs.1.path: String should match"),
        ("wide: {stroke: 14, glyphs: {1: {width: 5, path: M0 0}}}", "the value must be in quotes"),
    ],
)
def test_a_mistake_in_the_typeface(content: str, message: str, folder: Path) -> None:
    (folder / "glyphs.yaml").write_text(content)
    refuse(folder, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SVG.format("<path"), "Cannot read the shape "),
        ("", "Cannot read the shape "),
        (SVG.format("").replace("100 100", "64 64"), 'must be an SVG file with viewBox="0 0 100 100".'),
        ('<svg viewBox="0 0 100 100"/>', "must be an SVG file"),
        (SVG.format(""), "new.svg is empty."),
        (
            SVG.replace("viewBox", 'fill="red" viewBox').format("<g/>"),
            "svg can only have viewBox. Move fill to a g in it.",
        ),
        (SVG.replace("viewBox", 'width="9" viewBox').format("<g/>"), "svg can only have viewBox."),
        (SVG.format("<text>a</text>"), "can only have g, path, circle, "),
        (SVG.format("<g><style>g {fill: red}</style></g>"), "but has style."),
        (SVG.format('<path d="M0 0" fill="#ff0000"/>'), "fill must be one of white, black, "),
        (SVG.format('<path d="M0 0" stroke="gold"/>'), "stroke must be one of white, black, "),
        (SVG.format('<path d="M0 0" style="fill:red"/>'), "path must have attributes such as fill instead of style"),
        (SVG.format('<path id="arm" d="M0 0"/>'), "the id 'arm' must start with 'new'"),
        (SVG.format('<use href="other.svg#new"/>'), "the id 'other.svg#new' must start with 'new'"),
        (SVG.format('<use href="#new"/>'), "use must have href with # and the id of an element of this file."),
        (SVG.format('<use href="new"/><g id="new"/>'), "use must have href with # and the id of an element of this"),
        (
            SVG.replace(" viewBox", ' xmlns:l="http://www.w3.org/1999/xlink" viewBox').format('<use l:href="a.svg"/>'),
            "use",
        ),
        (SVG.format('<path d="M0 0 hello" fill="red"/>'), "path must have d with path data of plain numbers, such as"),
        (
            SVG.format('<path fill="red"/>'),
            "path must have d with path data of plain numbers, such as M0 0L9 9, but d is",
        ),
    ],
)
def test_a_mistake_in_a_shape(content: str, message: str, folder: Path) -> None:
    (folder / "shapes/new.svg").write_text(content)
    refuse(folder, message)


def test_a_missing_shape_names_a_sign_that_has_it(folder: Path) -> None:
    (folder / "shapes/octagon.svg").unlink()
    refuse(folder, "sign 206 has the shape 'octagon', but there is no shapes/octagon.svg.")
