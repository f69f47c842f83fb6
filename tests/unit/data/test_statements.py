"""What the service and the cards say about models of GTSRB and of other data."""

import pytest

from src.mlops.data import statements
from src.mlops.data.classes import ClassInfo, ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.statements import statements_of
from src.mlops.project import load_project

FRUIT = ClassList.of_names(["apple", "pear", "plum"])


def test_gtsrb_has_its_own_statements() -> None:
    about = statements_of(SIGNS)
    assert "GTSRB" in about.intended_use
    assert f"{len(SIGNS)} German signs" in about.limits
    drawn = statements_of(SIGNS, synthetic=True)
    assert drawn.intended_use == about.intended_use
    assert drawn.data_source.startswith("synthetic")
    # Models of earlier releases contain only ids, numbers and names.
    older = ClassList(ClassInfo(sign.class_id, sign.name, sign.number) for sign in SIGNS)
    assert statements_of(older) == about


def test_other_classes_have_the_statements_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    project = load_project().model_copy(update={"intended_use": "Sorting fruit.", "licence": "CC0"})
    monkeypatch.setattr(statements, "load_project", lambda: project)
    about = statements_of(FRUIT)
    assert (about.intended_use, about.licence) == ("Sorting fruit.", "CC0")
    assert about.data_source == "Not stated. Set `data_source` in `[tool.mlops]` of pyproject.toml."
    assert "3 classes" in about.limits
    assert statements_of(SIGNS).intended_use == "Sorting fruit."
    assert "Stallkamp" in statements_of(SIGNS).data_source


def test_missing_statements_are_said_to_be_missing() -> None:
    about = statements_of(FRUIT)
    assert about.intended_use == "Not stated. Set `intended_use` in `[tool.mlops]` of pyproject.toml."
    texts = " ".join(str(getattr(about, name)) for name in about.__slots__)
    assert "sign" not in texts
    assert "German" not in texts


class TestDrawnClasses:
    german = ClassList([*SIGNS, ClassInfo(len(SIGNS), "Tunnel", "327"), ClassInfo(len(SIGNS) + 1, "Car park", "314")])

    def test_the_statements_say_that_they_are_unproven(self) -> None:
        about = statements_of(self.german, drawn=[43, 44])
        for text in (about.intended_use, about.limits):
            assert "no photographs of 2 of the 45 classes" in text
            assert "unproven" in text
        assert "GTSRB" in about.intended_use
        assert "knows 45 German signs" in about.limits
        assert "43" not in about.limits

    def test_classes_with_photographs_have_the_statements_of_the_project(self) -> None:
        assert "Not stated" in statements_of(self.german).intended_use
        assert "Not stated" in statements_of(self.german, drawn=[44]).intended_use

    def test_drawings_alone(self) -> None:
        about = statements_of(SIGNS, drawn=range(len(SIGNS)))
        assert "trained on drawings only" in about.intended_use
        assert statements_of(self.german, synthetic=True).data_source.startswith("synthetic")

    def test_the_statement_of_the_project_is_complemented(self, monkeypatch: pytest.MonkeyPatch) -> None:
        project = load_project().model_copy(update={"intended_use": "Counting signs."})
        monkeypatch.setattr(statements, "load_project", lambda: project)
        assert statements_of(self.german, drawn=[43, 44]).intended_use.startswith("Counting signs. There were no")
