"""Shards of one kind do not drift, however few samples they have; others do, and it is said from where."""

from __future__ import annotations

import numpy as np
import pytest

from fourmill.report.stats import drift, measure, merged
from fourmill.report.stats.merged import Merged
from fourmill.report.stats.summary import Summary


def summary(shard: int, rows: list[dict[str, float]]) -> Summary:
    return Summary(f"{shard:05d}", "", len(rows), len(rows), "", measure.features(rows))


def shards(sizes: list[int], shifts: dict[int, float], seed: int = 0, between: float = 0.0) -> list[Summary]:
    """Skewed and correlated features; shards of `shifts` are elsewhere."""
    rng = np.random.default_rng(seed)
    made = []
    for shard, size in enumerate(sizes):
        own = between * rng.standard_normal() + shifts.get(shard, 0.0)
        common = rng.standard_normal(size)
        table = {f"value {i}": common + rng.standard_normal(size) + own for i in range(4)}
        table |= {f"count {i}": np.exp(rng.standard_normal(size)) for i in range(4)}
        made.append(summary(shard, [{name: float(of[row]) for name, of in table.items()} for row in range(size)]))
    return made


def found(summaries: list[Summary], tests: int = 0) -> list[tuple[str, ...]]:
    whole = merged.merge("tokens/tok_rgb", summaries)
    far = drift.distances(whole, tests or len(summaries), drift.table(summaries, whole.names))
    return [] if far is None else [one.shards for one in drift.find(whole, far, {one.shard: one for one in summaries})]


def names(*places: int) -> tuple[str, ...]:
    return tuple(f"{place:05d}" for place in places)


@pytest.mark.parametrize("size", [8, 20, 100])
def test_shards_of_one_kind_do_not_drift(size: int) -> None:
    alarms = [found(shards([size] * 12, {}, seed), 100) for seed in range(20)]
    assert alarms == [[]] * 20


@pytest.mark.parametrize(
    ("sizes", "shifts", "expected"),
    [
        ([60] * 10, {7: 2.0, 8: 2.0, 9: 2.0}, names(7, 8, 9)),
        ([60] * 10, {3: 2.0}, names(3)),
        ([60] * 10, dict.fromkeys(range(4), -2.0), names(0, 1, 2, 3)),  # most came later
        ([60] * 10, dict.fromkeys(range(5, 10), 2.0), names(5, 6, 7, 8, 9)),
        ([60, 60], {1: 3.0}, names(1)),
        ([400, 12, 400, 400], {1: 5.0}, names(1)),  # few samples, far away
    ],
)
def test_a_shard_that_is_elsewhere_drifts(
    sizes: list[int], shifts: dict[int, float], expected: tuple[str, ...]
) -> None:
    assert found(shards(sizes, shifts)) == [expected]


def test_what_differs_everywhere_is_no_drift() -> None:
    """Shards that are sorted by class, each another one: none is unlike the others."""
    assert found(shards([100] * 16, {}, between=1.5)) == []


def test_few_samples_say_nothing() -> None:
    assert found(shards([60, 60, drift.LEAST - 1], {2: 9.0})) == []


def test_what_never_moves_within_shards_may_move_between_them() -> None:
    rows = [[{"height": 224.0 if shard != 2 else 256.0} for _ in range(20)] for shard in range(6)]
    assert found([summary(shard, of) for shard, of in enumerate(rows)]) == [names(2)]


def test_equal_shards_have_no_distance() -> None:
    same = [summary(shard, [{"height": 224.0}] * 20) for shard in range(4)]
    assert drift.distances(merged.merge("labels/depth", same), 4) is None
    assert drift.distances(Merged("labels/depth"), 0) is None
