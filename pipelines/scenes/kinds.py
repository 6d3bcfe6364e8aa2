"""What the world of rendered scenes is made of: one table for each of classes, shapes, sizes, colours and materials.

Adding a row to a table is all that a new shape, colour or material needs, but for its geometry (solids.py) and its
look (shade.py). Colours are linear RGB in [0, 1], as light adds up; `render.py` writes sRGB.
"""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[float, float, float]

# Class ids of KEY.semseg.png are places in this table. Every pixel has one of them: 255, none, does not occur.
CLASSES: tuple[str, ...] = (
    "sky",  # 0: no surface, hence no depth and no normal
    "floor",  # 1
    "wall",  # 2
    "ball",  # 3
    "box",  # 4
    "cylinder",  # 5
    "cone",  # 6
    "capsule",  # 7
    "pyramid",  # 8
    "dome",  # 9
    "wedge",  # 10
)
SKY, FLOOR, WALL = range(3)


@dataclass(frozen=True)
class Shape:
    """A class of things: what else captions call it, its usual half extents at half size 1, how it may lie.

    half: (x, y, z); y is the axis of what is round.
    lying: share of the things that lie on their side.
    tall: the range of factors on its height.
    flat: whether another thing may stand on its top.
    """

    words: tuple[str, ...]
    half: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lying: float = 0.0
    tall: tuple[float, float] = (1.0, 1.0)
    flat: bool = False


SHAPES: dict[str, Shape] = {
    "ball": Shape(("ball", "sphere"), half=(1.0, 1.0, 1.0)),
    "box": Shape(("box", "block"), half=(0.9, 0.9, 0.9), tall=(0.6, 1.4), flat=True),
    "cylinder": Shape(("cylinder",), half=(0.75, 0.95, 0.75), lying=0.3, tall=(0.5, 1.3), flat=True),
    "cone": Shape(("cone",), half=(0.9, 1.15, 0.9), tall=(0.9, 1.2)),
    "capsule": Shape(("capsule", "pill"), half=(0.5, 1.2, 0.5), lying=0.7, tall=(0.9, 1.1)),
    "pyramid": Shape(("pyramid",), half=(1.0, 1.0, 1.0), tall=(0.8, 1.2)),
    "dome": Shape(("dome", "half ball"), half=(1.15, 0.575, 1.15)),
    "wedge": Shape(("wedge", "ramp"), half=(1.1, 0.75, 0.8), tall=(0.8, 1.2)),
}

# Half sizes in metres. The gaps between them are wider than the spread that draw.py gives each.
SIZES: dict[str, float] = {"small": 0.17, "medium": 0.27, "large": 0.42}

COLOURS: dict[str, Colour] = {
    "red": (0.62, 0.035, 0.03),
    "orange": (0.85, 0.24, 0.02),
    "yellow": (0.85, 0.62, 0.03),
    "green": (0.06, 0.38, 0.06),
    "cyan": (0.06, 0.55, 0.60),
    "blue": (0.03, 0.10, 0.58),
    "purple": (0.22, 0.05, 0.42),
    "pink": (0.85, 0.28, 0.45),
    "white": (0.80, 0.80, 0.78),
    "grey": (0.17, 0.17, 0.18),
}
BLACK: Colour = (0.02, 0.02, 0.022)


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    words: what captions call it; "" is left out.
    gloss: strength of the highlight, `sharpness` its exponent.
    mirror: share of the light that is a reflection of the scene, in the colour of the thing.
    coat: whether it reflects more at grazing angles, as lacquer does.
    pattern: "" or the name of a pattern of two colours.
    """

    words: tuple[str, ...]
    gloss: float = 0.0
    sharpness: float = 8.0
    mirror: float = 0.0
    coat: bool = False
    pattern: str = ""
    share: float = 1.0  # how often it is drawn, against the others


MATERIALS: dict[str, Material] = {
    "matte": Material(("", "matte"), gloss=0.03, sharpness=6.0, share=3.0),
    "shiny": Material(("shiny", "glossy"), gloss=0.55, sharpness=70.0, coat=True, share=3.0),
    "metal": Material(("metal", "metallic"), gloss=1.1, sharpness=140.0, mirror=0.72, share=2.0),
    "checkered": Material(("checkered",), gloss=0.12, sharpness=30.0, pattern="checker", share=1.0),
    "striped": Material(("striped",), gloss=0.12, sharpness=30.0, pattern="stripes", share=1.0),
}


@dataclass(frozen=True)
class Level:
    """A level of clutter: how full its scenes are and how much they vary.

    things: number of things, from and to.
    shapes: of which they are.
    bare: no surface has a pattern or is a mirror, and the floor goes on to the sky.
    azimuth: turn of the camera to the left or right at most, radians.
    pitch, field: the range of its angle above the horizon and of its field of view, degrees.
    version: raised when the same seed gives other scenes of this level than before.
    """

    things: tuple[int, int]
    shapes: tuple[str, ...] = tuple(SHAPES)
    bare: bool = False
    azimuth: float = 0.7
    pitch: tuple[float, float] = (8.0, 42.0)
    field: tuple[float, float] = (28.0, 58.0)
    version: int = 1


LEVELS: dict[str, Level] = {
    # What a small model learns in minutes on two CPU cores.
    "plain": Level(
        (1, 2),
        ("ball", "box", "cylinder", "cone"),
        bare=True,
        azimuth=0.35,
        pitch=(16.0, 34.0),
        field=(36.0, 50.0),
        version=2,
    ),
    "simple": Level((1, 3)),
    "medium": Level((3, 6)),
    "cluttered": Level((8, 14)),
}
MOST_THINGS = 40

# Floors and walls: a name for captions and a colour.
GROUNDS: dict[str, Colour] = {
    "white": (0.72, 0.72, 0.71),
    "light grey": (0.48, 0.48, 0.49),
    "grey": (0.24, 0.24, 0.25),
    "beige": (0.60, 0.50, 0.36),
    "brown": (0.27, 0.15, 0.08),
    "pale blue": (0.36, 0.48, 0.60),
    "pale green": (0.40, 0.52, 0.38),
    "pale pink": (0.66, 0.46, 0.44),
    "dark blue": (0.06, 0.09, 0.16),
}
# Pattern -> the word of a caption for a floor, and for a wall ("" where it has none).
FLOOR_PATTERNS: dict[str, str] = {"plain": "", "tiles": "tiled", "planks": "planked", "checker": "checkered"}
WALL_PATTERNS: dict[str, str] = {"plain": "", "stripes": "striped", "bricks": "brick", "panels": "panelled"}


@dataclass(frozen=True)
class Sky:
    """Colours at the horizon and overhead, and the words of a caption."""

    words: str
    horizon: Colour
    zenith: Colour


SKIES: tuple[Sky, ...] = (
    Sky("a blue sky", (0.62, 0.76, 0.92), (0.12, 0.28, 0.70)),
    Sky("a pale sky", (0.86, 0.88, 0.90), (0.45, 0.58, 0.78)),
    Sky("a grey sky", (0.62, 0.64, 0.67), (0.34, 0.36, 0.40)),
    Sky("a sunset sky", (0.98, 0.58, 0.30), (0.24, 0.22, 0.46)),
    Sky("a violet sky", (0.72, 0.55, 0.80), (0.16, 0.12, 0.36)),
)
