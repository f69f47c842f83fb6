"""The promises of docs/reference/compatibility.md, with files and the interface of earlier releases."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.locate import locate_model
from src.mlops.modelfile.store import STORE
from src.mlops.project import load_project
from src.mlops.registry import registry
from tests.helpers.images import make_image
from tests.helpers.interface import INTERFACE, OPENAPI, RELEASED, interface
from tests.helpers.service import SNAPSHOT
from tests.helpers.tiny import quick_config

NAME = "gtsrb"  # of the model in the released files
FORMATS = sorted(path.name for path in RELEASED.glob("format_*"))
ADVICE = "docs/reference/compatibility.md: deprecate it for one version before it goes"


@pytest.fixture(params=FORMATS)
def released(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder with the store of a released format, and a clone of its Git repository."""
    shutil.copytree(RELEASED / request.param, tmp_path / "store", ignore=shutil.ignore_patterns("tags.bundle"))
    bundle = RELEASED / request.param / "tags.bundle"
    subprocess.run(["git", "clone", "--quiet", bundle, tmp_path / "repository"], check=True)
    monkeypatch.setenv(STORE[0], str(tmp_path / "store"))
    project = load_project().model_copy(update={"registry": NAME})
    monkeypatch.setattr("src.mlops.modelfile.store.load_project", lambda: project)
    return tmp_path


@pytest.mark.parametrize("file", ["best_model.pth", "best_model.onnx"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_model_files_load(released: Path, version: str, file: str) -> None:
    classifier = Classifier.load(released / "store" / "versions" / version / file)
    [prediction] = classifier.classify([make_image(1)])
    assert 0 <= prediction.predicted_class < 43
    assert 0 < prediction.probability <= 1


def test_versions_are_served_by_name(released: Path) -> None:
    versions = released / "store" / "versions"
    assert locate_model(f"{NAME}@v2") == versions / "v2" / "best_model.onnx"
    assert locate_model(f"models:/{NAME}@production") == versions / "v1" / "best_model.onnx"
    assert locate_model(f"models:/{NAME}@staging") == versions / "v2" / "best_model.onnx"


def test_stages_are_converted(released: Path) -> None:
    config = quick_config([f"registry.store={released / 'store'}"])
    registry.sync(config, released / "repository")
    for stage in ("production", "staging"):
        shutil.rmtree(released / "store" / "stages" / stage, ignore_errors=True)
    test_versions_are_served_by_name(released)


def test_versions_are_fetched_and_rolled_back(released: Path) -> None:
    target = released / "latest" / "best_model.pth"
    config = quick_config([f"registry.store={released / 'store'}", f"ckpt_path={target}"])
    registry.pull(config, "v2", released / "repository")
    assert target.read_bytes() == (released / "store" / "versions" / "v2" / target.name).read_bytes()
    repository = released / "repository"
    for words in (
        ("config", "user.name", "A Name"),
        ("config", "user.email", "a@example.org"),
        ("tag", "--delete", f"{NAME}#production#3"),  # the rollback from v2 to v1, which is now repeated
    ):
        subprocess.run(["git", *words], cwd=repository, check=True, capture_output=True)
    (released / "store" / "stages" / "production" / "00003.json").unlink()
    assert locate_model(f"{NAME}@production").parent.name == "v2"
    assert registry.rollback(config, "production", repository) == "v1"
    assert locate_model(f"{NAME}@production").parent.name == "v1"


def test_no_setting_choice_variable_task_or_command_is_lost() -> None:
    current = interface()
    for kind, names in json.loads(INTERFACE.read_text()).items():
        assert not set(names) - set(current[kind]), f"{kind}: {ADVICE}"


def test_http_fields_are_only_added() -> None:
    assert not _faults(json.loads(OPENAPI.read_text()), json.loads(SNAPSHOT.read_text())), ADVICE


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda new: new["paths"].pop("/model"), "paths./model"),
        (lambda new: new["components"]["schemas"]["Answer"]["properties"].pop("probability"), "probability"),
        (lambda new: new["components"]["schemas"]["Answer"]["required"].remove("filename"), "required"),
        (lambda new: new["components"]["schemas"]["Health"]["properties"]["status"].update(type="integer"), "type"),
        (lambda new: new["paths"]["/cv_model/"]["post"]["parameters"].pop(), "parameters"),
        (
            lambda new: new["paths"]["/model"]["get"].update(parameters=[{"name": "k", "required": True}]),
            "get /model k",
        ),
        (lambda new: new["paths"]["/cv_model/"]["post"]["parameters"][0].update(required=True), "X-Request-ID"),
        (lambda new: _body(new)["required"].append("key"), "post /cv_model/ key"),
    ],
)
def test_a_lost_http_field_is_noticed(change: Any, fault: str) -> None:
    new = json.loads(OPENAPI.read_text())
    change(new)
    [found] = _faults(json.loads(OPENAPI.read_text()), new)
    assert fault in found


def test_additions_and_texts_are_no_fault() -> None:
    new = json.loads(OPENAPI.read_text())
    new["paths"]["/new"] = {"get": {"parameters": [{"name": "k", "required": True}]}}
    new["paths"]["/cv_model/"]["post"]["parameters"][0]["description"] = "other"
    new["paths"]["/cv_model/"]["post"]["parameters"].append({"name": "k"})
    new["components"]["schemas"]["Answer"]["properties"]["more"] = {"type": "integer"}
    new["components"]["schemas"]["Answer"]["required"].append("more")
    assert _faults(json.loads(OPENAPI.read_text()), new) == []


def _body(document: Any) -> Any:
    return document["paths"]["/cv_model/"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]


def _faults(old: Any, new: Any) -> list[str]:
    before, after = _demanded(old), _demanded(new)
    demanded = (f"{route} {name}" for route in before.keys() & after for name in after[route] - before[route])
    return [*_lost(old, new), *demanded]


def _demanded(document: Any) -> dict[str, set[str]]:
    """Returns the parameters and fields that a request must have, by route."""
    found = {}
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            bodies = route.get("requestBody", {}).get("content", {}).values()
            found[f"{method} {path}"] = {
                *(parameter["name"] for parameter in route.get("parameters", []) if parameter.get("required")),
                *(name for body in bodies for name in body["schema"].get("required", [])),
            }
    return found


def _lost(old: Any, new: Any, where: str = "") -> list[str]:
    """Returns the parts of an OpenAPI document that clients rely on and that a new document lacks."""
    if isinstance(old, dict):
        if not isinstance(new, dict):
            return [where]
        free = {"description", "summary", "title", "example", "examples", "operationId", "info", "tags"}
        kept = {key: value for key, value in old.items() if key not in free}
        return [
            fault
            for key, value in kept.items()
            for fault in (_lost(value, new[key], f"{where}.{key}") if key in new else [f"{where}.{key}".lstrip(".")])
        ]
    if isinstance(old, list):
        return [] if all(any(not _lost(part, other) for other in new) for part in old) else [where]
    return [] if old == new else [where]
