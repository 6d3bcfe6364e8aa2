"""`fourmill demo`: the photos inside scikit-image, scikit-learn and matplotlib, cropped into WebDataset shards.

Twenty photos are few, so each gives many crops, with a caption composed of what the crop really shows. Training and
validation are split by photo: no pixel of a validation photo is trained on. Nothing is downloaded.

Decisions:
- Crop, caption and order are pure functions of (seed, photo, index), and a shard's bytes depend on nothing else
  (times and owners in the tar are 0): the same seed gives the same shards wherever Pillow is the same.
- A shard that is there is whole (`storage.put`) and is left alone. `photos.json` beside the shards names the options
  they were made with and whose photos they are; a folder of other options is refused, never mixed.
- Captions never say left or right, since a crop may be mirrored later.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...infra import storage
from ...infra.explain import listing
from ...tokenize.crops import Crop, hashed_uniforms
from ..archive import archive, record_of
from .captions import CLOSE_PHOTOS, Photo, Region
from .views import WIDE_PHOTOS

if TYPE_CHECKING:
    from PIL.Image import Image

PHOTOS: tuple[Photo, ...] = CLOSE_PHOTOS + WIDE_PHOTOS
SPLITS = ("train", "val")
RECORD = "photos.json"
MIN_SIDE = 160  # source pixels; a smaller window shows too little to be described
MIN_SCALE = 0.35  # of the photo's shorter side, so that large photos are not cut into crumbs
MAX_STORED_SIDE = 256  # pixels of the shorter side in the shard; larger crops shrink, smaller ones stay
JPEG_QUALITY = 92
THING_SHOWN = 0.8  # a thing is shown by a crop that holds this share of its box ...
THING_VISIBLE = 0.005  # ... in which it is no speck
STUFF_SHOWN = 0.25  # stuff is shown by a crop of which it fills this share
WIDE_SHARE = 0.2  # share of the crops that hold nearly the whole photo
WHOLE_SHARE = 0.75  # a caption of the whole photo needs this share of its area, and every thing in it


@dataclass(frozen=True)
class Summary:
    """What `write_shards` left in the folder: samples and shard names of each split; `written` are new ones."""

    folder: str
    samples: dict[str, int]
    shards: dict[str, list[str]]
    written: list[str]


def attributions() -> list[dict[str, str]]:
    """Whose photos they are: name, package, split, licence, attribution, source and changes, a row for each photo."""
    changes = "cropped, scaled down and compressed as JPEG"
    names = ("name", "package", "split", "licence", "attribution", "source")
    return [{name: str(getattr(photo, name)) for name in names} | {"changes": changes} for photo in PHOTOS]


def crop_of(photo: Photo, index: int, seed: int) -> Crop:
    """Window `index` of a photo; 0 is the whole photo, some are nearly so, the others vary in size, shape and place.

    Sides are at least min(MIN_SIDE, photo) and the aspect ratio of the smaller ones is between 3:4 and 4:3.
    """
    full_width, full_height = photo.size
    if index == 0:
        return Crop(0, 0, full_width, full_height)
    wide, scale, shape, x, y = hashed_uniforms(5, "photo crop", seed, photo.name, index)
    if wide < WIDE_SHARE:
        width, height = (full_width * (0.9 + 0.1 * scale), full_height * (0.9 + 0.1 * shape))
    else:
        largest = min(photo.size)
        smallest = max(MIN_SIDE, MIN_SCALE * largest)
        side = smallest * (largest / smallest) ** scale  # log-uniform
        ratio = (4 / 3) ** (2 * shape - 1)
        width, height = side * max(1.0, ratio), side * max(1.0, 1 / ratio)
    columns = min(full_width, max(MIN_SIDE, round(width)))
    rows = min(full_height, max(MIN_SIDE, round(height)))
    return Crop(int(x * (full_width - columns + 1)), int(y * (full_height - rows + 1)), columns, rows)


def _overlap(photo: Photo, region: Region, crop: Crop) -> tuple[float, float]:
    """(share of the region that the crop holds, share of the crop that the region fills), each in [0, 1]."""
    width, height = photo.size
    left, top, right, bottom = region.box
    columns = min(right * width, crop.left + crop.width) - max(left * width, crop.left)
    rows = min(bottom * height, crop.top + crop.height) - max(top * height, crop.top)
    area = max(0.0, columns) * max(0.0, rows)
    return area / ((right - left) * width * (bottom - top) * height), area / (crop.width * crop.height)


def shown_regions(photo: Photo, crop: Crop) -> list[Region]:
    """The regions that may be named in a caption of the crop, those that fill most of it first."""
    ranked = []
    for region in photo.regions:
        held, filled = _overlap(photo, region, crop)
        enough = filled >= STUFF_SHOWN if region.stuff else held >= THING_SHOWN and filled >= THING_VISIBLE
        if enough:
            ranked.append((filled, region))
    names = {region.phrases[0] for _, region in ranked}
    ranked.sort(key=lambda pair: -pair[0])
    return [region for _, region in ranked if region.part_of not in names]


def _shows_whole(photo: Photo, crop: Crop) -> bool:
    width, height = photo.size
    things = (region for region in photo.regions if not region.stuff)
    return crop.width * crop.height >= WHOLE_SHARE * width * height and all(
        _overlap(photo, region, crop)[0] >= THING_SHOWN for region in things
    )


_WITHOUT_PARTS = ("a crop of {kind}", "a detail of {kind}", "part of {kind}", "a section of {kind}")
_WITH_PARTS = (
    "{parts}",
    "{parts} in {kind}",
    "{kind} with {parts}",
    "{kind} that shows {parts}",
    "a detail of {kind}: {parts}",
    "this picture shows {parts}",
    "we see {parts}",
)


def caption(photo: Photo, crop: Crop, seed: int) -> str:
    """A caption that is true of the crop: one of the photo's own if it shows all things of it, else a composed one."""

    def uniform(purpose: str) -> float:
        parts = (seed, photo.name, crop.left, crop.top, crop.width, crop.height)
        return hashed_uniforms(1, "photo caption", *parts, purpose)[0]

    def pick(options: Sequence[str], purpose: str) -> str:
        return options[int(uniform(purpose) * len(options))]

    if _shows_whole(photo, crop) and uniform("whole") < 0.5:
        return pick(photo.captions, "caption")
    shown = shown_regions(photo, crop)
    groups = list(dict.fromkeys(region.phrases for region in shown))  # two pieces of sky are one sky
    order = sorted(range(len(groups)), key=lambda i: (i + 1) * uniform(f"order {i}"))  # what fills more is named more
    count = min(len(groups), 1 + int(3 * uniform("count")))
    named = [pick(groups[i], f"phrase {i}") for i in sorted(order[:count])]
    fresh = [kind for kind in photo.kinds if not any(phrase in kind for phrase in named)]
    kind = pick(fresh or photo.kinds, "kind")
    if not named:
        text = pick(_WITHOUT_PARTS, "style").format(kind=kind)
    else:
        text = pick(_WITH_PARTS, "style").format(kind=kind, parts=listing(list(dict.fromkeys(named))))
    more = [pick(groups[i], f"phrase {i}") for i in order[count:]]
    if more and more[0] not in named and uniform("more") < 0.3:
        return f"{text[0].upper()}{text[1:]}. It also shows {more[0]}."
    return f"{text[0].upper()}{text[1:]}." if uniform("sentence") < 0.5 else text


