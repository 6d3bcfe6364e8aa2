"""What an evaluation of a run has found, as tables of the report."""

from __future__ import annotations

import json
import math

from ..infra import storage
from ..train.downstream.evaluation import matrix_files
from ..train.downstream.evaluation.matrix_files import Cell, Matrix
from ..train.downstream.evaluation.tables import results
from .html.report import ResultCell, ResultTable


def tables(root: str, run: str) -> list[ResultTable]:
    """The tables of a root, if they are of the run "NAME/FINGERPRINT"."""
    found = [matrix_files.parse(json.loads(storage.read_bytes(url))) for url in results(root)]
    return [_matrix(one) for one in found if one.run == run]


def _matrix(matrix: Matrix) -> ResultTable:
    rows = []
    for inputs in matrix.inputs:
        cells = [matrix.cell(inputs, target) for target in matrix.targets]
        rows.append((" + ".join(inputs), [_shown(cell, matrix.largest_gain) for cell in cells]))
    return ResultTable(
        "Who knows what",
        f"How likely the true tokens of each modality (columns) are given each input (rows), nats a token: on the "
        f"sample's own input, and on another sample's. Lower is likelier. The darker, the more the own input says. "
        f"The first {matrix.samples:,} validation samples.",
        matrix.targets,
        rows,
    )


def _shown(cell: Cell | None, largest: float) -> ResultCell:
    if cell is None:
        return ResultCell("")
    another = "" if cell.another is None else f"{cell.another.value:.3f}"
    shade = min(max(cell.gain, 0.0) / largest, 1.0) if math.isfinite(cell.gain) else 0.0
    return ResultCell(f"{cell.given.value:.3f}", another, shade)
