"""The matrix of who knows what, as files: ROOT/reports/likelihoods.{md,json,csv}. Reading one needs no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...measures.resample import Value
from .tables import LIKELIHOODS, as_json, comma_separated, markdown, value_of

# Nats a token. A model that knows nothing stays pale: differences far below a nat are noise.
PALE = 0.25

_WORDS = """# Who knows what: {run}

How likely the true tokens of each modality (columns) are, in nats a token, given each input (rows), **on the input of
the sample itself / of another sample**, lower is likelier. One forward pass: every token of the target is asked at
once, and none of them is an input. The first {samples} validation samples; intervals, by {draws} draws of samples with
replacement (seed {seed}), are in {name}.json.

"""


@dataclass(frozen=True)
class Cell:
    """How likely the true tokens of `target` are: nats a token, of `samples` samples with `tokens` tokens.

    given: with the sample's own inputs; another: with those of another sample; None where there is only one.
    nothing: with no input, on the same samples. uniform: of a guess that prefers no token.
    """

    inputs: tuple[str, ...]
    target: str
    samples: int
    tokens: int
    given: Value
    another: Value | None
    nothing: Value
    uniform: float

    @property
    def gain(self) -> float:
        """The nats a token by which the own input is better than another sample's; NaN where there is only one."""
        return math.nan if self.another is None else self.another.value - self.given.value


@dataclass(frozen=True)
class Matrix:
    """The cells, and what they were measured on: the run, how many samples were looked at, draws and seed."""

    run: str
    samples: int
    draws: int
    seed: int
    cells: list[Cell]

    @property
    def inputs(self) -> list[tuple[str, ...]]:
        return list(dict.fromkeys(cell.inputs for cell in self.cells))

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(cell.target for cell in self.cells))

    def cell(self, inputs: tuple[str, ...], target: str) -> Cell | None:
        return next((one for one in self.cells if (one.inputs, one.target) == (inputs, target)), None)

    @property
    def largest_gain(self) -> float:
        """The gain that pictures show in full colour: the largest of all cells, at least `PALE`."""
        return max([PALE, *(abs(cell.gain) for cell in self.cells if math.isfinite(cell.gain))])


def files(matrix: Matrix) -> dict[str, bytes]:
    """The contents of the files, by name."""
    texts = {"md": _markdown(matrix), "json": as_json(asdict(matrix)), "csv": _csv(matrix)}
    return {f"{LIKELIHOODS}.{suffix}": text.encode() for suffix, text in texts.items()}


def parse(data: dict[str, Any]) -> Matrix:
    """A matrix from its JSON."""
    values = ("given", "another", "nothing")
    cells = [
        Cell(**one | {"inputs": tuple(one["inputs"])} | {k: one[k] and value_of(one[k]) for k in values})
        for one in data["cells"]
    ]
    return Matrix(**data | {"cells": cells})


def _markdown(matrix: Matrix) -> str:
    rows = [[" + ".join(inputs), *(_pair(matrix.cell(inputs, t)) for t in matrix.targets)] for inputs in matrix.inputs]
    columns = {target: [cell for cell in matrix.cells if cell.target == target] for target in matrix.targets}
    # Cells of one column may be of fewer samples, where some lack the input: the one of most samples stands for all.
    most = {target: max(cells, key=lambda cell: cell.samples) for target, cells in columns.items()}
    rows.append(["nothing", *(f"{cell.nothing.value:.3f}" for cell in most.values())])
    rows.append(["(any token alike)", *(f"{cell.uniform:.3f}" for cell in most.values())])
    rows.append(["(samples)", *(str(cell.samples) for cell in most.values())])
    facts = {name: getattr(matrix, name) for name in ("run", "samples", "draws", "seed")}
    return _WORDS.format(name=LIKELIHOODS, **facts) + markdown(["given", *matrix.targets], rows)


def _pair(cell: Cell | None) -> str:
    if cell is None:
        return ""
    another = "-" if cell.another is None else f"{cell.another.value:.3f}"
    return f"{cell.given.value:.3f} / {another}"


def _csv(matrix: Matrix) -> str:
    names = [field.name for field in fields(Value)]
    rows: list[list[Any]] = []
    for cell in matrix.cells:
        for given in ("given", "another", "nothing"):
            value = getattr(cell, given)
            if value is not None:
                start = ["+".join(cell.inputs), cell.target, given, cell.samples, cell.tokens]
                rows.append([*start, *(getattr(value, name) for name in names)])
    return comma_separated(["inputs", "target", "on", "samples", "tokens", *names], rows)
