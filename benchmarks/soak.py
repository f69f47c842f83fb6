"""Measures the memory of the service during ten minutes of mixed uploads from eight clients.

    uv run python -m benchmarks.soak

wrk alternately sends synthetic images in four formats, a large JPEG image, a truncated PNG image, text, a form with
sixteen images, and a request for a saliency map. Records the RSS every ten seconds. Writes benchmarks/results/soak.csv.
"""

import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from benchmarks.environment import Row, write_results
from benchmarks.serving import KIND, Server, form_body, require_wrk, resident_mb, started
from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.camera import photograph_track
from src.mlops.data.synthetic.drawing import draw_sign
from src.mlops.modelfile.locate import BUNDLED

app = new_app()

EVERY = 10  # seconds


@app.command()
def main(minutes: Annotated[float, typer.Option(help="Duration of the test.")] = 10) -> None:
    """Runs the soak test."""
    require_wrk()
    rows: list[Row] = []
    server = Server("this service", "", [sys.executable, "-m", "src.mlops.api", "--port", "{port}"])
    with tempfile.TemporaryDirectory() as folder:
        script = _script(Path(folder))
        with started(server, ROOT / BUNDLED, Path(folder)) as (port, process, _):
            seconds = round(60 * minutes)
            command = ["wrk", "-t1", "-c8", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{port}"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:  # noqa: S603 - written above
                begun = time.monotonic()
                while wrk.poll() is None:
                    row = {
                        "seconds": round(time.monotonic() - begun),
                        "resident_mb": round(sum(resident_mb(process)), 1),
                    }
                    sys.stderr.write(f"{row['seconds']} s: {row['resident_mb']} MB\n")
                    rows.append(row)
                    time.sleep(EVERY)
                sys.stderr.write(wrk.stdout.read() if wrk.stdout else "")
    write_results("soak", rows, ("seconds",))


def _script(folder: Path) -> Path:
    """Writes the requests and a Lua script that alternates between them. `body` is the request for the start check."""
    [frame] = photograph_track(draw_sign(SIGNS[14]), np.random.default_rng(0), 1)
    kinds = [_encoded(frame.image, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF")]
    large = _encoded(frame.image.resize((1600, 1600)), "JPEG")
    single = [form_body("file", [content]) for content in [*kinds, large, kinds[0][:-200], b"text"]]
    requests = [("/cv_model/", body) for body in single]
    requests += [("/cv_model/batch", form_body("files", kinds * 4)), ("/cv_model/explain", single[0])]
    (folder / "body").write_bytes(single[0])
    lines = [f'local headers = {{["Content-Type"] = "{KIND}"}}']
    for number, (path, body) in enumerate(requests):
        file = folder / f"request{number}"
        file.write_bytes(body)
        lines.append(f'local file = io.open("{file}", "rb"); local body = file:read("*a"); file:close()')
        lines.append(f'requests[{number}] = wrk.format("POST", "{path}", headers, body)')
    script = folder / "mixed.lua"
    script.write_text(
        "requests, turn = {}, 0\n"
        f"init = function()\n{chr(10).join(lines)}\nend\n"
        f"request = function() turn = turn + 1; return requests[turn % {len(requests)}] end\n"
    )
    return script


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


if __name__ == "__main__":
    typer_main(app)
