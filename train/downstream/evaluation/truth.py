"""The truth of samples, read a second time: members of the source tars, by a reader and a crop of their own.

Nothing here is shared with what makes labels and tokens (pipelines/, tokenize/), so that a mistake on that way cannot
cancel itself. A member is the file KEY.EXTENSION of the sample's tar, of the frame of the upright image, of any size:
the crop is the largest square in its middle, at the size of the run's crops, by nearest pixels, which mix nothing.
"""

from __future__ import annotations

import io
import json
import logging
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, ExitStack
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from ....infra import storage
from ....infra.formats import npy
from ....modalities import Size, height_width
from ....pipelines import source
from ....pipelines.reject import Reject
from ....pipelines.sensors import places as tars
from ....pipelines.sensors import rows
from ..samples import Place

logger = logging.getLogger(__name__)

IMAGES = ("jpg", "jpeg", "png", "webp")
Members = dict[str, bytes]  # of a sample, by extension


class Frame(NamedTuple):
    """The image of a sample, in pixels.

    part: left, top, width and height of what was labelled of it; None for all of it. What was cut off is no part of the
        frame of labels.
    """

    width: int
    height: int
    part: tuple[int, int, int, int] | None = None

    @property
    def labelled(self) -> tuple[int, int]:
        """Width and height of what was labelled."""
        return self.part[2:] if self.part else (self.width, self.height)


NONE = 255  # the class of a pixel that has none


def members(
    urls: Mapping[str, str], places: Iterable[Place], names: Iterable[str], column: str = ""
) -> dict[tuple[str, str], Members]:
    """The members of some samples, by shard and key; a member that a tar does not hold is absent, and so are samples of
    a tar that cannot be opened.

    Args:
        urls: of the tars, by shard; of several tars a shard as `pipelines.sensors.places` joins them.
        names: extensions, "depth.npy" of KEY.depth.npy, in any case; of Parquet names of columns. "dem/tif" is that of
            the set of tars `dem`.
        column: of Parquet, with the keys.

    Returns:
        The members by the names that were asked for.
    """
    asked = set(names)
    found: dict[tuple[str, str], Members] = {}
    by_shard: dict[str, set[str]] = {}
    for shard, key, _ in places:
        by_shard.setdefault(shard, set()).add(key)
    for shard, keys in by_shard.items():
        of_shard: dict[str, Members] = {key: {} for key in keys}
        with ExitStack() as stack:
            try:
                parts = tars.parts(urls[shard]).items()
                opened = {of: stack.enter_context(_opened(url, column)) for of, url in parts}
            except (OSError, ValueError) as error:
                logger.warning("evaluate: the tar of shard %s cannot be opened: %s", shard, error)
                continue
            # An error while it is read is one of the place, and ends the evaluation: fewer samples are another result.
            for of, contents in opened.items():
                prefix = f"{of}/" if of else ""
                of_set = {name.removeprefix(prefix): name for name in asked if name.startswith(prefix)}
                of_set |= {name: name for name in asked if "/" not in name}
                read = _rows if isinstance(contents, source.Shard) else _entries
                for key, name, data in read(contents, of_shard, of_set):
                    of_shard[key].setdefault(of_set[name], data)
        found |= {(shard, key): one for key, one in of_shard.items()}
    return found


def _opened(url: str, column: str) -> AbstractContextManager[Any]:
    """A shard of Parquet, or a tar as a stream: of one in a bucket nothing is read twice. Its first bytes say which."""
    file = storage.open_binary(url)
    is_table = file.read(len(rows.MAGIC)) == rows.MAGIC
    file.seek(0)
    if not is_table:
        return file
    file.close()
    return source.open_shard(url, source.scratch_folder(), True, column)


def _rows(shard: source.Shard, keys: Mapping[str, Any], names: Iterable[str]) -> Iterator[tuple[str, str, bytes]]:
    """Key, column and bytes of the rows of a Parquet file that are looked for."""
    for sample in shard.samples:
        for name in names if sample.key in keys else ():
            try:
                yield sample.key, name, shard.read(sample, name)
            except (Reject, KeyError):  # it has none
                continue


def _entries(file: BinaryIO, keys: Mapping[str, Any], asked: Iterable[str]) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension as it was asked for, and bytes of the members of a tar that are looked for."""
    names = {name.lower(): name for name in asked}
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for entry in tar:
                key, name = _split(entry.name, keys, names.keys())
                if entry.isfile() and key:
                    data = tar.extractfile(entry)
                    assert data is not None
                    yield key, names[name], data.read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(
            f"evaluate: the tar {getattr(file, 'name', '') or 'of a shard'} is damaged or cut off ({error}); `fourmill "
            "check` names such shards, and a whole copy of it is needed to measure its samples"
        ) from error


def _split(path: str, keys: Mapping[str, Any], names: Set[str]) -> tuple[str, str]:
    """The key and extension of a member that is looked for; ("", "") for any other."""
    path = path.removeprefix("./")
    start = path.rfind("/") + 1
    for dot in (i for i, letter in enumerate(path) if letter == "." and i > start):
        if path[:dot] in keys and path[dot + 1 :].lower() in names:
            return path[:dot], path[dot + 1 :].lower()
    return "", ""


def array(data: bytes, name: str) -> np.ndarray:
    """The values of a .npy, or of a picture as they are stored: ids of a palette, all 16 bits. ValueError otherwise."""
    try:
        if name.lower().endswith(".npy"):
            return npy.read(data)
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image)
    except Exception as error:
        raise ValueError(f"{name}: {error}; expected an array (.npy) or a picture") from None


def record(data: bytes, name: str) -> Any:
    """What a JSON says. ValueError if it is none."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise ValueError(f"{name}: {error}; expected JSON") from None