def load(photo: Photo) -> Image:
    """The photo as it lies in its package, 8-bit grey or RGB, without importing the package.

    Raises ValueError if the package or its file is missing, or if it is another picture than the one described.
    """
    from PIL import Image

    hint = "install the demo's photos with: pip install 'fourmill[demo]'"
    found = importlib.util.find_spec(photo.package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"photo {photo.name}: the package {photo.package} is not installed; {hint}")
    path = Path(found.submodule_search_locations[0], photo.path)
    if not path.is_file():
        raise ValueError(f"photo {photo.name}: {photo.package} has no file {photo.path}; {hint}")
    with Image.open(path) as image:
        if image.size != photo.size:
            raise ValueError(
                f"photo {photo.name}: {path} is {image.size[0]} x {image.size[1]} px, expected "
                f"{photo.size[0]} x {photo.size[1]} px; its captions are of another release of {photo.package}; {hint}"
            )
        return image.convert("L" if image.mode == "L" else "RGB")


def encode(image: Image, crop: Crop) -> bytes:
    """The crop as JPEG bytes, its shorter side at most MAX_STORED_SIDE pixels."""
    from PIL.Image import Resampling

    window = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
    scale = min(1.0, MAX_STORED_SIDE / min(window.size))
    if scale < 1.0:
        size = (round(window.width * scale), round(window.height * scale))
        window = window.resize(size, Resampling.LANCZOS)
    buffer = io.BytesIO()
    window.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _sample_files(photo: Photo, index: int, seed: int, image: Image) -> dict[str, bytes]:
    """The files of one sample by extension."""
    crop = crop_of(photo, index, seed)
    info = {
        "photo": photo.name,
        "licence": photo.licence,
        "attribution": photo.attribution,
        "source": photo.source,
        "crop": [crop.left, crop.top, crop.width, crop.height],
        "original_width": crop.width,
        "original_height": crop.height,
    }
    return {
        "jpg": encode(image, crop),
        "txt": caption(photo, crop, seed).encode(),
        "json": json.dumps(info, sort_keys=True).encode(),
    }


