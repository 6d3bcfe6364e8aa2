"""Images with one class each, for fine-tuning: WebDataset tars with a .cls beside each image, or a CSV table.

Nothing is decoded before it is asked for, and nothing in a tar is written anywhere.
"""

from __future__ import annotations

import csv
import io
import posixpath
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..infra import storage
from . import images, source
from .reject import Reject

LABEL = "cls"
SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
MAX_PIXELS = 100_000_000
THREADS = 8  # that look at images
NAMED = 5  # images that an error names


@dataclass(frozen=True)
class Place:
    """Where an image's bytes are: all of a file, or `size` bytes of a tar from `offset` on."""

    url: str
    offset: int = 0
    size: int = -1


@dataclass(frozen=True)
class LabelledImages:
    """Images by number.

    labels: int64 (n,), places in `classes`.
    """

    places: list[Place]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.places)

    def check(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """Look at every image, once. ValueError naming those that cannot be read.

        Args:
            progress: called with the number of images that were looked at since the last call.
        """
        problems: list[str] = []

        def look(index: int) -> str:
            try:
                self.image(index)
            except (ValueError, OSError) as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(THREADS) as pool:
            for problem in pool.map(look, range(len(self))):
                problems += [problem] if problem else []
                progress(1)
        if problems:
            more = f"; and {len(problems) - NAMED} others" if len(problems) > NAMED else ""
            raise ValueError(f"{len(problems)} of {len(self)} images: {'; '.join(problems[:NAMED])}{more}")

    def identity(self) -> list[Any]:
        """What these images are, as plain values: classes, labels, and each file with its size and version."""
        with ThreadPoolExecutor(THREADS) as pool:
            urls = list(dict.fromkeys(place.url for place in self.places))
            stats = dict(zip(urls, map(str, pool.map(storage.stat, urls)), strict=True))
        places = [[place.url, place.offset, place.size, stats[place.url]] for place in self.places]
        return [list(self.classes), self.labels.tolist(), places]

    def image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3), upright. ValueError naming the file if it is damaged."""
        place = self.places[index]
        try:
            with storage.open_binary(place.url) as file:
                file.seek(place.offset)
                return images.decode(file.read(place.size), MAX_PIXELS)
        except Reject as reject:
            raise ValueError(f"{place.url}, image {index}: {reject}") from reject


def read(spec: str | Sequence[str], classes: Sequence[str] = ()) -> LabelledImages:
    """Find images and their classes.

    Args:
        spec: one or several: a .csv with columns `path` (relative to the table) and `label`; or tars as in a recipe's
            `samples`, in which `KEY.jpg` has its class in `KEY.cls`.
        classes: the classes in their order, those of a training set for its validation set; if empty all that occur,
            in the order of their numbers, or of their names if one is no number.

    Raises:
        ValueError: a table or tar is damaged; no image has a class, or one has a class that is not among `classes`.
    """
    entries: list[tuple[Place, str]] = []
    specs = [spec] if isinstance(spec, str) else spec
    for one in specs:
        entries += _table(one) if one.endswith(".csv") else [image for url in source.expand(one) for image in _tar(url)]
    if not entries:
        raise ValueError(
            f"{', '.join(specs)}: no image with a class; expected KEY.jpg and KEY.{LABEL} in tars, or rows of a .csv"
        )
    names = tuple(classes) or _ordered({label for _, label in entries})
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := sorted({label for _, label in entries} - numbers.keys()):
        raise ValueError(
            f"{', '.join(specs)}: classes {unknown[:5]} are not among the {len(names)} of the training set"
        )
    labels = np.array([numbers[label] for _, label in entries], np.int64)
    return LabelledImages([place for place, _ in entries], labels, names)


def _ordered(names: set[str]) -> tuple[str, ...]:
    # "7" and "07" have one number; by their names as well, since the order of a set is another one in every process.
    numbered = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbered else 0, name)))


def _table(url: str) -> list[tuple[Place, str]]:
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")  # spreadsheets write a byte order mark
        table = csv.DictReader(io.StringIO(text))
        rows, names = list(table), table.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{url}: no CSV in UTF-8: {error}") from error
    if not {"path", "label"} <= set(names):
        raise ValueError(f"{url}: got the columns {names}, expected `path` and `label`")
    if short := [number for number, row in enumerate(rows, 1) if not row["path"] or not row["label"]]:
        raise ValueError(f"{url}: row {short[0]} lacks its path or label, expected both in every row")
    folder = posixpath.dirname(url)
    return [
        (Place(row["path"] if "://" in row["path"] else posixpath.join(folder, row["path"])), row["label"].strip())
        for row in rows
    ]


def _tar(url: str) -> list[tuple[Place, str]]:
    """Images and classes of one tar, in its order; keys that lack either are left out."""
    try:
        with storage.open_binary(url) as file, tarfile.open(fileobj=file, mode="r:") as members:
            return _members(url, members)
    except tarfile.TarError as error:
        raise ValueError(f"{url}: no tar, or a damaged or compressed one ({error}); make or copy it again") from error


def _members(url: str, members: tarfile.TarFile) -> list[tuple[Place, str]]:
    places: dict[str, Place] = {}
    labels: dict[str, str] = {}
    for member in members:
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if not member.isfile() or not stem:
            continue
        key = f"{folder}/{stem}"
        if suffix.lower() == LABEL:
            # tarfile gives None only for what is no file, which was passed over above.
            content = members.extractfile(member)
            assert content is not None
            labels[key] = content.read(1_000).decode("utf-8", "replace").strip()
        elif suffix.lower() in SUFFIXES:
            # The first image of a key counts, as in pipelines/tar.py.
            places.setdefault(key, Place(url, member.offset_data, member.size))
    return [(place, labels[key]) for key, place in places.items() if key in labels]