def image_size(of: Mapping[str, bytes]) -> tuple[int, int] | None:
    """Width and height of the upright image among the members; None if there is none that can be read."""
    for name in IMAGES:
        if name in of:
            try:
                with Image.open(io.BytesIO(of[name])) as image:
                    width, height = image.size
                    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # a quarter turn
            except Exception:  # Pillow raises about anything at damaged bytes
                return None
            return (height, width) if turned else (width, height)
    return None


def shown(values: np.ndarray, frame: Frame) -> np.ndarray:
    """Of a map (H, W, ...) of the image, at any size, what was labelled; a map of just that stays as it is."""
    height, width = values.shape[:2]
    if frame.part is None or (width, height) == frame.labelled:
        return values
    left, top, wide, high = frame.part
    across, down = width / frame.width, height / frame.height
    rows = slice(round(top * down), round((top + high) * down))
    return values[rows, round(left * across) : round((left + wide) * across)]


def middle(height: int, width: int) -> tuple[int, int, int]:
    """Top, left and side of the largest square in the middle."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def crop(values: np.ndarray, size: Size) -> np.ndarray:
    """The largest part of a size's shape in the middle of a map (H, W, ...), at that size, by nearest pixels."""
    rows, columns = height_width(size)
    high, wide = values.shape[:2]
    # As wide to its height as the size is: one of the two is whole.
    is_low = high * columns <= wide * rows
    tall = high if is_low else min(high, max(1, round(wide * rows / columns)))
    across = min(wide, max(1, round(high * columns / rows))) if is_low else wide
    down = ((2 * np.arange(rows) + 1) * tall // (2 * rows)).astype(np.int64) + (high - tall) // 2
    right = ((2 * np.arange(columns) + 1) * across // (2 * columns)).astype(np.int64) + (wide - across) // 2
    return values[down[:, None], right[None, :]]


def depth(values: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Distances (H, W) in the crop, float32 (size, size), and where they are known: finite and above 0."""
    cropped = crop(_plane(values), size).astype(np.float32)
    valid = np.isfinite(cropped) & (cropped > 0)
    return np.where(valid, cropped, 0), valid


def normals(values: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (H, W, 3) in the crop, float32 (size, size, 3), and where they are known: finite and of length 1."""
    if values.ndim != 3 or values.shape[2] != 3:
        raise ValueError(f"got {values.dtype} {values.shape}, expected normals (H, W, 3)")
    cropped = crop(values, size).astype(np.float32)
    length = np.linalg.norm(cropped, axis=-1)
    valid = np.isfinite(length) & (np.abs(length - 1) < 0.1)
    return np.where(valid[..., None], cropped, 0), valid


def classes(values: np.ndarray, size: Size, table: Mapping[int, int] | None) -> np.ndarray:
    """Class ids (H, W) in the crop, uint8 (size, size); `table` says what ids of the file are, none if it lacks one."""
    cropped = crop(_plane(values), size)
    if cropped.dtype.kind not in "iub":
        raise ValueError(f"got {values.dtype} {values.shape}, expected ids of classes (H, W)")
    if table is None:
        return np.where(cropped < NONE, cropped, NONE).astype(np.uint8)
    ids, inverse = np.unique(cropped, return_inverse=True)
    return np.array([table.get(int(one), NONE) for one in ids], np.uint8)[inverse].reshape(cropped.shape)


def boxes(value: Any, frame: Frame) -> list[dict[str, Any]]:
    """Boxes in the frame of the crop, cut to it; those outside of it are left out.

    Args:
        value: a list of {"box": [xmin, ymin, xmax, ymax] in 0 to 1 of the image, "label": name}.
        frame: of the image.

    Returns:
        The same, in 0 to 1 of the crop.
    """
    width, height = frame.width, frame.height
    top, left, side = middle(*frame.labelled[::-1])
    if frame.part is not None:
        left, top = left + frame.part[0], top + frame.part[1]
    found = []
    for one in value:
        try:
            xmin, ymin, xmax, ymax = (float(edge) for edge in one["box"])
            name = str(one["label"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"got the box {str(one)[:80]}, expected box (four numbers in 0 to 1) and label") from None
        edges = ((xmin * width - left) / side, (ymin * height - top) / side,
                 (xmax * width - left) / side, (ymax * height - top) / side)  # fmt: skip
        cut = [min(max(edge, 0.0), 1.0) for edge in edges]
        if cut[0] < cut[2] and cut[1] < cut[3]:
            found.append({"box": cut, "label": name})
    return found


def instances(values: np.ndarray, size: int) -> list[np.ndarray]:
    """Masks of the instances that the crop shows, bool (size, size) each, of ids (H, W), 0 where there is none."""
    cropped = crop(_plane(values), size)
    return [cropped == number for number in np.unique(cropped) if number]


def masks(value: Any, size: int, frame: Frame) -> list[np.ndarray]:
    """Masks of the instances that the crop shows, bool (size, size) each, which may overlap.

    Args:
        value: a list of {"segmentation": {"size": [height, width], "counts": run lengths as COCO's}}.
    """
    from pycocotools import mask

    try:
        decoded = [mask.decode(one["segmentation"]).astype(bool) for one in value]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{error}; expected a list of instances, each with segmentation (size, counts)") from None
    return [cropped for one in decoded if (cropped := crop(shown(one, frame), size)).any()]


def _plane(values: np.ndarray) -> np.ndarray:
    """(H, W) of a map that may have an axis of one channel. ValueError for any other."""
    plane = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if plane.ndim != 2 or not plane.size:
        raise ValueError(f"got {values.dtype} {values.shape}, expected a map (H, W)")
    return plane
