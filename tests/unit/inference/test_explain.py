"""Saliency maps."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.mlops.errors import CheckpointError
from src.mlops.inference.classifier import Classifier
from src.mlops.inference.explain import explain
from src.mlops.model import TinyCNN
from src.mlops.modelfile.checkpoint import read_plain, write_content
from tests.helpers.images import make_image


class TestExplain:
    def test_overlay_has_the_shape_of_the_image(self, exported: Path) -> None:
        explanation = explain(Classifier.load(exported), make_image(1, side=30).resize((60, 30)))
        assert explanation.overlay.size == (480, 240)
        assert explanation.prediction.predicted_class in range(43)

    def test_the_saliency_map_is_where_the_evidence_is(self, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        classifier = Classifier.load(exported)
        black = Image.new("RGB", (240, 240))
        outputs = classifier.run(np.zeros((1, 24, 24, 3), np.uint8))
        assert outputs.evidence is not None
        evidence = np.full_like(outputs.evidence, -1)
        evidence[..., 0, -1] = 5  # only at the top right
        monkeypatch.setattr(classifier, "run", lambda _: outputs._replace(evidence=evidence))
        overlay = np.asarray(explain(classifier, black).overlay).astype(int)
        assert overlay[10, -10].sum() > 200
        assert overlay[-10, 10].sum() == 0

    def test_rejects_a_network_without_evidence(self, checkpoint: Path, tmp_path: Path) -> None:
        content = read_plain(checkpoint)
        content["config"]["model"] = {"_target_": "src.mlops.model.TinyCNN"}
        write_content(tmp_path / "tiny.pth", content | {"state_dict": TinyCNN(43).state_dict()})
        with pytest.raises(CheckpointError, match=r"src\.mlops\.model\.TinyCNN.*SignNet"):
            explain(Classifier.load(tmp_path / "tiny.pth"), make_image(1))
