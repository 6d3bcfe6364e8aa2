"""The ground of a place: where on earth it lies, its heights, its water, and what covers it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import noise

PIXEL = 20.0  # metres along a side
CLASSES = ("water", "trees", "grass", "crops", "built", "bare")
WATER, TREES, GRASS, CROPS, BUILT, BARE = range(len(CLASSES))
_BLOCK_MARGIN = 0.1  # degrees; a place is far smaller, and never reaches into the next block
_FIFTH = 5  # of the blocks one in so many is for validation
_LATITUDES = (43, 49)  # one zone of climate: over wider ones the snow line says less of heights
# Mean of July: at the sea at 46 degrees north, and how it falls by degree of latitude and by metre.
_JULY, _BY_DEGREE, _BY_METRE = 21.0, 0.7, 0.0065
_TREES_END, _SNOW_BEGINS = 10.0, 5.0  # degrees Celsius
_LOOK = 38  # degrees from the vertical, of the radar
_OVERLAID = 6.0  # a slope that faces the radar more than so much brighter lies over what is before it


@dataclass(frozen=True)
class Place:
    """lon, lat: degrees. day: of the year, when it was seen."""

    lon: float
    lat: float
    day: int


@dataclass(frozen=True)
class Ground:
    """What there is, (size, size) each.

    height: metres above the sea. slope: rise over run. shade: how much more or less light a slope gets than level
        ground. facing: the same for the radar, which looks from the west.
    warmth: mean of July, degrees Celsius. wet: from 0, dry, to 1.
    cover: ids of CLASSES. green: share of the ground that leaves cover. stock: of trees, from 0, seedlings, to 1.
    needles: share of the leaves that are needles. snow: share of the ground that it covers.
    """

    height: np.ndarray
    slope: np.ndarray
    shade: np.ndarray
    facing: np.ndarray
    warmth: np.ndarray
    wet: np.ndarray
    cover: np.ndarray
    green: np.ndarray
    stock: np.ndarray
    needles: np.ndarray
    snow: np.ndarray

    def shares(self) -> np.ndarray:
        """Of the classes, (classes,)."""
        return np.bincount(self.cover.ravel(), minlength=len(CLASSES)) / self.cover.size


def place(rng: np.random.Generator, split: str) -> Place:
    """A place of a split: blocks of one degree belong to either training or validation, so that no place is in both."""
    while True:
        lon, lat = rng.uniform(-180, 180), rng.uniform(*_LATITUDES)
        inside = all(_BLOCK_MARGIN < one % 1 < 1 - _BLOCK_MARGIN for one in (lon, lat))
        if inside and is_validation(lon, lat) == (split == "val"):
            return Place(round(lon, 5), round(lat, 5), int(rng.integers(152, 244)))


def is_validation(lon: float, lat: float) -> bool:
    """Whether a block of one degree is one of validation."""
    return int(np.floor(lon) + 2 * np.floor(lat)) % _FIFTH == 0


def ground(rng: np.random.Generator, where: Place, size: int) -> Ground:
    """The ground of a place."""
    # From plains to mountains; the higher they are, the more rugged.
    rough = rng.choice(3, p=(0.4, 0.35, 0.25))
    (low, high), (gentle, steep) = ((5, 300), (80, 700), (500, 2_600))[rough], ((6, 30), (30, 90), (70, 240))[rough]
    up = rng.uniform()
    base, relief = low + (high - low) * up, gentle + (steep - gentle) * (0.6 * up + 0.4 * rng.uniform())
    height, near, water = _heights(rng, size, relief, base, sharp=rough == 2)
    down, across = np.gradient(height, PIXEL)
    slope = np.hypot(down, across)
    warmth = _JULY - _BY_DEGREE * (where.lat - 46) - _BY_METRE * height + rng.normal(0, 0.5)
    wet = np.clip(0.45 + 0.25 * noise.fractal(rng, size, 1.6) + 0.4 * near - 0.3 * np.minimum(slope, 1), 0, 1)
    cover = _cover(rng, warmth, slope, wet, arable=(0.6, -0.2, -1.2)[rough])
    cover[water] = WATER
    green, stock = _growth(rng, cover, wet, warmth)
    # Snow stays where it is cold, longer in the shade and on level ground.
    shade = _light(down, across, azimuth=150, elevation=45)
    cold = (
        _SNOW_BEGINS - warmth + 2 * (1 - shade) - 2 * np.maximum(slope - 0.7, 0) + 0.6 * noise.fractal(rng, size, 1.3)
    )
    return Ground(
        height=height,
        slope=slope,
        shade=shade,
        facing=_facing(across),
        warmth=warmth,
        wet=wet,
        cover=cover,
        green=green,
        stock=stock,
        needles=np.clip(0.2 * stock + 0.8 * _step(14 - warmth, 2), 0, 1),
        snow=np.where(np.isin(cover, (GRASS, BARE)), _step(cold, 0.35), 0),
    )


def _heights(
    rng: np.random.Generator, size: int, relief: float, base: float, sharp: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heights, nearness to a river from 0 to 1, and where there is water."""
    shape = noise.fractal(rng, size, 2.1)
    if sharp:  # ridges
        shape = shape + 0.8 - np.abs(noise.fractal(rng, size, 2.1))
    height, near, water = base + relief * shape, np.zeros((size, size)), np.zeros((size, size), bool)
    if rng.uniform() < 0.7:
        along, across = noise.turned(rng, size)
        distance = noise.winding(rng, along, across, size * rng.uniform(-0.35, 0.35))
        near = np.exp(-np.square(distance / (size * rng.uniform(0.1, 0.3))))
        bed = base - 0.7 * relief + along * PIXEL * rng.uniform(0.0005, 0.004)  # it flows down
        water = distance < rng.uniform(0.6, 2.6)
        height = near * bed + (1 - near) * np.maximum(height, bed)
        height = np.where(water, bed - 1, height)
    if rng.uniform() < 0.3:  # a lake, which is level
        level = float(np.quantile(height, rng.uniform(0.03, 0.2)))
        water |= height <= level
        height = np.maximum(height, level)
        near = np.maximum(near, np.exp(-(height - level) / (0.2 * relief)))
    return np.maximum(height, 0.5), near, water


