"""Measures the time of training steps with torch's profiler, and writes a trace and a table."""

from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from src.mlops.training.run_dir import saving

_WAIT, _WARMUP, _STEPS = 5, 2, 10  # number of steps that are skipped, run as warm-up, and measured
PROFILED_STEPS = _WAIT + _WARMUP + _STEPS


def profiler(folder: Path) -> AbstractContextManager[profile]:
    """Returns a profiler. The caller must call its `step` after each training step.

    The profiler measures ten steps and writes two files to the folder: `trace.json`, for chrome://tracing or Perfetto,
    and `table.txt`.
    """

    def write(measured: profile) -> None:
        with saving(folder.parent):
            folder.mkdir(parents=True, exist_ok=True)
            measured.export_chrome_trace(str(folder / "trace.json"))
            table = measured.key_averages().table(sort_by="self_cpu_time_total", row_limit=25)
            (folder / "table.txt").write_text(f"{_STEPS} training steps\n{table}\n")

    devices = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    return profile(
        activities=devices,
        schedule=schedule(wait=_WAIT, warmup=_WARMUP, active=_STEPS, repeat=1),
        on_trace_ready=write,
    )
