"""What a place in apple/ml-4m's layout holds, before anything is imported: modalities, shards, sizes of tokens."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...infra.explain import nearest
from ...infra.formats import npy
from ...modalities import LABELS, MODALITIES, Form, Kind
from ...model.published.names import local_name
from ...pipelines.exchange import arrays, bring, layout, texts
from ...pipelines.exchange.layout import Layout, Part

LOOKED_AT = 8  # members of the first shard, until one can be read
# Why folders of ml-4m that are called as a modality are none of tokens.
_NO_TOKENS = {
    "sam_instance": "its arrays are pickles, which are not read; `fourmill tokenize` makes instances again, of images",
}


@dataclass
class Found:
    """What is there to import.

    layouts: split -> what its folder holds. folders: modality -> the folder of its tokens, in the order of the table.
    image_size, crops: of the tokens; image_size is 0 where no grid says it. has_settings: whether crops are known.
    left_out: folders that are not imported, each with the reason. embedding_dim: width of captions' vectors, 0 if there
        are none.
    """

    layouts: dict[str, Layout]
    folders: dict[str, str]
    image_size: int
    crops: int
    has_settings: bool
    left_out: list[str]
    embedding_dim: int = 0

    def reference(self, split: str) -> dict[str, Part]:
        """The parts whose keys are those of a split's shards: of the crop settings, or else of the first modality."""
        shards = self.layouts[split].shards
        return shards[layout.CROPS if self.has_settings else next(iter(self.folders.values()))]


def look(place: str, maps: Sequence[str] = (), modalities: str | None = None) -> Found:
    """Look at the folders of a place and at its first members.

    Args:
        maps: FOLDER=MODALITY, of folders with other names. modalities: names with commas between them, None for all.

    Raises:
        ValueError: there is nothing to import, an option names what is not there, or sizes differ between modalities.
    """
    layouts = {split: layout.find(url) for split, url in layout.splits(place.rstrip("/")).items()}
    there = list(dict.fromkeys(folder for one in layouts.values() for folder in one.shards))
    named = _named(maps, there)
    folders = {named.get(folder, local_name(folder)): folder for folder in there}
    wanted = _wanted(modalities, folders)
    left_out = [f"{folder}: it holds no tars and no folders" for one in layouts.values() for folder in one.empty]
    chosen: dict[str, str] = {}
    for name in sorted(folders, key=lambda name: list(MODALITIES).index(name) if name in MODALITIES else -1):
        folder = folders[name]
        if folder == layout.CROPS or name not in wanted:
            continue
        if why := _unusable(name, there):
            left_out.append(f"{folder}: {why}")
        else:
            chosen[name] = folder
    if not chosen:
        raise ValueError(f"{place}: nothing to import; {'; '.join(left_out)}")
    found = Found(layouts, chosen, 0, 1, layout.CROPS in there, left_out)
    _measure(found)
    for name in [name for name in chosen if MODALITIES[name].codec in ("patches", *bring.IN_IMAGES)]:
        if found.crops > 1 and not found.has_settings:
            left_out.append(
                f"{chosen.pop(name)}: there is no {layout.CROPS}, which says what its {found.crops} crops are"
            )
    if not chosen:
        raise ValueError(f"{place}: nothing to import; {'; '.join(left_out)}")
    return found


def _named(maps: Sequence[str], there: Sequence[str]) -> dict[str, str]:
    named = {}
    for one in maps:
        folder, equals, name = one.partition("=")
        if not equals or folder not in there:
            raise ValueError(f"--map {one}: expected FOLDER=MODALITY, of the folders {', '.join(there)}")
        if name not in MODALITIES:
            raise ValueError(f"--map {one}: there is no modality {name!r}{nearest(name, MODALITIES)}")
        named[folder] = name
    return named


def _wanted(modalities: str | None, folders: dict[str, str]) -> set[str]:
    if modalities is None:
        return set(folders)
    names = {name.strip() for name in modalities.split(",") if name.strip()}
    if missing := sorted(names - folders.keys()):
        raise ValueError(f"--modalities: there is no folder of {', '.join(missing)}; there are {', '.join(folders)}")
    return names


