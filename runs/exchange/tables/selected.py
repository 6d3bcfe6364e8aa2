"""Which samples of an export `train.select` selects: a column, or all that is exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ....infra.fingerprint import fingerprint
from ....infra.index import index
from ....infra.ledger import Entry
from ....pipelines.curation import expression, selection
from ....recipe import Recipe

COLUMN = "selected"


@dataclass(frozen=True)
class Selected:
    """text: the expression. chosen: of the training shards that it was worked out for. only: export nothing else."""

    text: str
    only: bool
    chosen: Mapping[str, selection.Chosen] = field(default_factory=dict)

    def rows(self, shard: str) -> np.ndarray | None:
        """Whether each row of a shard is selected; None of a shard of another split, which nothing selects from."""
        one = self.chosen.get(shard)
        return None if one is None else one.mask()

    @property
    def sentence(self) -> str:
        """What a card says of it."""
        if self.only:
            return f"Of the training samples these are exported: {self.text}."
        return f"{COLUMN} is true for training samples that are chosen: {self.text}. It is null in other splits."

    def mark(self, shard: str) -> str:
        """A hash of what becomes of a shard by it."""
        one = self.chosen.get(shard)
        return fingerprint(self.only, None if one is None else one.bits.hex())

    @property
    def count(self) -> tuple[int, int]:
        """Selected ones of all samples."""
        return sum(one.count for one in self.chosen.values()), sum(one.rows for one in self.chosen.values())


def asked(
    root: str, recipe: Recipe | None, select: str | None, only: bool, labels: Sequence[str], shards: Mapping[str, Entry]
) -> Selected | str | None:
    """What is selected of the training shards of an export: what it is, None if nobody asks, or why it cannot be known
    where the recipe alone asks.

    Args:
        select: an expression in place of the recipe's `train.select`. only: what it selects alone is to be exported.
        labels: that the root holds. shards: training shards that are exported, each with the record of a column.

    Raises:
        ValueError: somebody asks for what cannot be selected.
    """
    text = recipe.train.select if recipe is not None and select is None else select
    if text is None:
        if only:
            raise ValueError("--selected: the root's recipe has no train.select; give an expression with --select")
        return None
    try:
        return _made(root, text, only, labels, shards)
    except ValueError as error:
        why = str(error).removeprefix("train.select: ")
        if select is None and not only:
            return f"train.select: {why}"
        raise ValueError(f"{'train.select' if select is None else '--select'}: {why}") from None


def _made(root: str, text: str, only: bool, labels: Sequence[str], shards: Mapping[str, Entry]) -> Selected:
    """Work out what an expression selects. ValueError if it names what the root does not hold, or a shard lacks a
    label."""
    selection.check(text, labels, {})
    parsed = expression.parse(text)
    outputs = [f"labels/{label}" for label in parsed.labels]
    records = index.read_many(root, outputs, shards).entries
    found = selection.make(root, parsed, records, shards, selection.read(root, parsed))
    return Selected(text, only, found.shards)
