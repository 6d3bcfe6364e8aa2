"""The labels of a batch: read where they are stored, made by specialists in the order of what they need otherwise."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...infra import ledger
from ...modalities import LABELS, NO_CLASS, Form, Storage, class_names
from ...tokenize import labels as label_files
from ..reject import Reject
from ..specialists.base import Item, Specialist
from .isolate import Ward, batch
from .sample import LabelledSample


@dataclass(frozen=True)
class Stored:
    """A kept label of a shard: what it was made of, and by key its values, still encoded, or why there is none."""

    source: ledger.Source
    cells: dict[str, Any]


def read_stored(root: str, label: str, shard: str) -> Stored:
    """A kept label of a shard. ValueError if its file is not the one that its record stands for."""
    output = f"labels/{label}"
    record = ledger.read(root, output, shard)
    if record is None:
        raise ValueError(f"shard {shard}: its {output} has no record any more; run the same command again")
    data = ledger.read_data(root, record)
    _, keys, cells = label_files.read_cells(data)
    rejects = {reject["key"]: Reject(reject["reason"]) for reject in record.rejects}
    return Stored(record.source, dict(zip(keys, cells, strict=True)) | rejects)


def label(
    samples: Sequence[LabelledSample],
    specialists: Mapping[str, Specialist],
    needed: Collection[str],
    stored: Mapping[str, Mapping[str, Any]],
    seconds: dict[str, float],
    classes: Mapping[str, tuple[str, ...]] | None = None,
    ward: Ward | None = None,
) -> None:
    """Give every sample of a batch the labels that are needed, or the reasons why it has none.

    Args:
        specialists: by label, each after those that it needs.
        stored: label -> key -> encoded value or Reject, as of `Stored`; these are not made again.
        seconds: the time in each specialist is added to "labels/LABEL".
        classes: the recipe's own lists of classes, by label.
        ward: of the shard.

    Raises:
        PlaceError: a specialist failed for a reason of the place.
    """
    ward = ward or Ward()
    for sample in samples:
        if sample.item.image is not None:
            sample.item.labels["rgb"] = sample.item.image
    for name, cells in stored.items():
        kind = LABELS[name].storage
        for sample in samples:
            cell = cells.get(sample.key)
            sample.keep(name, label_files.decode_cell(kind, cell) if isinstance(cell, bytes | str) else cell)
    for name, specialist in specialists.items():
        if name not in needed or name in stored:
            continue
        ready = [s for s in samples if name not in s.reasons and not _lacks(s, name, specialist)]
        start = time.monotonic()
        for sample, value in zip(ready, call(specialist, [s.item for s in ready], ward), strict=True):
            image, names = sample.item.image, class_names(name, classes or {})
            sample.keep(name, value if isinstance(value, Reject) else checked(name, value, image, len(names)))
        seconds[f"labels/{name}"] += time.monotonic() - start


def _lacks(sample: LabelledSample, name: str, specialist: Specialist) -> bool:
    """Whether a sample lacks what a label is made from; the reason is noted."""
    if specialist.needs_image and sample.item.image is None:
        sample.reasons[name] = sample.reasons.get("rgb", "image: there is none")
        return True
    for member in specialist.reads() if specialist.needs_members else ():
        if member not in sample.item.members:
            sample.reasons[name] = f"{name}: {sample.lacking.get(member, f'{member}: there is none')}"
            return True
    for need in specialist.needs:
        if need not in sample.item.labels:
            sample.reasons[name] = f"{name}: needs {need}, which is missing ({sample.reasons.get(need, 'none')})"
            return True
    return False


def call(specialist: Specialist, items: Sequence[Item], ward: Ward) -> list[Any]:
    """Labels of items in batches of the specialist's size, a Reject for each that has none; see isolate.py."""
    values: list[Any] = []
    for start in range(0, len(items), specialist.batch_size):
        values += batch(specialist.label, specialist, items[start : start + specialist.batch_size], ward)
    return values


def checked(name: str, value: Any, image: np.ndarray | None, classes: int = 0) -> Any:
    """The label, or a Reject if it is empty, not finite, or not what its storage holds at the image's frame.

    Args:
        classes: how many classes a class map may have, 0 for any.
    """
    if value is None:
        return Reject(f"{name}: the specialist returned nothing")
    kind = LABELS[name].storage
    if kind is Storage.JSON:
        try:
            json.dumps(value, allow_nan=False)
        except (ValueError, TypeError) as error:
            return Reject(f"{name}: not JSON: {error}")
        return value
    if not isinstance(value, np.ndarray) or value.size == 0:
        return Reject(f"{name}: empty label")
    if kind is Storage.IMAGE and (value.dtype != np.uint8 or value.ndim not in (2, 3)):
        return Reject(f"{name}: {value.dtype} {value.shape}, expected uint8 (H, W) or (H, W, 3)")
    if kind is Storage.IMAGE and image is not None and value.shape[:2] != image.shape[:2]:
        return Reject(f"{name}: {value.shape[:2]}, expected the image's frame, {image.shape[:2]}")
    if LABELS[name].form is Form.CLASSES and classes:
        beyond = value[(value >= classes) & (value != NO_CLASS)]
        if beyond.size:
            return Reject(f"{name}: the class {beyond[0]}, expected 0 to {classes - 1}, or {NO_CLASS} for none")
    # The sum is NaN or infinite if any value is, and needs no second array of the label's size.
    if kind is Storage.ARRAY and not math.isfinite(float(np.sum(value, dtype=np.float64))):
        return Reject(f"{name}: NaN or infinite values")
    return value
