"""Fits of a sensor's tables: the statistics of its bands, and the quantiles of its numbers.

Both are taken from the examples that a fit has cached, crops of shards that are spread evenly over the training set,
and are frozen: a fit that goes on after it was killed keeps those that it began with.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from ...infra import storage
from ...modalities import LABELS, TOKENIZERS, Form
from ...sensors.declared import SENSORS
from ...tokenize.sensors import statistics as statistics_of
from ...tokenize.sensors.statistics import Statistics
from .examples import Rows

if TYPE_CHECKING:
    from ...tokenize.networks.tables import Table

logger = logging.getLogger(__name__)
FILE = "statistics.json"


def frozen(name: str, rows: np.ndarray, folder: str, rank: int, world: int) -> Statistics | None:
    """The statistics of a tokenizer's bands, the same on every rank; None of one that is not of a sensor's values.

    Args:
        rows: of this rank, (n, ..., bands).
        folder: URL of the fit's, which keeps them.

    Raises:
        ValueError: a band has no value, or is constant.
    """
    entry = TOKENIZERS[name]
    if entry.label not in SENSORS or entry.form is Form.CLASSES:
        return None
    found: list[Statistics | str | None] = [None]
    if rank == 0:
        try:
            found = [_kept(storage.join(folder, FILE)) or _measured(name, rows, storage.join(folder, FILE))]
        except ValueError as error:
            found = [str(error)]
    if world > 1:
        import torch

        torch.distributed.broadcast_object_list(found)
    (one,) = found
    if not isinstance(one, Statistics):
        raise ValueError(one)
    return one


def _kept(url: str) -> Statistics | None:
    try:
        return Statistics.model_validate_json(storage.read_bytes(url))
    except FileNotFoundError:
        return None


def _measured(name: str, rows: np.ndarray, url: str) -> Statistics:
    sensor = SENSORS[TOKENIZERS[name].label]
    names = sensor.kept if sensor.form is Form.RASTER else (sensor.fields or [""] * sensor.width)
    found = statistics_of.measure(rows, names, sensor.unit, sensor.transform, sensor.softening)
    storage.put(url, found.model_dump_json(indent=1).encode())
    for i, band in enumerate(found.bands):
        logger.info(
            "fit %s: %s%.6g +- %.6g %s, p2 %.6g, p98 %.6g, %.1f %% valid", name, f"{band}: " if band else "",
            found.mean[i], found.std[i], found.unit, found.low[i], found.high[i], 100 * found.valid[i],
        )  # fmt: skip
    return found


def fit(
    name: str, codes: int, rows: Rows, statistics: Statistics, batch: int = 4_096
) -> tuple[Table, dict[str, float]]:
    """A table, and what it is worth on the rows that quality is measured on.

    Args:
        codes: of each number; statistics of pixels have none.
    """
    from ...tokenize.networks.tables import Table, TableConfig, quantiles
    from .quality import quality

    width = rows.train.shape[-1]
    if TOKENIZERS[name].form is not Form.NUMBERS:
        config = TableConfig(table="statistics", n_channels=width, statistics=statistics)
        return Table(config), {"samples": float(len(rows.val))}
    config = TableConfig(
        table="quantiles", codebook_size=codes, num_codebooks=width, n_channels=width, statistics=statistics
    )
    sensor = SENSORS[TOKENIZERS[name].label]
    ranges = [sensor.ranges.get(one) for one in sensor.names] if sensor.ranges else None
    table = quantiles(config, rows.train, ranges).eval()
    val = whole_rows(name, rows.val)
    return table, quality(name, table, (val[i : i + batch] for i in range(0, len(val), batch)))


def whole_rows(name: str, rows: np.ndarray) -> np.ndarray:
    """The rows that a tokenizer is measured on: of a catalogue those that lack no value, whose word is no code."""
    if LABELS[TOKENIZERS[name].label].form is not Form.CATALOGUE:
        return rows
    return np.asarray(rows[np.isfinite(rows).all(1)])
