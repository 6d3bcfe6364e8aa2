"""The matrix of who knows what as a heat map, a PNG."""

from __future__ import annotations

import io

import numpy as np

from ...train.downstream.evaluation.matrix_files import Matrix

_CELL = (1.1, 0.55)  # inches
_DPI = 150


def heat_map(matrix: Matrix) -> bytes:
    """A PNG: rows are inputs, columns are targets.

    A cell says the nats a token on the sample's own input, and below on another sample's; its colour is the difference:
    what the input says of its own sample.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
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
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
