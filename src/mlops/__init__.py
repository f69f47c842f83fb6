"""From raw images of German traffic signs to a monitored service."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Root of the repository. Relative paths start here, whatever the working directory is."""
