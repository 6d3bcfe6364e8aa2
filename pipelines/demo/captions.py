"""The photos of `fourmill demo`: files inside installed packages, their rights, and what can be seen in them.

Every word about the pictures is ours. Only files that the wheels themselves carry and whose rights are stated, by the
package or by their source, are listed: of scikit-image that leaves out `moon` and `page` (nothing is said), faces of
LFW, drawings, `microaneurysms` (102 px) and whatever it would download. This module holds people, things and living
beings; views and surfaces are in views.py.

Coordinates are (left, top, right, bottom) relative to the photo, in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

RelativeBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class Region:
    """Something that can be seen in a photo, and some ways to say so.

    A thing has an outline: `box` bounds it, and it is shown by a crop that holds most of the box. Stuff (sky, fur, a
    wall) has none: all of `box` is filled with it, and it is shown by a crop of which it fills a good part. `part_of`
    names a thing by its first phrase; the region is not mentioned beside the whole thing.
    """

    box: RelativeBox
    phrases: tuple[str, ...]
    stuff: bool = False
    part_of: str = ""


@dataclass(frozen=True)
class Photo:
    """One photo: where its file is, whose it is, and what it shows.

    package, path: the import package and the file below it. size: (width, height) in pixels, since the boxes below are
        true of this file only.
    kinds: noun phrases for the picture, true of any crop of at least `photos.MIN_SIDE` pixels.
    captions: true of the whole photo. regions: what the caption of a crop is composed of.
    """

    name: str
    package: str
    path: str
    size: tuple[int, int]
    split: str
    licence: str
    attribution: str
    source: str
    kinds: tuple[str, ...]
    captions: tuple[str, ...]
    regions: tuple[Region, ...]


def thing(left: float, top: float, right: float, bottom: float, *phrases: str) -> Region:
    return Region((left, top, right, bottom), phrases)


def stuff(left: float, top: float, right: float, bottom: float, *phrases: str, part_of: str = "") -> Region:
    return Region((left, top, right, bottom), phrases, True, part_of)


def everywhere(*phrases: str) -> Region:
    return Region((0.0, 0.0, 1.0, 1.0), phrases, stuff=True)


CC0 = "CC0-1.0"
NO_RESTRICTIONS = "no known copyright restrictions"
CC_BY = "CC-BY-2.0"
_STARS = ("white stars on a dark blue flag", "the stars of a flag", "white stars on blue cloth")
_FLAG = ("an american flag", "a flag with stars and stripes", "the flag of the united states")
_NAME_TAG = ("a name tag", "a small name badge")
_WALL = ("a plain grey wall", "an even grey surface", "an empty wall")


def _motorcycle(side: str, split: str, boxes: tuple[RelativeBox, ...]) -> Photo:
    """One view of the stereo pair; the two differ in where things are, not in what they are."""
    phrases = (
        ("a red motorcycle", "a red motorbike with a black seat", "a parked motorcycle"),
        ("the front wheel of a motorcycle", "a front wheel with a disc brake"),
        ("the rear wheel of a motorcycle", "a thick rear tire"),
        ("a round headlight", "the headlamp of a motorcycle"),
        ("a chrome engine", "the shiny engine of a motorcycle"),
        ("a red fuel tank", "a glossy red tank"),
        ("a black leather seat", "the black seat of a motorcycle"),
        ("a wooden bench", "an old wooden bench"),
        ("cardboard boxes", "brown boxes on a shelf"),
        ("a red plastic bin", "a red storage box"),
        ("metal shelves", "shelves full of boxes and tools", "a storage rack"),
    )
    assert len(phrases) == len(boxes)
    return Photo(
        f"motorcycle_{side}",
        "skimage",
        f"data/motorcycle_{side}.png",
        (741, 500),
        split,
        "Middlebury Stereo 2014: may be used and published, citation requested",
        "D. Scharstein, H. Hirschmueller, Y. Kitajima, G. Krathwohl, N. Nesic, X. Wang, P. Westling, GCPR 2014",
        "http://vision.middlebury.edu/stereo/data/scenes2014/",
        ("a photo taken in a garage", "a view of a garage", "an indoor photo"),
        (
            "A red motorcycle stands on the concrete floor of a garage, before shelves and a wooden bench.",
            "a red yamaha motorcycle parked in a garage",
            "A motorbike with a black seat and a chrome engine, with storage shelves behind it.",
            "an old motorcycle in a workshop full of boxes and tools",
        ),
        (
            *(Region(box, phrase) for box, phrase in zip(boxes, phrases, strict=True)),
            stuff(*boxes[5], "part of a red motorcycle", "a piece of a motorbike", part_of="a red motorcycle"),
            stuff(*boxes[4], "part of a red motorcycle", "a piece of a motorbike", part_of="a red motorcycle"),
            stuff(0.0, 0.84, 1.0, 1.0, "a concrete floor", "a grey floor"),
        ),
    )


_PEOPLE = (
    Photo(
        "astronaut",
        "skimage",
        "data/astronaut.png",
        (512, 512),
        "train",
        "public domain",
        "NASA (portrait of Eileen Collins)",
        "https://flic.kr/p/r9qvLn",
        ("an official portrait", "a studio portrait", "a color portrait"),
        (
            "An astronaut in an orange suit smiles before an American flag and a model of the space shuttle.",
            "a smiling woman in an orange space suit with her helmet beside her",
            "Official portrait of a woman astronaut with short brown hair. A shuttle model stands behind her.",
            "a woman in a pressure suit poses with a helmet, a flag and a model of a rocket",
        ),
        (
            thing(0.05, 0.03, 0.72, 1.0, "a woman in an orange space suit", "an astronaut in an orange suit"),
            thing(0.30, 0.03, 0.59, 0.37, "the face of a smiling woman", "a smiling woman with short brown hair"),
            thing(0.0, 0.0, 0.20, 1.0, *_FLAG),
            thing(0.0, 0.0, 0.13, 0.28, *_STARS),
            thing(0.69, 0.0, 0.90, 0.57, "a model of the space shuttle", "a white shuttle with a brown fuel tank"),
            thing(0.54, 0.67, 0.99, 1.0, "a helmet with a black visor", "a black and white helmet"),
            thing(0.25, 0.67, 0.42, 0.84, "a round mission patch", "an embroidered blue patch"),
            thing(0.54, 0.65, 0.65, 0.74, *_NAME_TAG),
            thing(0.22, 0.28, 0.60, 0.58, "the dark neck ring of a space suit", "a wide metal collar"),
            stuff(
                0.1, 0.4, 0.65, 1.0, "part of a space suit", "orange cloth", part_of="a woman in an orange space suit"
            ),
        ),
    ),
    Photo(
        "grace_hopper",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        (512, 600),
        "val",
        "public domain (work of the United States government)",
        "James S. Davis, United States Navy (portrait of Grace M. Hopper)",
        "https://commons.wikimedia.org/wiki/File:Commodore_Grace_M._Hopper,_USN_(covered).jpg",
        ("an official portrait", "a studio portrait", "a color portrait"),
        (
            "An old woman in a navy uniform and cap, wearing glasses, before an American flag.",
            "official portrait of a navy officer with ribbons on her dark uniform",
            "A woman with glasses and a black and white cap poses before a flag and a blue background.",
        ),
        (
            thing(0.02, 0.03, 1.0, 1.0, "a woman in a dark uniform", "a navy officer in uniform"),
            thing(0.30, 0.21, 0.74, 0.55, "the face of an old woman with glasses", "an old woman wearing glasses"),
            thing(0.29, 0.03, 0.73, 0.30, "a black and white navy cap", "an officer's cap with an eagle on it"),
            thing(0.33, 0.27, 0.71, 0.39, "a pair of glasses", "glasses with dark upper rims"),
            thing(0.0, 0.0, 0.40, 1.0, *_FLAG),
            thing(0.0, 0.0, 0.25, 0.50, *_STARS),
            thing(0.62, 0.81, 0.90, 0.88, "rows of colorful ribbons", "service ribbons"),
            thing(0.15, 0.80, 0.34, 0.87, *_NAME_TAG),
            thing(0.37, 0.53, 0.66, 0.88, "a white collar and a black tie", "a white shirt with a dark tie"),
            stuff(0.33, 0.22, 0.70, 0.52, "part of a face", part_of="the face of an old woman with glasses"),
            stuff(0.74, 0.0, 1.0, 0.55, "a plain blue background", "a blue backdrop"),
            stuff(0.08, 0.68, 0.42, 1.0, "the dark cloth of a uniform", "a dark blue jacket"),
            stuff(0.60, 0.62, 0.95, 1.0, "the dark cloth of a uniform", "a dark blue jacket"),
        ),
    ),
    Photo(
        "camera",
        "skimage",
        "data/camera.png",
        (512, 512),
        "train",
        CC0,
        "Lav Varshney",
        "https://github.com/scikit-image/scikit-image/issues/3927",
        ("a black and white photo", "a grey photo taken outdoors", "an outdoor scene in black and white"),
        (
            "A man in a dark coat looks through a camera on a tripod.",
            "black and white photo of a photographer on a wide lawn",
            "A cameraman in a long black coat bends over his camera. There are buildings far behind him.",
            "a photographer films outdoors, with a tower and a dome in the distance",
        ),
        (
            thing(0.0, 0.12, 0.65, 1.0, "a man in a dark coat", "a cameraman in a black coat"),
            thing(0.30, 0.12, 0.53, 0.39, "the head of a man in profile", "a man with dark hair"),
            thing(0.50, 0.26, 0.65, 0.39, "a small video camera", "a camera held by a gloved hand"),
            thing(0.44, 0.37, 0.80, 1.0, "a tripod", "a metal tripod on the grass"),
            thing(0.65, 0.22, 1.0, 0.46, "buildings in the distance", "a skyline with a tower and a dome"),
            stuff(0.60, 0.48, 1.0, 1.0, "a lawn", "a field of short grass"),
            stuff(0.30, 0.75, 1.0, 1.0, "a lawn", "a field of short grass"),
            stuff(0.55, 0.0, 1.0, 0.20, "a clear sky", "an empty sky"),
            stuff(0.0, 0.0, 0.30, 0.22, "a clear sky", "an empty sky"),
            stuff(0.05, 0.30, 0.32, 0.70, "dark cloth", "a heavy black coat"),
        ),
    ),
)

_OBJECTS = (
    Photo(
        "coffee",
        "skimage",
        "data/coffee.png",
        (600, 400),
        "val",
        CC0,
        "Rachel Michetti, courtesy of Pikolo Espresso Bar",
        "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.coffee",
        ("a photo in warm colors", "a picture in red and brown", "an indoor photo"),
        (
            "A red cup of coffee and a silver spoon on a red saucer.",
            "an espresso in a red and white cup on a wooden table",
            "A cup of coffee stands on a round saucer, with a small spoon beside it.",
            "coffee with brown foam in a thick red cup, seen from above",
        ),
        (
            thing(0.28, 0.04, 0.69, 0.77, "a cup of coffee", "a red and white cup"),
            thing(0.12, 0.15, 0.80, 0.98, "a red saucer", "a round red plate"),
            thing(0.52, 0.52, 0.69, 0.82, "a silver spoon", "a shiny metal spoon"),
            thing(0.32, 0.57, 0.44, 0.78, "the handle of a cup", "a red handle"),
            thing(0.33, 0.23, 0.62, 0.49, "coffee with brown foam", "an espresso"),
            stuff(0.28, 0.08, 0.68, 0.70, "part of a coffee cup", "a piece of a cup", part_of="a cup of coffee"),
            stuff(0.15, 0.30, 0.78, 0.90, "red porcelain", "shiny red porcelain", part_of="a red saucer"),
            stuff(0.80, 0.02, 1.0, 1.0, "a wooden table", "brown wood"),
            stuff(0.70, 0.0, 1.0, 0.25, "a wooden table", "brown wood"),
            stuff(0.0, 0.32, 0.13, 1.0, "a wooden table", "brown wood"),
        ),
    ),
    Photo(
        "coins",
        "skimage",
        "data/coins.png",
        (384, 303),
        "train",
        NO_RESTRICTIONS,
        "Brooklyn Museum Collection",
        "https://www.brooklynmuseum.org/opencollection/archives/image/51611",
        ("a black and white photo", "a museum photo", "a grey picture"),
        (
            "Four rows of ancient coins on a dark background.",
            "old greek coins from pompeii, lying in rows",
            "A museum photo of round coins of different sizes. Most of them show a head.",
            "rows of worn silver coins in black and white",
        ),
        (
            everywhere("ancient coins", "old coins on a dark background", "round coins of different sizes"),
            thing(0.79, 0.04, 0.96, 0.25, "a coin with standing figures", "a large coin with people on it"),
            thing(0.48, 0.55, 0.63, 0.73, "a coin with a face seen from the front", "a round face on a coin"),
            thing(0.81, 0.50, 1.0, 0.73, "a large coin with a head in profile", "a large round coin"),
            thing(0.20, 0.57, 0.33, 0.73, "a coin with a head in profile", "a small bright coin"),
            thing(0.04, 0.76, 0.20, 0.96, "a large worn coin", "a large round coin"),
            thing(0.04, 0.04, 0.96, 0.26, "a row of coins", "coins in a row"),
        ),
    ),
    Photo(
        "clock",
        "skimage",
        "data/clock_motion.png",
        (400, 300),
        "train",
        "public domain",
        "Stefan van der Walt",
        "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.clock",
        ("a blurred photo", "a grey photo with motion blur", "a black and white picture"),
        (
            "A wall clock blurred by the motion of the camera.",
            "a round white clock on a grey wall, out of focus",
            "The face of a clock is smeared sideways. Its hands cannot be read.",
            "blurry black and white photo of a round clock",
        ),
        (
            thing(0.35, 0.30, 0.71, 0.73, "a round clock blurred by motion", "a blurry white clock", "a wall clock"),
            stuff(0.0, 0.0, 0.35, 1.0, *_WALL),
            stuff(0.71, 0.0, 1.0, 1.0, *_WALL),
            stuff(0.0, 0.0, 1.0, 0.30, *_WALL),
            stuff(0.0, 0.73, 1.0, 1.0, *_WALL),
        ),
    ),
    _motorcycle(
        "left",
        "train",
        (
            (0.12, 0.10, 0.93, 0.91),
            (0.69, 0.52, 0.93, 0.91),
            (0.16, 0.47, 0.38, 0.81),
            (0.69, 0.24, 0.77, 0.38),
            (0.45, 0.47, 0.65, 0.76),
            (0.43, 0.31, 0.66, 0.50),
            (0.20, 0.31, 0.49, 0.52),
            (0.05, 0.20, 0.38, 0.62),
            (0.71, 0.06, 0.92, 0.20),
            (0.70, 0.36, 0.83, 0.51),
            (0.46, 0.0, 0.97, 0.59),
        ),
    ),
    _motorcycle(
        "right",
        "train",
        (
            (0.07, 0.03, 0.85, 0.91),
            (0.63, 0.52, 0.85, 0.91),
            (0.10, 0.47, 0.32, 0.81),
            (0.61, 0.24, 0.69, 0.38),
            (0.38, 0.47, 0.58, 0.76),
            (0.36, 0.31, 0.59, 0.49),
            (0.13, 0.31, 0.42, 0.52),
            (0.03, 0.20, 0.36, 0.62),
            (0.68, 0.06, 0.89, 0.20),
            (0.67, 0.36, 0.80, 0.51),
            (0.43, 0.0, 0.94, 0.58),
        ),
    ),
)

_NATURE = (
    Photo(
        "chelsea",
        "skimage",
        "data/chelsea.png",
        (451, 300),
        "train",
        CC0,
        "Stefan van der Walt",
        "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.chelsea",
        ("a photo of a cat", "a picture of a tabby cat", "a close view of a cat"),
        (
            "The face of a tabby cat with green eyes.",
            "close-up of a brown striped cat with a reddish nose and white whiskers",
            "A cat with large green eyes looks past the camera.",
            "portrait of a tabby cat with striped fur",
        ),
        (
            thing(0.07, 0.0, 0.85, 0.95, "the face of a tabby cat", "a cat with green eyes", "a striped cat"),
            thing(0.29, 0.27, 0.48, 0.51, "a large green eye", "a round green eye"),
            thing(0.64, 0.35, 0.77, 0.56, "a green eye with a narrow pupil", "a green eye"),
            thing(0.50, 0.73, 0.66, 0.90, "a reddish nose", "a small red nose"),
            thing(0.0, 0.68, 0.42, 1.0, "long white whiskers", "thin white whiskers"),
            thing(0.70, 0.0, 0.89, 0.25, "a pink ear", "a soft pink ear"),
            thing(0.25, 0.0, 0.67, 0.27, "dark stripes on a forehead", "a striped forehead"),
            stuff(0.12, 0.03, 0.65, 0.85, "brown striped fur", "soft tabby fur"),
            stuff(0.83, 0.10, 1.0, 1.0, "a blurred background", "a soft grey background"),
        ),
    ),
    Photo(
        "flower",
        "sklearn",
        "datasets/images/flower.jpg",
        (640, 427),
        "train",
        CC_BY,
        "vultilion on flickr (the notice shipped with the file names danielbuechele)",
        "https://www.flickr.com/photos/vultilion/6056698931/sizes/z/in/photostream/",
        ("a photo of a garden", "a close view of a plant", "an outdoor photo"),
        (
            "A round orange dahlia before dark green leaves.",
            "an orange flower with many petals, in full bloom",
            "Close-up of a dahlia. A second flower begins below it.",
            "a ball of orange petals on a dark blurred background",
        ),
        (
            thing(0.26, 0.19, 0.70, 0.85, "an orange dahlia", "a round orange flower", "a flower with many petals"),
            thing(0.42, 0.41, 0.56, 0.63, "the red center of a flower", "small curled petals"),
            thing(0.45, 0.87, 0.73, 1.0, "part of another orange flower", "the top of a second flower"),
            stuff(0.30, 0.28, 0.66, 0.76, "orange petals", "soft orange petals"),
            stuff(0.0, 0.0, 0.25, 1.0, "dark green leaves", "a dark blurred background"),
            stuff(0.72, 0.0, 1.0, 0.90, "dark green leaves", "a dark blurred background"),
            stuff(0.0, 0.0, 1.0, 0.18, "dark green leaves", "a dark blurred background"),
        ),
    ),
)

CLOSE_PHOTOS = _PEOPLE + _OBJECTS + _NATURE
