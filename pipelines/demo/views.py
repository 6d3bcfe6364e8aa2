"""The photos of `fourmill demo`, continued: landscapes and the sky, pictures of microscopes and eyes, surfaces."""

from __future__ import annotations

from .captions import CC0, CC_BY, NO_RESTRICTIONS, Photo, everywhere, stuff, thing

_SKIMAGE_DOCS = "https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data."
_SKY = ("a pale blue sky", "a hazy sky", "a light sky")
_EVENING_SKY = ("a dark blue sky", "the evening sky", "a clear sky at dusk")
_GREY_GROUND = ("an even grey background", "a plain dark grey background")

_LANDSCAPES = (
    Photo(
        "china",
        "sklearn",
        "datasets/images/china.jpg",
        (640, 427),
        "train",
        CC_BY,
        "danielbuechele on flickr",
        "https://www.flickr.com/photos/danielbuechele/6061409035/sizes/z/in/photostream/",
        ("an outdoor photo", "a photo taken on a hazy day", "a travel photo"),
        (
            "A tall red pagoda with orange roofs above a lake.",
            "a chinese tower with three roofs among green trees, with a lake and an island behind it",
            "The tower of the summer palace in beijing. Trees grow all around it.",
            "view over a wide lake from a hill, with a decorated temple in front",
        ),
        (
            thing(0.10, 0.06, 0.56, 0.95, "a pagoda with orange roofs", "a tall red tower", "a chinese temple"),
            thing(0.14, 0.06, 0.51, 0.33, "the top of a pagoda", "a pointed orange roof"),
            thing(0.10, 0.40, 0.53, 0.60, "a balcony with red columns", "red columns"),
            thing(0.10, 0.56, 0.56, 0.69, "a roof of orange and green tiles", "a tiled roof"),
            thing(0.57, 0.51, 0.80, 0.58, "an island in a lake", "a long bridge to an island"),
            thing(0.85, 0.31, 1.0, 1.0, "a tall green tree", "a slender tree"),
            thing(0.51, 0.64, 0.90, 1.0, "bushy treetops", "the crowns of trees"),
            stuff(
                0.14,
                0.28,
                0.50,
                0.84,
                "the floors and roofs of a pagoda",
                "part of a red pagoda",
                part_of="a pagoda with orange roofs",
            ),
            stuff(0.50, 0.0, 1.0, 0.30, *_SKY),
            stuff(0.0, 0.0, 0.27, 0.22, *_SKY),
            stuff(0.54, 0.54, 0.84, 0.68, "a calm lake", "grey water"),
            stuff(0.52, 0.76, 1.0, 1.0, "dark trees", "dense trees"),
            stuff(0.02, 0.80, 0.30, 1.0, "green trees", "green leaves"),
        ),
    ),
    Photo(
        "rocket",
        "skimage",
        "data/rocket.jpg",
        (640, 427),
        "val",
        "public domain (as released in 2015)",
        "SpaceX (Falcon 9 with DSCOVR)",
        "https://www.flickr.com/photos/spacexphotos/16511594820/in/photostream/",
        ("an outdoor photo", "a photo taken at dusk", "a photo of a launch site"),
        (
            "A white rocket stands on its launch pad at dusk.",
            "a tall rocket between steel towers, under a dark blue sky",
            "A rocket waits for its launch. Bright lamps shine around it.",
            "launch pad with a white rocket and four lattice towers in the evening",
        ),
        (
            thing(0.44, 0.29, 0.56, 0.96, "a white rocket", "a rocket on its launch pad", "a tall rocket"),
            thing(0.48, 0.29, 0.53, 0.42, "the nose of a rocket", "the top of a white rocket"),
            thing(0.0, 0.0, 0.14, 1.0, "a steel tower", "a tall lattice tower"),
            thing(0.87, 0.0, 1.0, 1.0, "a steel tower", "a tall lattice tower"),
            thing(0.25, 0.29, 0.33, 1.0, "a lattice tower with a mast", "a slender tower"),
            thing(0.68, 0.29, 0.76, 1.0, "a lattice tower with a mast", "a slender tower"),
            thing(0.12, 0.80, 0.33, 1.0, "bright lamps", "glowing yellow lights"),
            thing(0.54, 0.87, 0.74, 1.0, "bright lamps", "glowing yellow lights"),
            stuff(0.14, 0.0, 0.87, 0.28, *_EVENING_SKY),
            stuff(0.33, 0.0, 0.47, 0.85, *_EVENING_SKY),
            stuff(0.54, 0.0, 0.68, 0.85, *_EVENING_SKY),
        ),
    ),
    Photo(
        "hubble_deep_field",
        "skimage",
        "data/hubble_deep_field.jpg",
        (1000, 872),
        "train",
        "public domain",
        "NASA (Hubble eXtreme Deep Field)",
        "http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/",
        ("a photo of outer space", "a telescope image", "a picture of deep space"),
        (
            "Thousands of galaxies on a black sky, seen by the Hubble telescope.",
            "a deep field full of small galaxies in many colors",
            "Distant galaxies look like colored dots in the dark. A star with spikes shines among them.",
            "the night sky filled with faint blue, white and orange galaxies",
        ),
        (
            everywhere("distant galaxies on a black sky", "many small galaxies", "tiny colored dots in the dark"),
            thing(0.71, 0.62, 0.80, 0.70, "a bright star with spikes", "a blue and white star"),
            thing(0.69, 0.51, 0.76, 0.58, "a glowing orange galaxy", "a large orange galaxy"),
            thing(0.10, 0.42, 0.15, 0.50, "a white spiral galaxy", "a pale spiral galaxy"),
            thing(0.95, 0.53, 1.0, 0.59, "a bright orange galaxy", "a round orange galaxy"),
            thing(0.26, 0.10, 0.32, 0.15, "a red galaxy", "a glowing red galaxy"),
            thing(0.37, 0.06, 0.43, 0.11, "a blue galaxy", "a pale blue galaxy"),
            thing(0.39, 0.79, 0.45, 0.85, "a glowing orange galaxy", "an oval orange galaxy"),
        ),
    ),
)

