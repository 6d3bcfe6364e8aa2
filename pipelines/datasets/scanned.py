"""Data sets of depth and normals: DIODE, and NYUv2 as folders of PNG.

DIODE (diode-dataset.org): SPLIT/{indoors,outdoor}/scene_*/scan_*/NAME.png with NAME_depth.npy (metres),
NAME_depth_mask.npy (1 where the scanner has a return), and, of the second archive, NAME_normal.npy.

NYUv2 as pytorch-nyuv2 and others unpack it: SPLIT_rgb, SPLIT_depth (16 bits, 0.1 mm), SPLIT_sn (normals of Ladicky et
al., 8 bits) and SPLIT_seg13, with files of the same names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ...tokenize.labels import encode_array
from .axes import Axes, find
from .layout import Found, Members, Sample, folder, picture

_LOOKED_AT = 32  # samples by which axes are found
_SHORTEST, _LONGEST = 0.5, 1.5  # of a unit vector after rounding


class _Diode:
    """Where the maps of an image are, and what they say: distances in metres, NaN where unknown; unit vectors."""

    def depth(self, image: Path) -> np.ndarray:
        depth = _array(image.with_name(f"{image.stem}_depth.npy")).squeeze()
        mask = _array(image.with_name(f"{image.stem}_depth_mask.npy")).squeeze()
        if depth.ndim != 2 or mask.shape != depth.shape:
            raise ValueError(f"{image.stem}: depth {depth.shape}, mask {mask.shape}, expected both (H, W)")
        return np.where(mask > 0, depth, np.nan).astype(np.float32)

    def normals_at(self, image: Path) -> Path:
        return image.with_name(f"{image.stem}_normal.npy")

    def normals(self, image: Path) -> np.ndarray:
        return _unit(_array(self.normals_at(image)))

    def files(self, image: Path) -> dict[str, Path]:
        return {}


class _Nyuv2(_Diode):
    def __init__(self, root: Path, split: str) -> None:
        self.root, self.split = root, split

    def _beside(self, image: Path, what: str) -> Path:
        return self.root / f"{self.split}_{what}" / f"{image.stem}.png"

    def depth(self, image: Path) -> np.ndarray:
        stored = picture(self._beside(image, "depth"))
        if stored.ndim != 2:
            raise ValueError(f"{image.stem}: depth {stored.shape}, expected (H, W)")
        return np.where(stored > 0, stored / 1e4, np.nan).astype(np.float32)

    def normals_at(self, image: Path) -> Path:
        return self._beside(image, "sn")

    def normals(self, image: Path) -> np.ndarray:
        return _unit(picture(self.normals_at(image)).astype(np.float32) / 127.5 - 1)

    def files(self, image: Path) -> dict[str, Path]:
        """Members that are files as they are."""
        return {"semseg.png": self._beside(image, "seg13")}


def diode(root: Path, split: str) -> Found:
    """The samples of a split. ValueError if there are none."""
    place = root if (root / "indoors").is_dir() or (root / "outdoor").is_dir() else folder(root, split)
    images = [path for path in sorted(place.rglob("*.png")) if path.with_name(f"{path.stem}_depth.npy").exists()]
    return _found(place, images, _Diode(), "")


def nyuv2(root: Path, split: str) -> Found:
    """The samples of a split. ValueError if there are none."""
    place = folder(root, f"{split}_rgb")
    images = sorted(path for path in place.iterdir() if path.suffix in (".png", ".jpg"))
    return _found(place, images, _Nyuv2(root, split), f"{split}-")


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path.name}: {error}") from None


def _unit(vectors: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3) of length 1; (0, 0, 0) where a file has no direction."""
    if vectors.ndim != 3 or vectors.shape[2] != 3:
        raise ValueError(f"normals {vectors.shape}, expected (H, W, 3)")
    length = np.linalg.norm(np.nan_to_num(vectors), axis=2, keepdims=True)
    known = (length > _SHORTEST) & (length < _LONGEST)
    return np.where(known, vectors / np.maximum(length, 1e-6), 0).astype(np.float32)


def _found(place: Path, images: list[Path], maps: _Diode, prefix: str) -> Found:
    """The samples of some images; `prefix` stands before the names of files in their keys."""
    if not images:
        raise ValueError(f"{place}: there is no image with a depth map; `fourmill shards` has a guide with the layout")
    notes = ["depth is in metres, NaN where none was measured"]
    turned = _axes([image for image in images if maps.normals_at(image).exists()], maps)
    if turned is not None:
        notes.append(f"normals: {turned} (mean cosine with those of depth {turned.agreement:.2f})")

    def read(image: Path) -> Members:
        members = {image.suffix.lstrip("."): image.read_bytes(), "depth.npy": encode_array(maps.depth(image))}
        members |= {name: path.read_bytes() for name, path in maps.files(image).items() if path.exists()}
        if turned is not None and maps.normals_at(image).exists():
            members["normal.npy"] = encode_array(turned.turned(maps.normals(image)).astype(np.float16))
        return members

    truth = {"depth": "depth.npy"} | ({} if turned is None else {"normal": "normal.npy"})
    return Found([Sample(prefix + image.stem, partial(read, image)) for image in images], truth, notes)


def _axes(images: list[Path], maps: _Diode) -> Axes | None:
    """By some of the images, evenly from all; None if there are none."""
    if not images:
        return None

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for image in images[:: -(-len(images) // _LOOKED_AT)]:
            with contextlib.suppress(OSError, ValueError):  # it is left out when its turn comes
                yield maps.depth(image), maps.normals(image)

    return find(pairs())
