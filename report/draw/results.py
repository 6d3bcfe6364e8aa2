"""Results of an evaluation as pictures, PNG: the matrix of who knows what as a heat map, the table as dots."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ...train.downstream.evaluation.matrix_files import Matrix
from ...train.downstream.evaluation.table_files import Table

_CELL = (1.1, 0.55)  # inches
_DPI = 150
_ACROSS = 4  # measures in a row of the chart


def heat_map(matrix: Matrix) -> bytes:
    """A PNG: rows are inputs, columns are targets.

    A cell says the nats a token on the sample's own input, and below on another sample's; its colour is the difference:
    what the input says of its own sample.
    """
    from matplotlib.figure import Figure

    inputs, targets = matrix.inputs, matrix.targets
    cells = [[matrix.cell(one, target) for target in targets] for one in inputs]
    gains = np.array([[np.nan if cell is None else cell.gain for cell in row] for row in cells])
    largest = matrix.largest_gain
    figure = Figure(figsize=(2.5 + _CELL[0] * len(targets), 1.6 + _CELL[1] * len(inputs)), layout="constrained")
    axes = figure.subplots()
    # Zero is white: blue is what an input tells, red an input that misleads.
    image = axes.imshow(np.ma.masked_invalid(gains), cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    axes.set_xticks(range(len(targets)), targets, rotation=30, ha="right")
    axes.set_yticks(range(len(inputs)), [" + ".join(one) for one in inputs])
    axes.set_xlabel("true tokens of")
    axes.set_ylabel("given")
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            if cell is not None:
                another = "" if cell.another is None else f"\n{cell.another.value:.2f}"
                dark = abs(gains[row, column]) > 0.6 * largest
                color = "white" if dark else "black"
                text = f"{cell.given.value:.2f}{another}"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, label="nats a token less than on another's input")
    figure.suptitle("nats a token: on the own input, and below on another sample's", fontsize=9)
    return _png(figure)


def chart(table: Table) -> bytes:
    """A PNG: for each column its measure of every row, with its interval."""
    from matplotlib.figure import Figure

    shown, rows = table.figures, table.rows
    across, down = max(1, min(_ACROSS, len(shown))), max(1, -(-len(shown) // _ACROSS))
    figure = Figure(figsize=(2.2 + 2.2 * across, down * (1.2 + 0.3 * max(len(rows), 1))), layout="constrained")
    every = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in every[len(shown) :]:
        axes.set_axis_off()
    places = range(len(rows), 0, -1)  # the first row on top
    for number, (one, axes) in enumerate(zip(shown, every, strict=False)):
        for place, row in zip(places, rows, strict=True):
            value = one.value(row)
            if value is not None and np.isfinite(value.value):
                color = "tab:blue" if row in ("step", "chain", "ensemble") else "0.35"
                axes.plot([value.low, value.high], [place, place], color=color, linewidth=1.5)
                axes.plot([value.value], [place], "o", color=color, markersize=5)
        axes.set_title(one.title.replace(": ", "\n", 1), fontsize=8)
        axes.set_xlabel(f"{one.measure.better} is better", fontsize=7)
        axes.set_yticks(list(places), [table.title(row) for row in rows] if number % across == 0 else [], fontsize=8)
        axes.set_ylim(0.4, len(rows) + 0.6)
        axes.grid(axis="x", color="0.9")
        axes.tick_params(axis="x", labelsize=7)
    return _png(figure)


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    # Without the name of the software: the same bytes for the same numbers.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