_MEDICAL = (
    Photo(
        "retina",
        "skimage",
        "data/retina.jpg",
        (1411, 1411),
        "train",
        CC0,
        "Mikael Haggstrom",
        "https://commons.wikimedia.org/wiki/File:Fundus_photograph_of_normal_left_eye.jpg",
        ("a photo of the back of an eye", "a medical photo", "an image of a retina"),
        (
            "The retina of a human eye, a red disk with branching blood vessels.",
            "photo of the inside of an eye with a pale optic disc and a dark macula",
            "A round red retina on a black background. Blood vessels spread from a bright spot.",
            "medical image of a healthy human retina",
        ),
        (
            everywhere("a red retina", "branching blood vessels", "blood vessels on a red ground"),
            thing(0.07, 0.38, 0.24, 0.57, "a bright optic disc", "a pale yellow spot"),
            thing(0.38, 0.40, 0.62, 0.61, "the dark spot of the macula", "a dark red spot"),
        ),
    ),
    Photo(
        "immunohistochemistry",
        "skimage",
        "data/ihc.png",
        (512, 512),
        "train",
        NO_RESTRICTIONS,
        "Center for Microscopy And Molecular Imaging (CMMI)",
        _SKIMAGE_DOCS + "immunohistochemistry",
        ("a microscope image", "a medical image", "a microscope image of stained tissue"),
        (
            "Glands of the colon under the microscope, stained brown and blue.",
            "microscope image of brown cells with blue nuclei between pale tissue",
            "Stained tissue with several brown glands. The nuclei of the cells are blue.",
            "tissue on a slide, with rings of brown cells",
        ),
        (
            everywhere("stained tissue", "brown and blue cells", "tissue with many cells"),
            thing(0.49, 0.58, 0.76, 1.0, "an oval gland", "an oval group of brown cells"),
            thing(0.54, 0.0, 0.91, 0.59, "a gland with a narrow white gap", "brown cells around a white gap"),
            thing(0.0, 0.0, 0.53, 0.51, "densely packed brown cells", "a large brown gland"),
            thing(0.07, 0.40, 0.31, 1.0, "a broad band of brown cells", "a curved layer of brown cells"),
            stuff(0.90, 0.0, 1.0, 1.0, "pale tissue with blue nuclei", "pale connective tissue"),
            stuff(0.77, 0.60, 1.0, 1.0, "pale tissue with blue nuclei", "pale connective tissue"),
        ),
    ),
    Photo(
        "cell",
        "skimage",
        "data/cell.png",
        (550, 660),
        "train",
        CC0,
        "P. Mueller, M. Schuermann, S. Girardo, G. Cojoc, J. Guck, Optics Express 26(8), 2018",
        "https://doi.org/10.1364/OE.26.010729",
        ("a microscope image", "a grey microscope image", "a black and white picture"),
        (
            "A single round cell on a dark grey background.",
            "a bright cell floating in water, under the microscope",
            "Microscope image of one round cell. A dark ring surrounds it.",
            "a white disk on a grey background with faint stripes",
        ),
        (
            thing(0.65, 0.46, 0.91, 0.68, "a round cell", "a bright round cell", "a white disk with a dark rim"),
            stuff(0.0, 0.0, 0.60, 1.0, *_GREY_GROUND),
            stuff(0.0, 0.0, 1.0, 0.40, *_GREY_GROUND),
            stuff(0.0, 0.72, 1.0, 1.0, *_GREY_GROUND),
        ),
    ),
)


