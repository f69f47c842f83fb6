"""The catalogue of GTSRB: its 43 classes. No other module knows their number.

The sign numbers are from the German road traffic regulations (StVO), in the sign catalogue VzKat of 2017. The class ids
and their order are from the benchmark (Stallkamp et al., "Man vs. computer", Neural Networks 32, 2012).
"""

from src.mlops.data.classes import ClassInfo, ClassList

SIGNS = ClassList(
    [
        ClassInfo(0, "Speed limit 20 km/h", "274-20", "red_circle"),
        ClassInfo(1, "Speed limit 30 km/h", "274-30", "red_circle"),
        ClassInfo(2, "Speed limit 50 km/h", "274-50", "red_circle"),
        ClassInfo(3, "Speed limit 60 km/h", "274-60", "red_circle"),
        ClassInfo(4, "Speed limit 70 km/h", "274-70", "red_circle"),
        ClassInfo(5, "Speed limit 80 km/h", "274-80", "red_circle"),
        ClassInfo(6, "End of speed limit 80 km/h", "278-80", "grey_circle"),
        ClassInfo(7, "Speed limit 100 km/h", "274-100", "red_circle"),
        ClassInfo(8, "Speed limit 120 km/h", "274-120", "red_circle"),
        ClassInfo(9, "No overtaking", "276", "red_circle"),
        ClassInfo(10, "No overtaking by lorries", "277", "red_circle"),
        ClassInfo(11, "Right of way at next junction", "301", "red_triangle", mirror=11),
        ClassInfo(12, "Priority road", "306", "diamond", mirror=12),
        ClassInfo(13, "Give way", "205", "yield_triangle", mirror=13),
        ClassInfo(14, "Stop", "206", "octagon"),
        ClassInfo(15, "No vehicles", "250", "red_circle", mirror=15),
        ClassInfo(16, "No lorries", "253", "red_circle"),
        ClassInfo(17, "No entry", "267", "red_circle", mirror=17),
        ClassInfo(18, "Danger", "101", "red_triangle", mirror=18),
        ClassInfo(19, "Bend to the left", "103-10", "red_triangle", mirror=20),
        ClassInfo(20, "Bend to the right", "103-20", "red_triangle", mirror=19),
        ClassInfo(21, "Double bend, first to the left", "105-10", "red_triangle"),
        ClassInfo(22, "Uneven road", "112", "red_triangle", mirror=22),
        ClassInfo(23, "Slippery road", "114", "red_triangle"),
        ClassInfo(24, "Road narrows on the right", "121-10", "red_triangle"),
        ClassInfo(25, "Road works", "123", "red_triangle"),
        ClassInfo(26, "Traffic lights", "131", "red_triangle", mirror=26),
        ClassInfo(27, "Pedestrians", "133-10", "red_triangle"),
        ClassInfo(28, "Children", "136-10", "red_triangle"),
        ClassInfo(29, "Cyclists", "138-10", "red_triangle"),
        ClassInfo(30, "Snow or ice", "101-51", "red_triangle", mirror=30),
        ClassInfo(31, "Wild animals", "142-10", "red_triangle"),
        ClassInfo(32, "End of all restrictions", "282", "grey_circle"),
        ClassInfo(33, "Turn right ahead", "209", "blue_circle", mirror=34),
        ClassInfo(34, "Turn left ahead", "209-10", "blue_circle", mirror=33),
        ClassInfo(35, "Straight ahead only", "209-30", "blue_circle", mirror=35),
        ClassInfo(36, "Straight ahead or right", "214", "blue_circle", mirror=37),
        ClassInfo(37, "Straight ahead or left", "214-10", "blue_circle", mirror=36),
        ClassInfo(38, "Keep right", "222", "blue_circle", mirror=39),
        ClassInfo(39, "Keep left", "222-10", "blue_circle", mirror=38),
        ClassInfo(40, "Roundabout", "215", "blue_circle"),
        ClassInfo(41, "End of no overtaking", "280", "grey_circle"),
        ClassInfo(42, "End of no overtaking by lorries", "281", "grey_circle"),
    ]
)