def _cover(
    rng: np.random.Generator, warmth: np.ndarray, slope: np.ndarray, wet: np.ndarray, arable: float
) -> np.ndarray:
    """Ids of CLASSES without water, uint8."""
    size = len(warmth)
    cover = np.full((size, size), GRASS, np.uint8)
    mild = warmth - _TREES_END + 0.6 * noise.fractal(rng, size, 1.2)
    wooded = noise.fractal(rng, size, 1.7) + 0.8 * np.minimum(slope / 0.3, 1) + wet + rng.uniform(-1.8, 1.6)
    cover[(wooded > 0.2) & (mild > 0)] = TREES
    fields = noise.parcels(rng, size, rng.uniform(5, 11))
    fit = arable + rng.normal(0, 0.6) - slope / 0.1 - np.maximum(18 - warmth, 0) / 2.5
    fit = noise.means(fit + 0.8 * noise.fractal(rng, size, 1.8), fields) + rng.normal(0, 0.2, fields.max() + 1)
    cover[(fit > 0)[fields]] = CROPS
    cover[((fit > 0) & (rng.uniform(size=fit.shape) < 0.25))[fields]] = GRASS  # meadows between them
    dry = 0.27 - 0.9 * wet + 0.4 * noise.fractal(rng, size, 1.4)
    cover[(dry > 0.65) | (mild < -3.5 + dry) | (slope > 0.9 + 0.2 * dry)] = BARE
    _towns(rng, cover, slope)
    return cover


def _towns(rng: np.random.Generator, cover: np.ndarray, slope: np.ndarray) -> None:
    """Settlements on level ground, with a road through each."""
    size, level = len(cover), np.argwhere(slope < 0.1)
    if not len(level):
        return
    down, across = np.mgrid[0:size, 0:size]
    edge = 0.5 * noise.fractal(rng, size, 1.1)
    for _ in range(rng.poisson(0.8)):
        middle = level[rng.integers(len(level))]
        radius = rng.uniform(1.5, 0.12 * size)
        beside = noise.turned(rng, size)[1] + 2 * noise.fractal(rng, size, 2.2)
        road = np.abs(beside - beside[tuple(middle)])
        town = np.hypot(down - middle[0], across - middle[1]) / radius + edge < 1
        cover[(town & (slope < 0.2)) | ((road < 0.5) & (slope < 0.35))] = BUILT


def _growth(
    rng: np.random.Generator, cover: np.ndarray, wet: np.ndarray, warmth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How green the ground is, and how tall its trees."""
    size = len(cover)
    stands, fields = noise.parcels(rng, size, rng.uniform(8, 16)), noise.parcels(rng, size, rng.uniform(5, 11))
    age = np.clip(rng.uniform() + rng.normal(0, 0.25, stands.max() + 1), 0, 1)[stands]
    stock = np.clip(age + 0.12 * noise.fractal(rng, size, 1.2), 0.02, 1)
    ripe = rng.beta(1.2, 0.7, fields.max() + 1)[fields]  # of fields most are green, some are harvested
    by_class = {
        WATER: np.zeros_like(wet), TREES: 0.55 + 0.4 * np.sqrt(stock), GRASS: (0.3 + 0.55 * wet) * _step(warmth - 7, 2),
        CROPS: 0.05 + 0.9 * ripe, BUILT: 0.08 + 0.15 * wet, BARE: 0.04 + 0.12 * wet,
    }  # fmt: skip
    green = np.choose(cover, list(by_class.values())) + 0.03 * rng.standard_normal((size, size))
    return np.clip(green, 0, 1), np.where(cover == TREES, stock, 0)


def _light(down: np.ndarray, across: np.ndarray, azimuth: float, elevation: float) -> np.ndarray:
    """Of slopes, over that of level ground; the azimuth clockwise from north, rows run south."""
    turn, rise = np.radians(azimuth), np.radians(elevation)
    east, south, up = np.sin(turn) * np.cos(rise), -np.cos(turn) * np.cos(rise), np.sin(rise)
    light = (up - across * east - down * south) / np.sqrt(1 + down**2 + across**2)
    return 0.15 + 0.85 * np.clip(light / up, 0, 1.7)  # a part comes from the sky


def _facing(across: np.ndarray) -> np.ndarray:
    """Backscatter of slopes over that of level ground: what rises away from the radar fills less of its range."""
    look = np.radians(_LOOK)
    return np.sin(look) / np.sin(np.clip(look - np.arctan(across), np.arcsin(np.sin(look) / _OVERLAID), np.pi / 2))


def _step(values: np.ndarray, width: float) -> np.ndarray:
    """From 0 to 1 where values pass 0."""
    return np.asarray(1 / (1 + np.exp(-np.clip(values / width, -30, 30))))
