"""The demonstration of alerts, without its services; tests/integration/demo/test_monitor.py runs it."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from src.mlops import ROOT
from src.mlops.demo import monitor
from src.mlops.demo.services import CONFIGURATION, shorten
from src.mlops.demo.traffic import make_images
from src.mlops.errors import DataError, ServiceError
from src.mlops.inference.classifier import Classifier
from src.mlops.io.service_process import with_port
from src.mlops.modelfile.locate import BUNDLED
from src.mlops.preprocessing import open_image
from tests.helpers.images import make_image


def test_times_are_shortened_and_nothing_else() -> None:
    assert shorten("rate(a:b:rate5m[5m] offset 1d)") == "rate(a:b:rate5m[10000ms] offset 2880000ms)"
    assert shorten("for: 15s\nexpr: time() > 90 * 86400") == "for: 500ms\nexpr: time() > 90 * 86400"
    for name in ("recording.yml", "alerts.yml", "prometheus.yml", "alertmanager.yml"):
        text = (CONFIGURATION / name).read_text()
        assert yaml.safe_load(shorten(text)).keys() == yaml.safe_load(text).keys()


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "make_images", lambda *_: {0: [b""]})
    monkeypatch.setenv("PATH", "")
    result = CliRunner().invoke(monitor.app, [])
    assert isinstance(result.exception, ServiceError)
    assert "apt-get install" in str(result.exception)
    assert "compose.yaml" in str(result.exception)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.load(ROOT / BUNDLED)


def test_drawn_signs_raise_no_alert_in_clear_air(classifier: Classifier) -> None:
    clear, *_, dense = make_images("", classifier).values()
    shares = [
        np.mean([answer.is_unknown for answer in classifier.classify([open_image(file) for file in files])])
        for files in (clear, dense)
    ]
    assert shares[0] < 0.03
    assert shares[1] > 0.2  # the alert UnknownShareHigh fires above 0.1


def test_images_of_a_folder(tmp_path: Path, classifier: Classifier) -> None:
    for number, size in enumerate([(20, 30), (90, 40)]):
        make_image(number).resize(size).save(tmp_path / f"{number}.png")
    images = make_images(str(tmp_path), classifier)
    assert [len(files) for files in images.values()] == [2] * 6
    assert len({file for files in images.values() for file in files}) == 12  # each severity changes them


def test_a_folder_without_images(tmp_path: Path, classifier: Classifier) -> None:
    with pytest.raises(DataError, match="has no images"):
        make_images(str(tmp_path), classifier)


def test_where_the_port_goes() -> None:
    words = ["{port}", "127.0.0.1:{port}", "/a/{port}", "{port}b", "a:{port}:b"]
    assert with_port(words, 80) == ["80", "127.0.0.1:80", "/a/{port}", "{port}b", "a:{port}:b"]
