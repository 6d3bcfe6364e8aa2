"""The labels of a batch: those that are stored, what a specialist needs of a sample, and what a label must be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...infra import ledger
from ...modalities import LABELS, NO_CLASS, Form, Storage
from ...sensors.declared import SENSORS
from ...tokenize import labels as label_files
from ..reject import Reject
from ..specialists.base import Specialist
from .sample import LabelledSample


@dataclass(frozen=True)
class Stored:
    """A kept label of a shard: what it was made of, by key its values, still encoded, or why there is none, and the
    sum of its file."""

    source: ledger.Source
    cells: dict[str, Any]
    sha256: str = ""


def read_stored(root: str, label: str, shard: str) -> Stored:
    """A kept label of a shard. ValueError if its file is not the one that its record stands for."""
    output = f"labels/{label}"
    record = ledger.read(root, output, shard)
    if record is None:
        raise ValueError(f"shard {shard}: its {output} has no record any more; run the same command again")
    data = ledger.read_data(root, record)
    _, keys, cells = label_files.read_cells(data)
    rejects = {reject["key"]: Reject(reject["reason"]) for reject in record.rejects}
    return Stored(record.source, dict(zip(keys, cells, strict=True)) | rejects, record.sha256)


def begin(samples: Sequence[LabelledSample], stored: Mapping[str, Mapping[str, Any]]) -> None:
    """Give every sample of a batch the labels that no specialist makes: its image, and what is stored.

    Args:
        stored: label -> key -> encoded value or Reject, as of `Stored`.
    """
    for sample in samples:
        if sample.item.image is not None:
            sample.item.labels["rgb"] = sample.item.image
    for name, cells in stored.items():
        kind = LABELS[name].storage
        for sample in samples:
            cell = cells.get(sample.key)
            sample.keep(name, label_files.decode_cell(kind, cell) if isinstance(cell, bytes | str) else cell)


def lacks(sample: LabelledSample, name: str, specialist: Specialist) -> bool:
    """Whether a sample lacks what a label is made from; the reason is noted."""
    if specialist.needs_image and sample.item.image is None:
        sample.reasons[name] = sample.reasons.get("rgb", "image: there is none")
        return True
    for member in specialist.reads() if specialist.needs_members else ():
        if member not in (sample.item.raw if specialist.takes_bytes else sample.item.members):
            sample.reasons[name] = f"{name}: {sample.lacking.get(member, f'{member}: there is none')}"
            return True
    for need in specialist.needs:
        if need not in sample.item.labels:
            sample.reasons[name] = f"{name}: needs {need}, which is missing ({sample.reasons.get(need, 'none')})"
            return True
    return False


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
    if kind is Storage.IMAGE and image is not None and value.shape[:2] != image.shape[:2] and name not in SENSORS:
        return Reject(f"{name}: {value.shape[:2]}, expected the image's frame, {image.shape[:2]}")
    if LABELS[name].form is Form.CLASSES and classes:
        beyond = value[(value >= classes) & (value != NO_CLASS)]
        if beyond.size:
            return Reject(f"{name}: the class {beyond[0]}, expected 0 to {classes - 1}, or {NO_CLASS} for none")
    if LABELS[name].form in (Form.RASTER, Form.SERIES):  # NaN is no value, and infinite ones were made so
        return value if np.isfinite(value).any() else Reject(f"{name}: no pixel has a value")
    # The sum is NaN or infinite if any value is, and needs no second array of the label's size.
    if kind is Storage.ARRAY and not math.isfinite(float(np.sum(value, dtype=np.float64))):
        return Reject(f"{name}: NaN or infinite values")
    return value
