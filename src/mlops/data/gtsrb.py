"""The 43 classes of GTSRB. This is the only class list in the repository.

The sign numbers are from the German road traffic regulations (StVO), in the sign catalogue VzKat of 2017. The class ids
and their order are from the benchmark (Stallkamp et al., "Man vs. computer", Neural Networks 32, 2012).
"""

from dataclasses import dataclass
from typing import Literal

Shape = Literal["red_circle", "grey_circle", "blue_circle", "red_triangle", "yield_triangle", "octagon", "diamond"]


@dataclass(frozen=True, slots=True)
class Sign:
    """One class of traffic sign.

    Attributes:
        class_id: The benchmark's class, 0 to 42.
        number: The sign's number in the German catalogue, for example `274-20`.
        name: English name.
        shape: Outline and colour of the sign.
        mirror: Class of the horizontally mirrored image, or None if the mirrored image is not a valid sign.
    """

    class_id: int
    number: str
    name: str
    shape: Shape
    mirror: int | None = None


SIGNS: tuple[Sign, ...] = (
    Sign(0, "274-20", "Speed limit 20 km/h", "red_circle"),
    Sign(1, "274-30", "Speed limit 30 km/h", "red_circle"),
    Sign(2, "274-50", "Speed limit 50 km/h", "red_circle"),
    Sign(3, "274-60", "Speed limit 60 km/h", "red_circle"),
    Sign(4, "274-70", "Speed limit 70 km/h", "red_circle"),
    Sign(5, "274-80", "Speed limit 80 km/h", "red_circle"),
    Sign(6, "278-80", "End of speed limit 80 km/h", "grey_circle"),
    Sign(7, "274-100", "Speed limit 100 km/h", "red_circle"),
    Sign(8, "274-120", "Speed limit 120 km/h", "red_circle"),
    Sign(9, "276", "No overtaking", "red_circle"),
    Sign(10, "277", "No overtaking by lorries", "red_circle"),
    Sign(11, "301", "Right of way at next junction", "red_triangle", mirror=11),
    Sign(12, "306", "Priority road", "diamond", mirror=12),
    Sign(13, "205", "Give way", "yield_triangle", mirror=13),
    Sign(14, "206", "Stop", "octagon"),
    Sign(15, "250", "No vehicles", "red_circle", mirror=15),
    Sign(16, "253", "No lorries", "red_circle"),
    Sign(17, "267", "No entry", "red_circle", mirror=17),
    Sign(18, "101", "Danger", "red_triangle", mirror=18),
    Sign(19, "103-10", "Bend to the left", "red_triangle", mirror=20),
    Sign(20, "103-20", "Bend to the right", "red_triangle", mirror=19),
    Sign(21, "105-10", "Double bend, first to the left", "red_triangle"),
    Sign(22, "112", "Uneven road", "red_triangle", mirror=22),
    Sign(23, "114", "Slippery road", "red_triangle"),
    Sign(24, "121-10", "Road narrows on the right", "red_triangle"),
    Sign(25, "123", "Road works", "red_triangle"),
    Sign(26, "131", "Traffic lights", "red_triangle", mirror=26),
    Sign(27, "133-10", "Pedestrians", "red_triangle"),
    Sign(28, "136-10", "Children", "red_triangle"),
    Sign(29, "138-10", "Cyclists", "red_triangle"),
    Sign(30, "101-51", "Snow or ice", "red_triangle", mirror=30),
    Sign(31, "142-10", "Wild animals", "red_triangle"),
    Sign(32, "282", "End of all restrictions", "grey_circle"),
    Sign(33, "209", "Turn right ahead", "blue_circle", mirror=34),
    Sign(34, "209-10", "Turn left ahead", "blue_circle", mirror=33),
    Sign(35, "209-30", "Straight ahead only", "blue_circle", mirror=35),
    Sign(36, "214", "Straight ahead or right", "blue_circle", mirror=37),
    Sign(37, "214-10", "Straight ahead or left", "blue_circle", mirror=36),
    Sign(38, "222", "Keep right", "blue_circle", mirror=39),
    Sign(39, "222-10", "Keep left", "blue_circle", mirror=38),
    Sign(40, "215", "Roundabout", "blue_circle"),
    Sign(41, "280", "End of no overtaking", "grey_circle"),
    Sign(42, "281", "End of no overtaking by lorries", "grey_circle"),
)
NUM_CLASSES = len(SIGNS)
