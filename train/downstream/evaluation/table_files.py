"""The evaluation table as files: ROOT/reports/evaluation.{md,json,csv}. Reading one needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from typing import Any, Literal

from ...measures.resample import Value
from .tables import EVALUATION, as_json, comma_separated, markdown, value_of

# The rows, from the least to the most that can be hoped for.
ROWS: dict[str, str] = {
    "constant": "constant",
    "class_means": "mean of each class of {classes}",
    "another": "4M, another sample's input",
    "step": "4M, one step",
    "chain": "4M, chained",
    "ensemble": "4M, ensemble of {ensemble}",
    "labels": "pseudo-labeller (the stored label)",
    "bound": "tokenizer bound",
}

CHAINED = ("chain", "ensemble")  # rows that may be of the first samples alone


@dataclass(frozen=True)
class Measure:
    """What people call a measure, which values of it are better, and whether it is a share that is shown in percent."""

    title: str
    better: Literal["lower", "higher"]
    percent: bool = False


# The measures that the table shows; the others stand beside it.
SHOWN: dict[str, Measure] = {
    "mean_degrees": Measure("mean angle, degrees", "lower"),
    "l1": Measure("standardized L1", "lower"),
    "abs_rel": Measure("AbsRel", "lower"),
    "delta1": Measure("delta 1, %", "higher", percent=True),
    "miou": Measure("mIoU, %", "higher", percent=True),
    "ap": Measure("AP, %", "higher", percent=True),
    "ap50": Measure("AP50, %", "higher", percent=True),
    "f1": Measure("F1 of objects, %", "higher", percent=True),
    "colour_f1": Measure("F1 of objects with colours, %", "higher", percent=True),
    "mpjpe_mm": Measure("MPJPE, mm", "lower"),
    "top1": Measure("kNN top 1, %", "higher", percent=True),
    "rmse": Measure("RMSE", "lower"),
    "r2": Measure("R2", "higher"),
    "km": Measure("km along the great circle", "lower"),
    "distance": Measure("distance", "lower"),
    "days": Measure("days", "lower"),
    "hours": Measure("hours", "lower"),
}


@dataclass(frozen=True)
class Measured:
    """One column: a target, and what the answers of each row are worth.

    Attributes:
        measures: those of the judge.
        reference, truth: what the answers are compared with, and whether that is the truth.
        samples, chained: how many have it, and how many of those whose answers are chained.
        answers: row -> the folder of the model's answers.
        cells: row -> measure -> value.
        unit: of the values of a sensor, which `rmse`, `mae` and `distance` are in.
        pairs: of a sensor's numbers, by their names ("" of one): the true value and the answer of each sample that has
            both, of the row `paired`.
    """

    target: str
    label: str
    measures: list[str]
    reference: str
    truth: bool
    samples: int
    answers: dict[str, str]
    cells: dict[str, dict[str, Value]]
    chained: int | None = None  # None: all, as in tables of before
    unit: str = ""
    pairs: dict[str, list[list[float]]] = field(default_factory=dict)
    paired: str = ""

    def count(self, row: str) -> int:
        """How many samples a row was measured on."""
        return self.samples if self.chained is None or row not in CHAINED else self.chained


@dataclass(frozen=True)
class Figure:
    """One column of the table that is shown: a measure of a target."""

    column: Measured
    name: str

    @property
    def measure(self) -> Measure:
        return SHOWN[self.name]

    @property
    def title(self) -> str:
        unit = f", {self.column.unit}" if self.column.unit and self.name in ("rmse", "distance") else ""
        return f"{self.column.label}: {self.measure.title}{unit}"

    def value(self, row: str) -> Value | None:
        """In the unit of the title."""
        value = self.column.cells.get(row, {}).get(self.name)
        if value is None or not self.measure.percent:
            return value
        return Value(*(100 * getattr(value, one.name) for one in fields(value)))


@dataclass(frozen=True)
class Recall:
    """How often the vector of `target` that is expected given `query` is nearest to that of the query's own image:
    recall1, recall5, among `among` images."""

    query: str
    target: str
    among: int
    recall: dict[str, Value]


@dataclass(frozen=True)
class Table:
    """The table, and what it was measured on. subset: on how many samples chains were; None for all. classes: the label
    whose classes' means are a row."""

    run: str
    inputs: list[str]
    samples: int
    ensemble: int
    draws: int
    seed: int
    columns: list[Measured]
    retrieval: list[Recall]
    notes: list[str]
    subset: int | None = None
    classes: str = ""

    @property
    def rows(self) -> list[str]:
        return [row for row in ROWS if any(row in column.cells for column in self.columns)]

    @property
    def figures(self) -> list[Figure]:
        return [Figure(column, name) for column in self.columns for name in column.measures if name in SHOWN]

    def title(self, row: str) -> str:
        few = f", first {self.subset:,}" if self.subset is not None and row in CHAINED else ""
        return ROWS[row].format(ensemble=self.ensemble, classes=self.classes) + few

    @property
    def heading(self) -> str:
        """What the table is, in one sentence."""
        given = " and ".join(self.inputs)
        return f"{self.run}, given {given}, on the first {self.samples:,} validation samples that have it"

    @property
    def references(self) -> str:
        """What is compared with what: where the reference is a pseudo-label, it says so."""
        true = [f"{one.label} ({one.reference})" for one in self.columns if one.truth]
        pseudo = [f"{one.label} ({one.reference})" for one in self.columns if not one.truth]
        words = [f"Compared with the truth: {', '.join(true)}."] if true else []
        if pseudo:
            words.append(
                f"**No truth, compared with pseudo-labels, whose errors count as right**: {', '.join(pseudo)}."
            )
        return " ".join(words)


