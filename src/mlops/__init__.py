"""From raw pictures of German traffic signs to a monitored service."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository's root: relative paths are relative to it, wherever a command was started."""
