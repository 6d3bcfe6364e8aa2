"""The datasets that a run trains on, resolved: its own columns, and those of other roots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...infra import storage
from ...infra.configuration import RecipeError
from ...infra.fingerprint import hashed
from ...pipelines import columns
from ...pipelines.columns import Columns
from ..data.blend import Dataset
from ..data.groups import ShardRows
from ..settings import Train, check_mixtures


def resolve(
    train: Train, own: Columns, columns_of: Callable[[str], Columns], selected: Mapping[str, bytes] | None = None
) -> tuple[tuple[Dataset, ...], list[Any]]:
    """The datasets that a recipe trains on, () if it is its own alone; and what they are, for a fingerprint.

    Args:
        own: the columns of the recipe's root. columns_of: gives those of another root.
        selected: of `own`, see `shard_rows`.
    """
    datasets: list[Dataset] = []
    identities: list[Any] = []
    of_run = range(len(train.mixtures))
    counted = of_run.stop  # mixtures so far: those of datasets come after the run's
    for share in train.datasets:
        other = own if share.root is None else columns_of(share.root)
        names = columns.shared(own, other)
        shards = shard_rows(other, "train", selected if share.root is None else None)
        if not shards:
            raise RecipeError(f"train.datasets: no training shard of {other.root} has all of its columns")
        mixtures = of_run
        if share.mixtures is not None:
            mixtures = range(counted, counted := counted + len(share.mixtures))
        check_mixtures(other.root, names, share.mixtures or train.mixtures)
        tokens = storage.join(other.root, "tokens")
        datasets.append(Dataset(tokens, shards, share.weight, names, share.repeat or train.repeat, mixtures))
        identities.append([hashed(share, {"root"}), names, *other.identity()])
    return tuple(datasets), identities or own.identity()


def shard_rows(columns: Columns, split: str, selected: Mapping[str, bytes] | None = None) -> tuple[ShardRows, ...]:
    """The shards of a split as a loader takes them.

    Args:
        selected: by shard a bit for each sample that is read, see `ShardRows`; None for all samples.
    """
    return tuple(
        ShardRows(name, rows, columns.footers.get(name, {}), None if selected is None else selected[name])
        for name, rows in columns.shards[split]
    )