def _surface(
    name: str, split: str, size: tuple[int, int], rights: tuple[str, str, str], captions: tuple[str, ...], *phrases: str
) -> Photo:
    """A grey photo that shows the same everywhere. `rights`: licence, attribution, source."""
    kinds = ("a black and white photo", "a grey picture", "a close view in black and white")
    return Photo(name, "skimage", f"data/{name}.png", size, split, *rights, kinds, captions, (everywhere(*phrases),))


_SURFACES = (
    _surface(
        "brick",
        "train",
        (512, 512),
        (CC0, "CC0Textures (Bricks25)", "https://cc0textures.com/view.php?tex=Bricks25"),
        (
            "A wall of long dark bricks with light mortar between them.",
            "the regular pattern of a brick wall in black and white",
            "Dark bricks in rows. The joints between them are light grey.",
        ),
        *("a brick wall", "dark bricks with light mortar", "rows of bricks", "a pattern of bricks", "a wall of bricks"),
        *("a regular texture of bricks", "dark grey bricks", "light lines between dark bricks"),
    ),
    _surface(
        "grass",
        "train",
        (512, 512),
        (CC0, "linolafett", "https://www.deviantart.com/linolafett/art/Grass-01-434853879"),
        (
            "Grass seen from above, with some small leaves in it.",
            "a dense tangle of blades of grass in black and white",
            "Short grass covers the ground. A few broad leaves lie in it.",
        ),
        *("grass", "blades of grass", "a lawn seen from above", "grass and small leaves", "a tangle of grass"),
        *("a fine texture of grass", "ground covered with grass", "thin leaves in all directions"),
    ),
    _surface(
        "gravel",
        "val",
        (512, 512),
        (CC0, "CC0Textures (Gravel04)", "https://cc0textures.com/view.php?tex=Gravel04"),
        (
            "A bed of gravel, seen from above.",
            "many small grey stones with sharp edges",
            "The ground is covered with gravel. The stones are all of about the same size.",
        ),
        *("gravel", "small grey stones", "gravel seen from above", "broken stones", "ground covered with gravel"),
        *("a rough texture of stones", "stones with sharp edges", "a bed of small stones"),
    ),
    _surface(
        "text",
        "train",
        (448, 172),
        ("public domain", "Wikipedia (File:Corner.png)", "https://en.wikipedia.org/wiki/File:Corner.png"),
        (
            "Handwritten signs on a sheet of paper with slanted lines.",
            "black pen strokes on grey paper, seen at an angle",
            "A sheet of paper with handwriting. Long thin lines run across it.",
        ),
        *("handwriting on paper", "black pen strokes", "handwritten signs", "thin slanted lines on grey paper"),
        *("ink on paper", "curved black strokes", "a sheet of paper with handwriting", "written signs and long lines"),
    ),
)

WIDE_PHOTOS = _LANDSCAPES + _MEDICAL + _SURFACES
