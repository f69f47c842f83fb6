"""What the service and the cards say about a model and its data in addition to measured results.

GTSRB has the statements below. Those in `[tool.mlops]` of pyproject.toml replace them.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from src.mlops.data.classes import ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.project import load_project


@dataclass(frozen=True, slots=True)
class Statements:
    """Statements in Markdown.

    Attributes:
        intended_use: Intended use of the model, and its limits.
        limits: Items of a list: what a model that learned from these images does not know.
        data_source: Who recorded the images, when and how.
        personal_data: Whether images show people or anything else that identifies them.
        licence: Licence of the images.
    """

    intended_use: str
    limits: str
    data_source: str
    personal_data: str
    licence: str


_SETTABLE = ("intended_use", "data_source", "personal_data", "licence")  # keys of `[tool.mlops]`
_KNOWN = f"""\
The model knows {len(SIGNS)} German signs in their design of about 2010. It does not know newer designs or signs of
  other countries."""
GTSRB = Statements(
    intended_use="""\
Classifies the traffic sign in an image that is cropped to one German sign with a margin of about 10 %, as in the
[GTSRB](https://benchmark.ini.rub.de/) benchmark. It does not detect signs in a scene. Do not act on a prediction with
`is_unknown` true, or with more than one class in `prediction_set`, unless another source confirms it. The model alone
is not certified for any safety function.""",
    limits=f"""\
- {_KNOWN}
- The images are from one camera, by day and at dusk. Signs at night, under snow or with graffiti are rare.
""",
    data_source=(
        'German Traffic Sign Recognition Benchmark, Stallkamp et al., "Man vs. computer", 2012; video from a car on '
        "German roads, 2010; each physical sign is a track of about 30 frames"
    ),
    personal_data="none intended; the edge of a frame can show a car or a passer-by",
    licence=(
        "none named; the [page](https://benchmark.ini.rub.de/gtsrb_dataset.html) of the authors says that the data is "
        "free to use, and asks to cite their paper; the images are not part of this repository"
    ),
)
SYNTHETIC = replace(
    GTSRB,
    data_source="synthetic: `src/mlops/data/synthetic/` renders the signs and simulates a camera",
    personal_data="none",
    licence="MIT",
)


def statements_of(classes: ClassList, *, synthetic: bool = False, drawn: Collection[int] = ()) -> Statements:
    """Returns the statements about a model or a data set.

    Args:
        classes: Its class list.
        synthetic: Whether the images are synthetic signs.
        drawn: Ids of the classes of which the model was trained on drawings, but on no photographs.

    Raises:
        ConfigError: pyproject.toml cannot be used.
    """
    further = range(len(SIGNS), len(classes))
    if synthetic:
        known = SYNTHETIC
    elif classes.starts_with(SIGNS) and set(further) <= set(drawn):
        known = GTSRB
    else:
        known = Statements(
            limits=f"- The model knows only these {len(classes)} classes.\n",
            **{key: f"Not stated. Set `{key}` in `[tool.mlops]` of pyproject.toml." for key in _SETTABLE},
        )
    stated = {key: getattr(load_project(), key) for key in _SETTABLE}
    known = replace(known, **{key: text for key, text in stated.items() if text})
    if not drawn:
        return known
    unproven = _unproven(classes, drawn)
    more = f"The model knows {len(classes)} German signs. It does not know signs of other countries."
    limits = known.limits.replace(_KNOWN, more) if further else known.limits
    return replace(known, intended_use=f"{known.intended_use} {unproven}", limits=f"- {unproven}\n{limits}")


def _unproven(classes: ClassList, drawn: Collection[int]) -> str:
    if len(drawn) == len(classes):
        return (
            "The model was trained on drawings only. An evaluation on photographs shows how well it classifies those."
        )
    return (
        f"There were no photographs of {len(drawn)} of the {len(classes)} classes in the training. The model learned "
        "these classes from drawings, and it is unproven how well it classifies photographs of them."
    )
