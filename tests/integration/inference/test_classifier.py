"""Classification without torch."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from src.mlops import ROOT
from src.mlops.inference.classifier import Classifier
from tests.helpers.images import encode, make_image

PNG = encode(make_image(1), "PNG")


def test_onnx_needs_no_torch(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "sign.png").write_bytes(PNG)
    code = f"""
        import sys
        for name in "torch torchvision hydra pandas sklearn scipy matplotlib onnx typer rich tenacity fsspec".split():
            sys.modules[name] = None  # importing it raises
        from pathlib import Path
        from src.mlops.serving.app import Settings, create_app
        from src.mlops.inference.explain import explain
        from src.mlops.inference.classifier import Classifier
        classifier = Classifier.load(Path({str(exported)!r}))
        print(classifier.classify([Path({str(tmp_path / "sign.png")!r})])[0].predicted_class)
        explain(classifier, Path({str(tmp_path / "sign.png")!r}))
        create_app(Settings(model={str(exported)!r}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == Classifier.load(exported).classify([PNG])[0].predicted_class


@pytest.mark.parametrize(("chosen", "threads"), [(None, 1), ("2", 2)])
def test_the_service_runs_a_checkpoint_in_one_thread(checkpoint: Path, chosen: str | None, threads: int) -> None:
    code = f"""
        from pathlib import Path
        from src.mlops import api
        from src.mlops.inference.classifier import Classifier
        api.app
        Classifier.load(Path({str(checkpoint)!r}))
        import torch
        print(torch.get_num_threads())
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"MLOPS_MODEL": "none"} | ({"OMP_NUM_THREADS": chosen} if chosen else {})
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.stdout == f"{threads}\n", result.stderr


def test_a_checkpoint_without_torch_is_reported(checkpoint: Path) -> None:
    code = f"""
        import sys
        sys.modules["torch"] = None
        from pathlib import Path
        from src.mlops.inference.classifier import Classifier
        Classifier.load(Path({str(checkpoint)!r}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    message = result.stderr.splitlines()[-1]
    assert "CheckpointError" in message
    assert all(part in message for part in (str(checkpoint), "torch", ".onnx", "`uv sync --group train`"))