def _plan(samples_per_shard: int, crops_per_photo: int, seed: int) -> dict[str, list[tuple[Photo, int]]]:
    """Shard name -> its (photo, index) pairs: each split shuffled, then cut into shards."""
    plan: dict[str, list[tuple[Photo, int]]] = {}
    for split in SPLITS:
        pairs = [(photo, index) for photo in PHOTOS if photo.split == split for index in range(crops_per_photo)]
        pairs.sort(key=lambda pair: hashed_uniforms(1, "photo order", seed, pair[0].name, pair[1]))
        for number, start in enumerate(range(0, len(pairs), samples_per_shard)):
            plan[f"{split}-{number:05d}.tar"] = pairs[start : start + samples_per_shard]
    return plan


def _claim(folder: str, options: dict[str, Any]) -> None:
    """Write the folder's record, or check that it is the same. ValueError if the folder holds other shards."""
    found = record_of(folder, RECORD)
    if found is None:
        record = {"options": options, "photos": attributions()}
        url = storage.join(folder, RECORD)
        storage.put(url, json.dumps(record, indent=1, sort_keys=True).encode(), if_absent=True)
        found = record_of(folder, RECORD) or {}  # another process may have been first
    if found.get("options") != options:
        raise ValueError(
            f"{folder}: holds demo shards made with {found.get('options')}, asked for {options}; "
            "delete the folder or choose another one"
        )


def write_shards(
    folder: str | Path, *, samples_per_shard: int = 64, crops_per_photo: int = 32, seed: int = 0
) -> Summary:
    """Write train-*.tar and val-*.tar of crops of the photos, each sample as KEY.jpg, KEY.txt and KEY.json.

    The JSON holds the photo, its licence, attribution and source, the crop (left, top, width, height) in pixels of
    the photo, and original_width and original_height, the crop's size before it was scaled down.

    Args:
        folder: a path or any fsspec URL. Shards that are there already are left alone.
        samples_per_shard, crops_per_photo: at least 1; the defaults give 8 + 2 shards of 640 samples.

    Raises:
        ValueError: a package is missing (it says how to install it), or the folder holds shards of other options.
    """
    for name, value in (("samples_per_shard", samples_per_shard), ("crops_per_photo", crops_per_photo)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")
    table = hashlib.sha256(repr([asdict(photo) for photo in PHOTOS]).encode()).hexdigest()[:16]
    url, plan = str(folder), _plan(samples_per_shard, crops_per_photo, seed)
    options = {"samples_per_shard": samples_per_shard, "crops_per_photo": crops_per_photo, "seed": seed}
    missing = [name for name in plan if not storage.exists(storage.join(url, name))]
    images = {photo.name: load(photo) for photo in PHOTOS} if missing else {}
    _claim(url, options | {"table": table})
    for name in missing:
        members = [
            (f"{photo.name}-{index:04d}.{extension}", data)
            for photo, index in plan[name]
            for extension, data in _sample_files(photo, index, seed, images[photo.name]).items()
        ]
        storage.put(storage.join(url, name), archive(members))
    shards = {split: [name for name in plan if name.startswith(f"{split}-")] for split in SPLITS}
    samples = {split: sum(len(plan[name]) for name in shards[split]) for split in SPLITS}
    return Summary(url, samples, shards, missing)
