"""Who knows what: how likely the true tokens of each modality are, given each input, given another sample's, and given
nothing.

It needs no sampling and little time, and it is the first place where a wrong pairing, mask or crop shows: an input that
belongs to the sample must make the sample's tokens likelier than an input that belongs to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from ....model.downstream.likelihood import Reader
from ....model.fourm import FourM
from ....model.generation.known import Known, SpecialIds
from ...measures.resample import Value, draw, measure, of_sums
from ...settings import in_bf16
from ..pairing import others
from ..samples import Samples
from .matrix_files import Cell
from .settings import Evaluate

# Nats of the tokens of each sample, and how many tokens they are; 0 for samples that have none. (n,) each.
_Counted = tuple[np.ndarray, np.ndarray]


def compute(
    model: FourM,
    samples: Samples,
    combinations: Sequence[Sequence[str]],
    settings: Evaluate,
    special: SpecialIds,
    post: Callable[[float], None] = lambda done: None,
) -> list[Cell]:
    """A cell for each input and each target that is not a part of it, where some sample has both.

    Args:
        samples: with the tokens of all modalities of the model.
        combinations: modalities that are given together, beside each alone.
        post: is called with 1 after each of `passes`.
    """
    asker = _Asker(model, samples, settings, special)
    draws = draw(len(samples.places), settings.draws, settings.seed)
    nothing = asker.ask((), samples.having(()), samples.having(()))
    post(1)
    cells = []
    for names in inputs_of(model, combinations):
        rows = samples.having(names)
        own = asker.ask(names, rows, rows)
        paired = rows[others(len(rows), settings.seed)] if len(rows) > 1 else None
        another = None if paired is None else asker.ask(names, rows, paired)
        for target, counted in own.items():
            of_another = None if another is None else another[target]
            cells += _cell(model, names, target, counted, of_another, nothing[target], draws)
        post(1)
    return cells


def inputs_of(model: FourM, combinations: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Each modality that the model reads alone, then the combinations."""
    return [*((name,) for name in model.config.inputs), *map(tuple, combinations)]


def passes(model: FourM, combinations: Sequence[Sequence[str]]) -> int:
    """How often `compute` calls `post`."""
    return 1 + len(inputs_of(model, combinations))


def _cell(
    model: FourM, names: tuple[str, ...], target: str, own: _Counted, another: _Counted | None, nothing: _Counted,
    draws: np.ndarray,
) -> list[Cell]:  # fmt: skip
    tokens = own[1]
    if not tokens.any():
        return []
    values = [
        None if counted is None else _nats_a_token(np.where(tokens > 0, counted[0], 0), tokens, draws)
        for counted in (own, another, nothing)
    ]
    given, of_another, of_nothing = values
    assert given is not None and of_nothing is not None
    uniform = float(np.log(model.config.spec(target).vocab_size))
    counts = (int((tokens > 0).sum()), int(tokens.sum()))
    return [Cell(names, target, *counts, given, of_another, of_nothing, uniform)]


def _nats_a_token(nats: np.ndarray, tokens: np.ndarray, draws: np.ndarray) -> Value:
    parts = [{"nats": a, "tokens": b} for a, b in zip(nats, tokens.astype(np.float64), strict=True)]

    def ratio(total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return {"nats": total["nats"] / total["tokens"]}

    return measure(of_sums(parts, ratio), draws)["nats"]


class _Asker:
    """Asks a model for the true tokens of all targets at once."""

    def __init__(self, model: FourM, samples: Samples, settings: Evaluate, special: SpecialIds) -> None:
        self.model, self.samples, self.settings, self.special = model, samples, settings, special
        device = model.device.type
        self._autocast = torch.autocast(device, torch.bfloat16, enabled=in_bf16(settings.precision, device))

    def ask(self, names: Sequence[str], rows: np.ndarray, donors: np.ndarray) -> dict[str, _Counted]:
        """The nats of every target but `names`, of the samples `rows` given these inputs of the samples `donors`."""
        count = len(self.samples.places)
        targets = [name for name in self.model.config.outputs if name not in names]
        found = {name: (np.zeros(count), np.zeros(count, np.int64)) for name in targets}
        for start in range(0, len(rows), self.settings.batch_size):
            here = slice(start, start + self.settings.batch_size)
            with self._autocast:
                self._batch(names, rows[here], donors[here], found)
        return found

    def _batch(self, names: Sequence[str], rows: np.ndarray, donors: np.ndarray, found: dict[str, _Counted]) -> None:
        given = self.samples.given(names, donors)
        reader = Reader(self.model, Known.of(self.model.config, given, self.model.device, len(rows)), self.special)
        for target, (nats, tokens) in found.items():
            there = np.array([self.samples.tokens[target][row] is not None for row in rows])
            if there.any():
                of_batch = reader.nats(target, self._true(target, rows))
                nats[rows], tokens[rows] = (np.where(there, part, 0) for part in of_batch)

    def _true(self, target: str, rows: np.ndarray) -> list[np.ndarray]:
        """The true tokens; where a sample has none, those of a sample that has some, which nobody looks at."""
        tokens = self.samples.tokens[target]
        filler = next(one for one in tokens if one is not None)
        return [filler if tokens[row] is None else tokens[row] for row in rows]
