"""The order: every row exactly as often as it should come, on any number of ranks, from any start."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.modalities import Kind, ModalitySpec
from fourmill.train.data.order import FORMAT, Order, mask_keys, rank_positions
from fourmill.train.masking.masking import MaskingConfig, ModalityTokens, ResolvedMixture, mask_batch

orders = st.builds(
    Order,
    group_rows=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(sum).map(tuple),
    seed=st.integers(0, 5),
    lanes=st.integers(1, 9),
    buffer_rows=st.integers(1, 60),
    repeat=st.integers(1, 4),
)


def rows_at(order: Order, positions: np.ndarray) -> list[tuple[int, int]]:
    groups, rows, *_ = order.locate(positions)
    return list(zip(groups.tolist(), rows.tolist(), strict=True))


@given(orders, st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_an_epoch_is_every_row_repeat_times(order: Order, epoch: int) -> None:
    first = epoch * order.epoch_size
    seen = Counter(rows_at(order, np.arange(first, first + order.epoch_size)))
    assert seen == {(g, r): order.repeat for g, rows in enumerate(order.group_rows) for r in range(rows)}


@given(orders, st.data())
@settings(max_examples=100, deadline=None)
def test_ranks_and_restarts_continue_one_sequence(order: Order, data: st.DataObject) -> None:
    """The law of the loader: over any worlds, batch sizes and restarts, the union of samples is the next part of the
    sequence; none twice, none missing."""
    expected = rows_at(order, np.arange(4 * 3 * 8 * 5))
    consumed = 0
    for _ in range(data.draw(st.integers(1, 4))):
        world, per_rank = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 5))
        for _ in range(data.draw(st.integers(1, 3))):
            parts = [rank_positions(consumed, world * per_rank, rank, world) for rank in range(world)]
            assert all(len(positions) == per_rank for positions in parts)
            assert sorted(np.concatenate(parts).tolist()) == list(range(consumed, consumed + world * per_rank))
            for positions in parts:
                assert rows_at(order, positions) == [expected[p] for p in positions]
            consumed += world * per_rank


@given(orders, st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_blocks_name_the_row_groups_of_their_positions(order: Order, epoch: int) -> None:
    """What is read ahead for a position is what it needs, and for an epoch no more than that."""
    positions = np.arange(epoch * order.epoch_size, (epoch + 1) * order.epoch_size)
    places = order.locate(positions)
    needed = list(zip(places.groups.tolist(), places.epochs.tolist(), strict=True))
    for position, visit in zip(positions.tolist(), needed, strict=True):
        (block,) = order.blocks(np.array([position]))
        assert visit in block.visits and block.lane == position % order.lanes and block.number[0] == epoch
    assert set().union(*(block.visits for block in order.blocks(positions))) == set(needed)


def test_ranks_read_their_own_lanes() -> None:
    """With 8 lanes, each of 1, 2, 4, 8 ranks needs its share of the row groups, and one more at each lane's edges."""
    order = Order((64,) * 200, seed=3, lanes=8, buffer_rows=1024)
    for world in (1, 2, 4, 8):
        for rank in range(world):
            positions = np.concatenate(
                [rank_positions(first, 64, rank, world) for first in range(0, order.epoch_size, 64)]
            )
            assert len(set(positions % 8)) == 8 // world
            assert len(set(order.locate(positions)[0].tolist())) <= 200 / world + 8 / world


def test_few_groups_are_open_at_a_time() -> None:
    order = Order((64,) * 200, seed=3, lanes=4, buffer_rows=1024)
    for first in range(0, order.epoch_size, 1024):
        assert len(set(order.locate(np.arange(first, first + 64))[0].tolist())) <= 4 * (256 // 64 + 1)


def test_order_depends_on_seed_and_epoch_and_mixes() -> None:
    order = Order((100,) * 20, seed=0, buffer_rows=500, lanes=2)
    first, second = rows_at(order, np.arange(2000)), rows_at(order, np.arange(2000, 4000))
    other = rows_at(Order((100,) * 20, seed=1, buffer_rows=500, lanes=2), np.arange(2000))
    assert len({tuple(first), tuple(second), tuple(other)}) == 3
    neighbours = sum(a[0] == b[0] and abs(a[1] - b[1]) == 1 for a, b in pairwise(first))
    assert neighbours < 40


def test_order_is_pinned() -> None:
    """Positions, crops and masks never change for these seeds; if they must, FORMAT in order.py goes up."""
    assert FORMAT == 4
    order = Order((5, 3, 7, 0, 4), seed=11, lanes=2, buffer_rows=8, repeat=2)
    assert rows_at(order, np.array([0, 1, 2, 3, 37, 38, 39, 1000])) == PINNED
    assert [(order.crops((group, 7)) % np.uint64(10)).tolist() for group in range(3)] == PINNED_CROPS
    specs = [ModalitySpec("tok_rgb", Kind.GRID, 50, 16), ModalitySpec("caption", Kind.SEQUENCE, 9000, 8)]
    tokens = {
        "tok_rgb": ModalityTokens(np.full(2, 16), np.tile(np.arange(16), (2, 1))),
        "caption": ModalityTokens(np.full(2, 8), np.tile(np.arange(1000, 1008), 2)),
    }
    alphas = {"tok_rgb": 1.0, "caption": 1.0}
    config = MaskingConfig((8, 8), (4, 6), (ResolvedMixture(alphas, alphas),))
    b = mask_batch(specs, config, tokens, mask_keys(11, np.array([0, 1_000_000])))
    assert (b.input_ids.tolist(), b.target_ids.tolist()) == PINNED_MASKS


PINNED_MASKS = (
    [[0, 3, 4, 6, 1000, 5, 1004, 6], [3, 4, 5, 7, 8, 10, 13, 15]],
    [[1, 12, 14, 1005, 0, 0], [0, 6, 11, 12, 0, 0]],
)
PINNED = [(1, 2), (2, 4), (1, 0), (2, 6), (0, 4), (0, 3), (1, 0), (1, 0)]
PINNED_CROPS = [[9, 2], [4, 2], [1, 0]]


def test_crops_are_uniform() -> None:
    order = Order((5,) * 100, seed=3, repeat=4)
    drawn = np.stack([order.crops((group, epoch)) for group in range(100) for epoch in range(25)])
    counts = np.bincount((drawn % np.uint64(10)).astype(int).ravel(), minlength=10)
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_each_turn_of_a_row_comes_once_in_an_epoch() -> None:
    order = Order((5, 3, 7), seed=1, lanes=2, buffer_rows=8, repeat=3)
    for epoch in range(3):
        places = order.locate(np.arange(epoch * 45, (epoch + 1) * 45))
        assert set(places.epochs.tolist()) == {epoch}
        seen = list(zip(places.groups.tolist(), places.rows.tolist(), places.turns.tolist(), strict=True))
        assert sorted(seen) == [(g, r, t) for g, n in enumerate((5, 3, 7)) for r in range(n) for t in range(3)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lanes": 0}, "loader.lanes: got 0"),
        ({"repeat": 0}, "loader.repeat: got 0"),
        ({"seed": -1}, "loader.seed: got -1"),
        ({"group_rows": (0, 0)}, "hold no samples"),
    ],
)
def test_wrong_orders(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order(**{"group_rows": (3,), "seed": 0, **fields})  # type: ignore[arg-type]


def test_wrong_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="batch size 10 does not divide among 4 ranks"):
        rank_positions(0, 10, 0, 4)
    with pytest.raises(ValueError, match=r"rank 2 is not among 0..1"):
        rank_positions(0, 10, 2, 2)
