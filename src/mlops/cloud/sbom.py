"""Lists what a container image consists of: `python -m src.mlops sbom api`, or `inv docker.sbom` for all images.

The software bill of materials (SBOM) has the format CycloneDX 1.5. It contains the packages that the Dockerfile
installs, with the versions and hashes of uv.lock, and the bundled models. It does not contain the base image, that is,
Debian and Python: BuildKit lists that, see docs/how-to/publish-a-release.md.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from packaging.markers import Marker, default_environment

from src.mlops import ROOT
from src.mlops.cli import new_app, typer_main
from src.mlops.errors import ConfigError
from src.mlops.io.files import sha256, to_json, write_atomically
from src.mlops.io.git import source_commit

DOCKERFILES = ROOT / "dockerfiles"
MODELS = ROOT / "models" / "pretrained"
MACHINES = ("x86_64", "aarch64")  # the names that Python has for amd64 and arm64
MARKER = "uv:package:marker"  # property of packages that uv does not install on all platforms
app = new_app()


def read_sbom(image: str) -> dict[str, Any]:
    """Returns the SBOM of a container image.

    Args:
        image: The part of the Dockerfile's name after the dot, such as `api`.

    Returns:
        A CycloneDX document. A package that is installed on only one architecture is part of it.

    Raises:
        ConfigError: There is no such Dockerfile, or uv cannot read the lock file.
    """
    python, options = _installation(image)
    document = _export(options)
    environments = [_environment(python, machine) for machine in MACHINES]
    components = [component for component in document["components"] if _is_installed(component, environments)]
    kept = {component["bom-ref"] for component in components} | {document["metadata"]["component"]["bom-ref"]}
    document["components"] = components + [_model(path) for path in sorted(MODELS.glob("*.onnx"))]
    document["dependencies"] = [
        {**entry, "dependsOn": [name for name in entry.get("dependsOn", []) if name in kept]}
        for entry in document["dependencies"]
        if entry["ref"] in kept
    ]
    document["metadata"]["component"] |= {
        "type": "container",
        "name": image,
        "properties": [{"name": "commit", "value": source_commit() or "unknown"}],
    }
    return document


def _installation(image: str) -> tuple[str, list[str]]:
    """Returns the version of Python in a container image, and the options of its `uv sync`."""
    known = sorted(path.suffix.removeprefix(".") for path in DOCKERFILES.glob("Dockerfile.*"))
    if image not in known:
        raise ConfigError(f"There is no dockerfiles/Dockerfile.{image}. Name one of: {', '.join(known)}.")
    text = (DOCKERFILES / f"Dockerfile.{image}").read_text(encoding="utf-8").replace("\\\n", " ")
    python = re.search(r"^FROM python:(\d+\.\d+)", text, flags=re.MULTILINE)
    sync = re.search(r"\buv sync ([^\n&|;]*)", text)
    if not (python and sync):
        raise ConfigError(
            f"dockerfiles/Dockerfile.{image} has no line with `FROM python:` or with `uv sync`, so its packages are "
            "unknown. Adapt src/mlops/cloud/sbom.py."
        )
    return python[1], shlex.split(sync[1])


def _export(options: list[str]) -> dict[str, Any]:
    """Returns the packages of uv.lock that `uv sync` with these options selects, for all platforms."""
    options = [option.replace("--no-install-package", "--no-emit-package") for option in options]
    command = ["uv", "export", "--quiet", "--preview-features=sbom-export", "--format=cyclonedx1.5", *options]
    try:
        result = subprocess.run(  # noqa: S603 - no shell is involved
            command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
        )
    except OSError as error:
        raise ConfigError(f"uv cannot be started: {error}. Install it with `pip install uv`.") from error
    if result.returncode:
        raise ConfigError(f"`{shlex.join(command)}` failed: {' '.join(result.stderr.split())}")
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def _is_installed(component: dict[str, Any], environments: list[dict[str, str]]) -> bool:
    """Returns whether a package is installed in one of the environments (variables of markers, PEP 508)."""
    markers = [Marker(entry["value"]) for entry in component.get("properties", []) if entry["name"] == MARKER]
    return all(any(marker.evaluate(environment) for environment in environments) for marker in markers)


def _environment(python: str, machine: str) -> dict[str, str]:
    """Returns the variables of markers on Linux."""
    return {key: str(value) for key, value in default_environment().items()} | {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }


def _model(path: Path) -> dict[str, Any]:
    name = path.relative_to(ROOT).as_posix()
    return {
        "type": "machine-learning-model",
        "bom-ref": name,
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": sha256(path)}],
    }


@app.command("sbom")
def main(
    image: Annotated[str, typer.Argument(help="Container image, such as api: the ending of its Dockerfile.")],
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: standard output.")] = None,
) -> None:
    """Writes the packages and models of a container image as CycloneDX."""
    text = to_json(read_sbom(image), indent=2) + "\n"
    if out:
        write_atomically(out, text.encode())
        typer.echo(f"Wrote {out}")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    typer_main(app)
