"""Makes `python src/mlops/train.py` work like `python -m src.mlops.train`, from any working directory.

Python then looks for modules next to the script instead of in the repository root, so `import src` finds this file.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
__path__ = [str(ROOT / "src")]  # from now on, this module is the package `src`
sys.path[0] = str(ROOT)
