"""The reconstruction table: how well every fitted tokenizer of a root reconstructs crops that it was not fitted on.

ROOT/reports/tokenizers.{json,md,csv}, one row for each tokenizer: rate (tokens and bits of one example), error in the
unit of its label, use of its codebook, speed of encoder and decoder here, and what it was measured on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from ....infra import storage
from ....modalities import TOKENIZERS, Form
from ....tokenize import codecs, inputs
from ...tokenizers import losses
from ...tokenizers.examples import Board, resized
from ...tokenizers.fit import fill, groups
from ...tokenizers.job import FitJob
from ...tokenizers.quality import quality, reconstruct
from ...tokenizers.tables import whole_rows
from ...workers import FINAL
from . import tables

NAME = "tokenizers"
_CODEBOOK = ("codes_used", "perplexity", "tokens", "samples")
_SPEED_SAMPLES = 64  # examples in the batch whose speed is measured


@dataclass(frozen=True)
class Evaluation:
    """A row of the table.

    tokens, bits: of one example: a crop, a mask, a person. bits are tokens x log2(codebook_size), without entropy
        coding.
    measures: see `quality`; `codes_used` is a share. encode, decode: examples in a second, on `device`.
    samples: examples that were measured; measured_on: of validation or of training shards.
    """

    tokenizer: str
    label: str
    tokens: int
    codebook_size: int
    bits: float
    measures: dict[str, float]
    codes_used: float
    perplexity: float
    encode: float
    decode: float
    device: str
    samples: int
    measured_on: Literal["val", "train"]


def evaluate(job: FitJob, device: str, board: Board, batch: int = 32) -> tuple[list[Evaluation], dict[str, str]]:
    """Measure the tokenizers of ROOT/tokenizers that a job names and write the table.

    Args:
        job: as for a fit; `validation_samples`, `validation_steps`, and how crops are drawn, are its settings'.
        batch: examples that go through a tokenizer at a time.

    Returns:
        The rows of the table, and why the tokenizers that lack one do: there are no examples, its files are gone, ...
    """
    rows: list[Evaluation] = []
    lacking: dict[str, str] = {}
    for group in groups(job, fitted=True):  # crops drawn alike: one pass over the shards for all of them
        group = [name for name in group if TOKENIZERS[name].vocab_size]  # statistics alone reconstruct nothing
        if not group:
            continue
        try:
            cache = fill(job, group, 0, 1, device, board, few=True)
        except FINAL as error:
            lacking |= dict.fromkeys(group, str(error))
            continue
        for name in group:
            try:
                if name not in cache:
                    raise ValueError(f"no sample has the label {TOKENIZERS[name].label}")
                rows.append(_evaluate(job, name, cache[name].val, cache[name].measured_on, device, batch))
            except FINAL as error:  # the table has the other tokenizers all the same
                lacking[name] = str(error)
            done = len(rows) + len(lacking)
            board.post(stage="evaluate", done=done, total=len(job.tokenizers), unit="tokenizers")
    write(job.root, rows)
    return rows, lacking


def _evaluate(
    job: FitJob, name: str, rows: np.ndarray, measured_on: Literal["val", "train"], device: str, batch: int
) -> Evaluation:
    settings, rows = job.tokenizers[name], whole_rows(name, rows)
    model = codecs.load_fitted(job.root, name, device).model
    backbone = settings.perceptual_backbone if TOKENIZERS[name].form is Form.COLORS else None
    perceptual = losses.lpips(backbone, device) if backbone else None

    def pieces() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), batch):
            yield resized(name, rows[start : start + batch], job.image_size)

    measured = quality(name, model, pieces(), settings.validation_steps, perceptual)
    few = resized(name, rows[: min(batch, _SPEED_SAMPLES)], job.image_size)
    x = inputs.to_input(name, few, model.config.frame, device, model.config.statistics)
    with torch.inference_mode():
        ids = model.encode(x)
        encode = len(x) / _seconds(lambda: model.encode(x), device)
        decode = len(x) / _seconds(lambda: reconstruct(model, ids, settings.validation_steps), device)
    codes, tokens = model.config.codebook_size, math.prod(ids.shape[1:])  # ids (B, h, w) or (B, codebooks)
    return Evaluation(
        tokenizer=name,
        label=TOKENIZERS[name].label,
        tokens=tokens,
        codebook_size=codes,
        bits=tokens * math.log2(codes),
        measures={key: value for key, value in measured.items() if key not in _CODEBOOK},
        codes_used=measured["codes_used"],
        perplexity=measured["perplexity"],
        encode=encode,
        decode=decode,
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU",
        samples=len(rows),
        measured_on=measured_on,
    )


def _seconds(call: Callable[[], Any], device: str) -> float:
    """Of the second call: the first one warms up."""
    for _ in range(2):
        start = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return max(seconds, 1e-9)


def write(root: str, rows: list[Evaluation]) -> None:
    """The table as JSON, Markdown and CSV."""
    folder = storage.join(root, tables.FOLDER)
    for suffix, text in {
        "json": tables.as_json([asdict(row) for row in rows]), "md": markdown(rows), "csv": _csv(rows),
    }.items():  # fmt: skip
        storage.put(storage.join(folder, f"{NAME}.{suffix}"), text.encode())


def line(row: Evaluation) -> str:
    """A row as a sentence."""
    cells = _cells(row)
    return f"{row.tokenizer}: {cells['error']}; {cells['codes used']} of {row.codebook_size} codes, {row.bits:.0f} bits"


def _cells(row: Evaluation) -> dict[str, str]:
    return {
        "tokenizer": row.tokenizer,
        "tokens": str(row.tokens),
        "codes": str(row.codebook_size),
        "bits": f"{row.bits:.0f}",
        "error": ", ".join(f"{name} {value:.4g}" for name, value in row.measures.items()),
        "codes used": f"{100 * row.codes_used:.1f} %",
        "perplexity": f"{row.perplexity:.1f}",
        "encode/s": f"{row.encode:.3g}",
        "decode/s": f"{row.decode:.3g}",
        "on": row.device,
        "samples": f"{row.samples} ({row.measured_on})",
    }


def markdown(rows: list[Evaluation]) -> str:
    """The table for people."""
    table = [_cells(row) for row in rows]
    return (
        tables.markdown(list(table[0]), [[*cells.values()] for cells in table])
        if table
        else "No tokenizer is fitted.\n"
    )


def _csv(rows: list[Evaluation]) -> str:
    """One line for each measure, so that columns have one unit each."""
    lines = []
    for row in rows:
        fields = asdict(row)
        plain = {name: value for name, value in fields.items() if name not in ("tokenizer", "measures")}
        lines += [(row.tokenizer, name, value) for name, value in (plain | row.measures).items()]
    return tables.comma_separated(("tokenizer", "measure", "value"), lines)