def files(table: Table) -> dict[str, bytes]:
    """The contents of the files, by name."""
    texts = {"md": _markdown(table), "json": as_json(asdict(table)), "csv": _csv(table)}
    return {f"{EVALUATION}.{suffix}": text.encode() for suffix, text in texts.items()}


def parse(data: Mapping[str, Any]) -> Table:
    """A table from its JSON."""

    def values(given: Mapping[str, Mapping[str, float | None]]) -> dict[str, Value]:
        return {name: value_of(one) for name, one in given.items()}

    columns = [
        Measured(**one | {"cells": {row: values(cell) for row, cell in one["cells"].items()}})
        for one in data["columns"]
    ]
    retrieval = [Recall(**one | {"recall": values(one["recall"])}) for one in data["retrieval"]]
    return Table(**{**data, "columns": columns, "retrieval": retrieval})


def _markdown(table: Table) -> str:
    header = ["", *(f"{one.title} ({one.measure.better} is better)" for one in table.figures)]
    rows = [[table.title(row), *(said(one.value(row)) for one in table.figures)] for row in table.rows]
    rows.append(["(samples)", *(str(one.column.samples) for one in table.figures)])
    notes = "".join(f"- {note}\n" for note in table.notes) + ("\n" if table.notes else "")
    where = "".join(
        f"- {column.target}, {table.title(row)}: `{folder}`\n"
        for column in table.columns
        for row, folder in column.answers.items()
    )
    return (
        f"# Evaluation: {table.heading}\n\n{table.references}\n\n"
        f"In brackets the intervals that hold 95 % of {table.draws} draws of the samples with replacement, seed "
        f"{table.seed}.\n\n{markdown(header, rows)}\n{notes}## Beside it\n\n{_beside(table)}\n{_retrieval(table)}"
        f"## Answers\n\nThe tokens of all answers of the model, one folder of Parquet files for each:\n\n{where}"
    )


def _retrieval(table: Table) -> str:
    if not table.retrieval:
        return ""
    words = "How often the vector that the model expects of an input is nearest to that of the input's own image.\n\n"
    rows = [
        [one.query, one.target, *(said(value) for value in one.recall.values()), str(one.among)]
        for one in table.retrieval
    ]
    return f"## Retrieval\n\n{words}{markdown(['from', 'by', 'recall at 1', 'recall at 5', 'among'], rows)}\n"


def said(value: Value | None) -> str:
    """A value with its interval."""
    if value is None or not math.isfinite(value.value):
        return "-"
    digits = f"{value.value:.4g}"
    return digits if math.isnan(value.low) else f"{digits} [{value.low:.4g}, {value.high:.4g}]"


def _beside(table: Table) -> str:
    """The other measures of each column."""
    parts = []
    for column in table.columns:
        names = [name for name in column.measures if name not in SHOWN]
        if not names:
            continue
        rows: list[Sequence[str]] = [
            [table.title(row), *(said(column.cells[row][name]) for name in names)]
            for row in table.rows
            if row in column.cells
        ]
        parts.append(f"{column.label} ({column.target}):\n\n{markdown(['', *names], rows)}")
    return "\n".join(parts)


def _csv(table: Table) -> str:
    rows = [
        [row, column.target, column.label, name, *astuple(value), column.count(row), column.reference]
        for column in table.columns
        for row, cell in column.cells.items()
        for name, value in cell.items()
    ]
    rows += [
        ["retrieval", one.target, one.query, name, value.value, value.low, value.high, one.among, "own image"]
        for one in table.retrieval
        for name, value in one.recall.items()
    ]
    header = ["row", "target", "label", "measure", "value", "low", "high", "samples", "reference"]
    return comma_separated(header, rows)
