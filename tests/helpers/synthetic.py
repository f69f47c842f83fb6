"""Small synthetic data sets."""

from pathlib import Path

from src.mlops.data.synthetic.generate import generate


def generate_small(folder: Path, seed: int = 7) -> Path:
    generate(folder, tracks_per_class=2, frames_per_track=2, test_tracks_per_class=1, seed=seed)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
