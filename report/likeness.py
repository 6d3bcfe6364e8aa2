"""Whether shards that came after a run began look like those that it has seen: by how often each token occurs.

The distance of two sets of samples is the total variation of their tokens' frequencies: 0 for equal ones, 1 for tokens
that have nothing in common. Few samples of one kind differ, too: the same samples dealt out at random say by how much,
and how often so much (a permutation test, in which a sample stays whole).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..infra import storage
from ..modalities import Kind, ModalitySpec
from ..tokenize import store

SHARDS = 8  # of each side, whose first row group is read: a look, not a count
SAMPLES = 256  # of each side
LEAST = 8  # of each side: fewer say nothing
DEALS = 499
RARE = 0.01  # of the deals: what is so rare among samples of one kind is another kind


@dataclass(frozen=True)
class Likeness:
    """How far the tokens of new samples are from those of old ones.

    distance: total variation, 0 to 1. expected: of two such sets of one kind, on average. chance: the share of deals
    that are as far apart. new, old: samples that were compared.
    """

    modality: str
    distance: float
    expected: float
    chance: float
    new: int
    old: int

    @property
    def is_other(self) -> bool:
        return self.chance <= RARE

    def __str__(self) -> str:
        numbers = f"distance {self.distance:.3f}, {self.expected:.3f} among samples of one kind"
        verdict = "OTHER than what the run has seen" if self.is_other else "like what the run has seen"
        return f"{verdict} ({numbers}; {self.new} and {self.old} samples)"


def compare(
    root: str, specs: Iterable[ModalitySpec], seen: Sequence[str], unseen: Sequence[str], seed: int = 0
) -> list[Likeness]:
    """Each modality with tokens of which both sides have samples.

    Args:
        seen, unseen: names of shards with all of their columns; some of each are read.
    """
    found = []
    for spec in specs:
        if spec.kind not in (Kind.GRID, Kind.SEQUENCE):
            continue
        old, new = (_counts(root, spec, some(shards)) for shards in (seen, unseen))
        if min(len(old), len(new)) >= LEAST:
            found.append(likeness(spec.name, new, old, seed))
    return found


def some(shards: Sequence[str]) -> list[str]:
    """At most `SHARDS` of them, evenly over the list."""
    step = max(1, len(shards) // SHARDS)
    return list(shards[::step])[:SHARDS]


def likeness(modality: str, new: np.ndarray, old: np.ndarray, seed: int = 0) -> Likeness:
    """Args: new, old: float (samples, tokens), the share of each token in each sample."""
    rng = np.random.default_rng(seed)
    counts = np.concatenate([new, old])
    used = counts.any(axis=0)
    counts = counts[:, used]
    total, n = counts.sum(axis=0), len(new)
    chosen = np.zeros((DEALS + 1, len(counts)), np.float32)
    chosen[0, :n] = 1  # as they are; then dealt out at random
    for deal in chosen[1:]:
        deal[rng.permutation(len(counts))[:n]] = 1
    first = chosen @ counts
    distances = np.abs(first / n - (total - first) / len(old)).sum(axis=1) / 2
    chance = float((distances >= distances[0] - 1e-6).mean())  # of all deals, the one that is among them
    return Likeness(modality, float(distances[0]), float(distances[1:].mean()), chance, n, len(old))


def _counts(root: str, spec: ModalitySpec, shards: Sequence[str]) -> np.ndarray:
    """The share of each token in some samples, float32 (samples, vocabulary), by their centre crops."""
    rows: list[np.ndarray] = []
    for shard in shards:
        reader = store.ColumnReader(storage.join(root, "tokens", spec.name, f"{shard}.parquet"))
        column = reader.read([0], [0])
        for row in np.flatnonzero(column.valid).tolist()[: -(-SAMPLES // len(shards))]:
            ids = column.crop(row, 0)
            if len(ids):
                rows.append(np.bincount(ids, minlength=spec.vocab_size).astype(np.float32) / len(ids))
    return np.stack(rows) if rows else np.zeros((0, spec.vocab_size), np.float32)
