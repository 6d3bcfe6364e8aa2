"""One column or label file, read once, as a `Summary`.

What is measured follows from what a value is in memory, and not from its name: of an array of numbers its channels, of
a map of classes and of token ids how often each occurs, of words, lists and fields what can be counted. So a label that
a recipe declares itself is measured like those of 4M-21.

Of each sample some features are kept: they say how samples differ, and whether a shard is like the others.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...modalities import LABELS, Form, Kind, Storage, class_names
from ...tokenize import labels
from ...tokenize.sensors import numbers
from ...tokenize.sensors.numbers import Channels, Numbers
from ...tokenize.sensors.pixels import pixels
from ...tokenize.store import Column, ColumnReader
from .summary import EXTREMES, SKETCH, Features, Summary

SHARES = 64  # groups of ids, classes or words whose shares are features
PARTS = 32  # channels of a wide array whose means are features
FIELDS = 64  # of a record
MOST_NAMES = 1_000  # that are counted of one file: names come from files
_QUOTED = 60  # characters of a value that all samples have

Row = dict[str, float]  # the features of one sample
Notice = Callable[[int], None]  # is called with the number of samples that were read since the last call


def nothing(samples: int) -> None:
    """The `Notice` of who needs none."""


def measure(output: str, shard: str, sha256: str, url: str, footer: str, notice: Notice = nothing) -> Summary:
    """Read one file, group by group.

    Args:
        output: "labels/depth" or "tokens/tok_rgb". footer: sum of the file's footer by its record.

    ValueError if it is damaged.
    """
    measurer: _Measurer
    if output.startswith("tokens/"):
        reader = ColumnReader(url, footer)
        measurer = _Tokens(reader)
        for group in range(reader.num_row_groups):
            column = reader.read([group])
            for row in range(len(column)):
                measurer.add(column, row)
            notice(len(column))
    else:
        file = labels.LabelReader(url, footer)
        measurer = _Label(output.removeprefix("labels/"), file.classes)
        for group in range(file.num_row_groups):
            cells = file.read([group])[1]
            for cell in cells:
                measurer.add(file.storage, cell)
            notice(len(cells))
    return measurer.done(shard, sha256)


class _Measurer:
    """What the samples of a file have in common, and the features of each."""

    def __init__(self) -> None:
        self.rows: list[Row | None] = []
        self.channels: Channels | None = None
        self.counts: Counter[str] = Counter()
        self.codes: np.ndarray | None = None
        self._first: Any = None
        self._differs = False

    def note(self, row: Row | None, same: Any = None, quoted: str = "") -> None:
        """Args: row: features, None of a null. same: equal in equal samples. quoted: the value in words."""
        self.rows.append(row)
        if row is None or self._differs:
            return
        if self._first is None:
            self._first = (same, quoted)
        elif self._first[0] != same:
            self._differs = True

    def add_channels(self, array: np.ndarray, spread: bool = True) -> Row:
        """The features of an array of numbers, float32 (n, channels).

        Those with another number of channels than the first one are not added up with it: no label has two.
        """
        if self.channels is None:
            self.channels = Channels(array.shape[1])
        same = self.channels.channels == array.shape[1]
        return _of_moments(self.channels.add(array) if same else numbers.moments_of(array), spread)

    def done(self, shard: str, sha256: str) -> Summary:
        valid = sum(row is not None for row in self.rows)
        constant = "" if self._differs or valid < 2 else str(self._first[1] or "the same value")
        measured = None if self.channels is None else self.channels.done()
        names = () if measured is None else tuple(str(i) for i in range(len(measured)))
        counts = dict(self.counts.most_common(MOST_NAMES))
        of_rows = features(self.rows)
        return Summary(shard, sha256, len(self.rows), valid, constant, of_rows, names, measured, counts, self.codes)


class _Tokens(_Measurer):
    """A column of ids, of pictures, or of vectors."""

    def __init__(self, reader: ColumnReader) -> None:
        super().__init__()
        self.spec = reader.spec
        if self.spec.kind in (Kind.GRID, Kind.SEQUENCE):
            self.codes = np.zeros(self.spec.vocab_size, np.int64)
        ids = np.arange(max(1, self.spec.vocab_size), dtype=np.uint64)
        # Neighbours of a codebook go into other groups; a small one has a group for each code.
        mixed = (ids * np.uint64(2_654_435_761) >> np.uint64(16)) % np.uint64(SHARES)
        self._group = (ids if len(ids) <= SHARES else mixed).astype(np.int64)

    def add(self, column: Column, row: int) -> None:
        if not column.valid[row]:
            self.note(None)
            return
        crops = [column.crop(row, crop) for crop in range(self.spec.crops)]
        same = b"".join(crop.tobytes() for crop in crops)
        if self.spec.kind is Kind.PIXELS:
            bands = pixels(crops[0], self.spec.picture, self.spec.dim) if self.spec.dim else None
            picture = (labels.decode_picture(crops[0].tobytes()) if bands is None else bands).astype(np.float32)
            flat = picture.reshape(-1, picture.shape[2] if picture.ndim == 3 else 1)
            self.note(self.add_channels(flat), zlib.crc32(same), "one picture")
            return
        length = float(sum(len(crop) for crop in crops)) / len(crops)
        if self.spec.kind is Kind.EMBEDDING:
            vectors = np.concatenate(crops).astype(np.float32)
            self.note({"vectors": length} | self.add_channels(vectors, spread=False), zlib.crc32(same), "one embedding")
            return
        ids = np.concatenate(crops).reshape(-1)
        assert self.codes is not None
        found = np.bincount(ids, minlength=len(self.codes))
        self.codes += found[: len(self.codes)]
        row_of: Row = {} if self.spec.kind is Kind.GRID else {"tokens": length}
        row_of["different ids"] = float(np.count_nonzero(found))
        shares = np.bincount(self._group[ids], minlength=min(SHARES, len(self.codes)))
        self.note(row_of | _shares("codes", enumerate(shares), len(ids)), same, "the same tokens")


class _Label(_Measurer):
    """A file of labels.

    Args:
        classes: names of the label's classes, if they are not its own.
    """

    def __init__(self, name: str, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.form = LABELS[name].form if name in LABELS else None
        self.classes = classes or class_names(name, {})

    def add(self, storage: Storage, cell: bytes | str | None) -> None:
        if cell is None:
            self.note(None)
            return
        value = labels.decode_cell(storage, cell)
        if isinstance(value, np.ndarray):
            self.note(
                self._of_array(value), zlib.crc32(cell if isinstance(cell, bytes) else cell.encode()), _one(value)
            )
        else:
            self.note(self._of_value(value), cell, str(cell)[:_QUOTED])

    def _of_array(self, array: np.ndarray) -> Row:
        row: Row = {}
        if array.ndim >= 2 and self.form not in (Form.FEATURES, Form.SEQUENCE):
            row |= {"height": float(array.shape[0]), "width": float(array.shape[1])}
        if self.form is Form.CLASSES and array.dtype.kind in "ui":
            return row | self._of_classes(array)
        flat = channels_of(array).astype(np.float32)
        return row | self.add_channels(flat, spread=len(flat) > 1)

    def _of_classes(self, array: np.ndarray) -> Row:
        found = np.bincount(array.reshape(-1).astype(np.int64))
        there = np.flatnonzero(found).tolist()
        for one in there:
            self.counts[self.classes[one] if one < len(self.classes) else f"class {one}"] += int(found[one])
        return {"different classes": float(len(there))} | _shares("classes", ((i, found[i]) for i in there), array.size)

    def _of_value(self, value: Any) -> Row:
        if isinstance(value, str):
            words = value.split()
            hashed = Counter(_group(word.lower()) for word in words)
            row = {"characters": float(len(value)), "words": float(len(words))}
            return row | _shares("words", hashed.items(), max(1, len(words)))
        if isinstance(value, list):
            return self._of_list(value)
        if isinstance(value, dict):
            return self._of_fields(value)
        return {"value": float(value)} if isinstance(value, int | float) else {}

    def _of_list(self, items: Sequence[Any]) -> Row:
        row: Row = {"items": float(len(items))}
        records = [item for item in items if isinstance(item, dict)]
        names = [str(item["label"]) for item in records if "label" in item]
        self.counts.update(names)
        for name in dict.fromkeys(name for item in records for name in item):
            found = [_number(item.get(name)) for item in records]
            if there := [one for one in found if one is not None]:
                row[f"mean {name}"] = float(np.mean(there))
        boxes = [item["box"] for item in records if _is_box(item.get("box"))]
        if boxes:
            sides = np.array(boxes, np.float64)
            row["mean area of a box"] = float(np.mean(np.abs(np.prod(sides[:, 2:] - sides[:, :2], axis=1))))
        return row | _shares("labels", Counter(map(_group, names)).items(), max(1, len(names)))

    def _of_fields(self, record: Mapping[str, Any]) -> Row:
        row: Row = {}
        for name, value in list(record.items())[:FIELDS]:
            if isinstance(value, str):
                self.counts[f"{name}: {value[:_QUOTED]}"] += 1
            elif (number := _number(value)) is not None:
                row[name] = number
        return row


def channels_of(array: np.ndarray) -> np.ndarray:
    """An array as (n, channels): channels are the last axis, but those of a map (H, W), which has one."""
    if array.ndim == 0:
        return array.reshape(1, 1)
    return array.reshape(-1, 1) if array.ndim == 2 and min(array.shape) > 1 else array.reshape(-1, array.shape[-1])


def _of_moments(moments: np.ndarray, spread: bool) -> Row:
    """Means of channels, and how far their values spread within the sample, of their `moments`."""
    width = len(moments)
    row: Row = {}
    for channel in range(width) if width <= PARTS else np.linspace(0, width - 1, PARTS).astype(int).tolist():
        count, mean, m2 = moments[channel, [numbers.FINITE, numbers.MEAN, numbers.M2]]
        if count:
            row[f"mean of channel {channel}"] = float(mean)
        if count and spread:
            row[f"spread of channel {channel}"] = float(np.sqrt(m2 / count))
    total, finite = moments[:, numbers.COUNT].sum(), moments[:, numbers.FINITE].sum()
    if finite < total:
        row["share of missing values"] = float(1 - finite / total)
    return row


def _shares(what: str, counts: Iterable[tuple[int, Any]], total: int) -> Row:
    groups: Counter[int] = Counter()
    for group, count in counts:
        groups[group % SHARES] += int(count)
    return {f"{what} {group}": count / total for group, count in groups.items() if count}


def _group(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "replace")) % SHARES


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e30 else None


def _is_box(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(_number(one) is not None for one in value)


def _one(array: np.ndarray) -> str:
    """An array in a few words."""
    whole = array.size and array.dtype.kind in "uif" and bool((array == array.flat[0]).all())
    return f"{array.flat[0]:.4g} everywhere" if whole else "the same array"


def is_share(name: str) -> bool:
    """Whether a feature is the share of a group of codes, classes, labels or words."""
    what, _, group = name.rpartition(" ")
    return what in ("codes", "classes", "labels", "words") and group.isdecimal()


def features(rows: Sequence[Row | None]) -> Features:
    """The features of all samples as one table; a sample without one has NaN, or 0 if it is a share."""
    valid = [index for index, row in enumerate(rows) if row is not None]
    names = tuple(sorted({name for row in rows if row is not None for name in row}))
    place = {name: at for at, name in enumerate(names)}
    table = np.full((len(valid), len(names)), np.nan, np.float32)
    table[:, [at for name, at in place.items() if is_share(name)]] = 0
    for at, index in enumerate(valid):
        for name, value in (rows[index] or {}).items():
            table[at, place[name]] = value
    step = max(1, -(-len(valid) // SKETCH))
    extremes = (
        np.full((len(names), 2 * EXTREMES), -1, np.int32),
        np.full((len(names), 2 * EXTREMES), np.nan, np.float32),
    )
    for at, name in enumerate(names):
        there = np.flatnonzero(np.isfinite(table[:, at]))
        if is_share(name) or not there.size:
            continue
        order = there[np.argsort(table[there, at], kind="stable")]
        ends = [*order[:EXTREMES].tolist(), *order[: -EXTREMES - 1 : -1].tolist()]
        extremes[0][at, : len(ends)] = [valid[one] for one in ends]
        extremes[1][at, : len(ends)] = table[ends, at]
    measured: Numbers = numbers.of(table)
    return Features(names, measured, table[::step][:SKETCH], extremes)
