"""What an evaluation of a run has found, as tables of the report."""

from __future__ import annotations

import math
from collections.abc import Iterator

from markupsafe import Markup

from ..infra import side_files
from ..train.downstream.evaluation import matrix_files, table_files
from ..train.downstream.evaluation.matrix_files import Cell, Matrix
from ..train.downstream.evaluation.table_files import Table
from ..train.downstream.evaluation.tables import EVALUATION, results
from ..train.measures.resample import Value
from .html.chart import scatter_chart
from .html.report import ResultCell, ResultTable


def tables(root: str, run: str) -> list[ResultTable]:
    """The tables of a root, if they are of the run "NAME/FINGERPRINT"."""
    shown: list[ResultTable] = []
    for url in results(root):
        data = side_files.read_object(url, ("run",))
        if data is None or data["run"] != run:
            continue
        if url.endswith(f"{EVALUATION}.json"):
            shown.append(_table(table_files.parse(data)))
        else:
            shown.append(_matrix(matrix_files.parse(data)))
    return shown


def _table(table: Table) -> ResultTable:
    rows = [(table.title(row), [_value(one.value(row)) for one in table.figures]) for row in table.rows]
    columns = [f"{one.title} ({one.measure.better} is better)" for one in table.figures]
    note = f"{table.heading}. {table.references.replace('**', '')} Below: intervals of 95 %, {table.draws:,} draws."
    note = " ".join([note, *table.notes])
    return ResultTable("What answers are worth", note, columns, rows, list(_scatter(table)))


def _scatter(table: Table) -> Iterator[tuple[str, Markup]]:
    """Numbers of sensors, true against answered, each with its title."""
    for column in table.columns:
        for name, pairs in column.pairs.items():
            what = f"{column.label}{f', {name}' if name else ''}{f', {column.unit}' if column.unit else ''}"
            title = f"{what}: true across, {table.title(column.paired)} upright"
            if pairs:
                yield title, scatter_chart([(true, answered) for true, answered in pairs], label=title)


def _value(value: Value | None) -> ResultCell:
    if value is None or not math.isfinite(value.value):
        return ResultCell("-")
    return ResultCell(f"{value.value:.4g}", "" if math.isnan(value.low) else f"{value.low:.4g} to {value.high:.4g}")


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
