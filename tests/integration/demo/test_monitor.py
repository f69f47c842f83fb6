"""Runs the demonstration of alerts, with Prometheus and Alertmanager."""

import re
import subprocess
import sys

import pytest

from src.mlops import ROOT
from tests.helpers.programs import require


@pytest.mark.slow
def test_alerts_fire_and_resolve_in_a_running_system() -> None:
    require("prometheus")
    require("prometheus-alertmanager")
    command = [sys.executable, "-m", "src.mlops.demo.monitor"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout + done.stderr
    seen = re.findall(r"(fires|resolves): (\w+)\.", done.stdout)
    for alert in ("UnknownShareHigh", "ConfidenceDropped", "DriftFound", "NoTraffic"):
        assert [change for change, name in seen if name == alert] == ["fires", "resolves"], done.stdout
