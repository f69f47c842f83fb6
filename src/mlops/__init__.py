"""From raw images to a monitored service that classifies images; the example is German traffic signs."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Root of the repository. Relative paths start here, whatever the working directory is."""