def _unusable(name: str, there: Collection[str]) -> str:
    """Why a folder cannot be imported, "" if it can."""
    if name not in MODALITIES:
        return "no modality is called so; --map FOLDER=MODALITY names it"
    if name in _NO_TOKENS:
        return _NO_TOKENS[name]
    modality = MODALITIES[name]
    if modality.codec in bring.IN_IMAGES and layout.IMAGES not in there:
        return f"there is no {layout.IMAGES}, whose sizes say where boxes are"
    usable = modality.kind in (Kind.GRID, Kind.PIXELS) or modality.codec in texts.READERS
    return "" if usable else "nobody has said how ml-4m stores it"


def _measure(found: Found) -> None:
    """The sizes of tokens, from the first members that can be read. ValueError if modalities do not fit together."""
    split = next(iter(found.layouts))
    shards = found.layouts[split].shards
    crops: dict[str, int] = {}
    if found.has_settings:
        crops[layout.CROPS] = len(_first(shards[layout.CROPS]))
    sizes: dict[str, int] = {}
    for name, folder in found.folders.items():
        modality = MODALITIES[name]
        if modality.kind is not Kind.GRID:
            continue
        if folder not in shards:
            raise ValueError(f"{found.layouts[split].url}: it has no {folder}, which the other split has")
        array = _first(shards[folder])
        crops[folder], tokens = array.shape
        if LABELS[modality.label].form is not Form.VECTOR:
            sizes[folder] = _side(folder, tokens) * modality.patch_size
        elif tokens != modality.max_tokens:
            raise ValueError(f"{folder}: got {tokens} tokens of a crop, expected {modality.max_tokens}")
    own = {folder: size for folder, size in sizes.items() if not MODALITIES[_of(found, folder)].image_size}
    for what, values in (("crops", crops), ("pixels along a side, by the patches of the modality", own)):
        if len(set(values.values())) > 1:
            said = ", ".join(f"{folder} {value}" for folder, value in values.items())
            raise ValueError(f"folders have different numbers of {what}: {said}; leave some out with --modalities")
    found.crops = next(iter(crops.values()), 1)
    found.image_size = next(iter(own.values()), 0)
    embedded = (shards[folder] for name, folder in found.folders.items() if MODALITIES[name].kind is Kind.EMBEDDING)
    found.embedding_dim = next((_width(parts) for parts in embedded), 0)


def _of(found: Found, folder: str) -> str:
    return next(name for name, one in found.folders.items() if one == folder)


def _side(folder: str, tokens: int) -> int:
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{folder}: got {tokens} tokens of a crop, which is no square grid")
    return side


def _first(parts: dict[str, Part]) -> np.ndarray:
    """The first array of a modality that can be read, of two axes. ValueError with what is wrong if none can."""
    reasons = []
    for data, where in _some(parts):
        try:
            array = npy.read(data)
            if array.ndim == 2 and all(array.shape):
                return array
            reasons.append(f"{where}: got {array.dtype} {array.shape}, expected (crops, tokens)")
        except ValueError as error:
            reasons.append(f"{where}: {error}")
    raise ValueError(reasons[0] if reasons else f"{next(iter(parts.values())).url}: no member with a key")


def _width(parts: dict[str, Part]) -> int:
    """The width of the first vectors that can be read. ValueError with what is wrong if none can."""
    reasons = []
    for data, where in _some(parts):
        try:
            return int(arrays.vectors(data).shape[1])
        except ValueError as error:
            reasons.append(f"{where}: {error}")
    raise ValueError(reasons[0] if reasons else f"{next(iter(parts.values())).url}: no member with a key")


def _some(parts: dict[str, Part]) -> Iterator[tuple[bytes, str]]:
    for part in list(parts.values())[:LOOKED_AT]:
        with layout.opened(part) as members:
            for entry in members.entries[:LOOKED_AT]:
                yield members.read(entry), f"{part.url}, {entry.key}"
