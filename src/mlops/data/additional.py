"""Prepares the images that are added to the data: those collected by the service, and drawn ones.

Each kind has a pack of its own, in a subfolder of the processed folder, so the splits of the data do not change.
"""

from src.mlops.config import DataConfig, SyntheticConfig
from src.mlops.data.classes import ClassList
from src.mlops.data.packing import Pack
from src.mlops.data.prepare import COLLECTED, DRAWN, prepare
from src.mlops.errors import DataError


def prepare_collected(data: DataConfig, classes: ClassList) -> Pack | None:
    """Prepares the labelled images in `data.collected`, such as those that `inv labels.export` wrote.

    They are split like the data: complete groups are held out for testing and validation.

    Args:
        data: Location of the images, and settings of the splits.
        classes: The class list of the data. The images need not show all of them.

    Returns:
        The pack, or None if `data.collected` is null.

    Raises:
        DataError: The images are missing or bad, are too few to be split, or have other classes.
    """
    if data.collected is None:
        return None
    if not data.collected.exists():
        raise DataError(
            f"data.collected={data.collected} does not exist. Export labelled images to it with `inv labels.export`."
        )
    return _prepare_below(data, COLLECTED, {"raw_dir": data.collected}, classes)


def prepare_drawn(data: DataConfig, settings: SyntheticConfig) -> Pack:
    """Renders and prepares synthetic images."""
    drawn = {"source": "synthetic", "raw_dir": data.processed_dir / DRAWN / "raw", "synthetic": settings}
    return _prepare_below(data, DRAWN, drawn)


def _prepare_below(data: DataConfig, name: str, changed: dict[str, object], classes: ClassList | None = None) -> Pack:
    own: dict[str, object] = {
        "source": "local",
        "raw_url": None,
        "collected": None,
        "processed_dir": data.processed_dir / name,
        "processed_url": None,
        "path_column": None,
        "label_column": None,
        "exclude": None,
        "synthetic": None,
    }
    return prepare(data.model_copy(update=own | changed), classes)
