"""Several datasets as one sequence: exact shares, nothing twice, nothing missing, on any number of ranks."""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import training
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.modalities import Kind
from fourmill.train.data.blend import BLOCK, Blend, Dataset, Stores
from fourmill.train.data.groups import GroupCache
from fourmill.train.data.loader import LoaderOptions, TokenLoader
from fourmill.train.data.order import Order, rank_positions
from fourmill.train.masking.masking import ResolvedMixture
from fourmill.train.pretrain.job import masking_config


def blend(sizes: list[int], weights: list[float], seed: int = 3, lanes: int = 4) -> Blend:
    return Blend([Order((size,), seed, lanes, buffer_rows=16) for size in sizes], weights, seed)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
    st.integers(0, 3 * BLOCK),
)
@settings(deadline=None, max_examples=30)
def test_each_dataset_is_gone_through_in_its_own_order(sizes: list[int], weights: list[int], seed: int) -> None:
    """Lane by lane a dataset's positions come one after the other, and the shares are exact in every block."""
    blended = blend(sizes, [float(w) for w in weights[: len(sizes)]], seed)
    which, own = blended.assign(np.arange(4 * 2 * BLOCK))
    for lane in range(4):
        for dataset in range(len(sizes)):
            own_positions = own[lane::4][which[lane::4] == dataset]
            np.testing.assert_array_equal(own_positions, np.arange(len(own_positions)) * 4 + lane)
    for block in range(2):
        counts = np.bincount(which[4 * block * BLOCK :][: 4 * BLOCK], minlength=len(sizes))
        expected = np.array(weights[: len(sizes)]) / sum(weights[: len(sizes)]) * 4 * BLOCK
        assert np.abs(counts - expected).max() <= 4


@given(st.integers(0, 5000), st.integers(1, 300))
@settings(deadline=None, max_examples=30)
def test_any_part_of_the_sequence_is_the_same_by_itself(first: int, count: int) -> None:
    blended = blend([7, 30, 11], [0.6, 0.2, 0.2])
    whole = blended.locate(np.arange(first + count))
    part = blended.locate(np.arange(first, first + count))
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(one[first:], other)


def test_the_paper_s_shares_are_exact() -> None:
    assert blend([5, 5, 5], [0.6, 0.2, 0.2]).counts == (600, 200, 200)
    assert blend([5, 5, 5], [1, 1, 1]).counts == (334, 333, 333)


def test_a_dataset_that_is_hardly_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weights \[0.0001\] are less than 1 sample in 1000"):
        blend([5, 5], [1.0, 0.0001])


# datasets on disk


@pytest.fixture
def datasets(tmp_path: Path) -> list[Dataset]:
    """Images with everything; more of them without global tokens; text alone."""
    names = tuple(spec.name for spec in training.SPECS)
    datasets = []
    for i, (rows, has) in enumerate([(20, names), (40, names[:2] + names[3:]), (12, ("caption",))]):
        specs = [spec for spec in training.SPECS if spec.name in has]
        shard = training.write_columns(tmp_path / str(i), f"set{i}", rows, seed=i, specs=specs)
        datasets.append(Dataset(str(tmp_path / str(i) / "tokens"), (shard,), (3.0, 1.0, 1.0)[i], has))
    return datasets


def loader(datasets: list[Dataset], tmp_path: Path, lanes: int = 4) -> TokenLoader:
    masking = masking_config(training.job(tmp_path / "job"))
    options = LoaderOptions(lanes=lanes, buffer_rows=16, threads=2)
    return TokenLoader("", (), training.SPECS, masking, 5, options, datasets)


def test_samples_come_with_what_their_dataset_has(datasets: list[Dataset], tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    batches = loader(datasets, tmp_path).batches(0, 20)
    for _, batch in itertools.islice(batches, 10):
        for i, key in enumerate(batch.keys):
            dataset = int(key[3])
            seen[key[:4]] += 1
            used = set(batch.input_mod[i][batch.input_valid[i]].tolist())
            used |= set(batch.target_mod[i][batch.target_valid[i]].tolist())
            names = {training.SPECS[m].name for m in used}
            assert names <= set(datasets[dataset].modalities)
            assert batch.input_valid[i].any() or batch.target_valid[i].any()
        shown = [key[:4] == "set2" for key in batch.keys]
        assert not batch.values["rgb"][shown].any()
    batches.close()
    assert [round(seen[f"set{i}"] / 200, 1) for i in range(3)] == [0.6, 0.2, 0.2]


def test_datasets_have_mixtures_and_repeats_of_their_own(datasets: list[Dataset], tmp_path: Path) -> None:
    job = training.job(tmp_path / "job")
    own = [ResolvedMixture({"rgb": 1.0}, {"tok_rgb": 1.0}), ResolvedMixture({"tok_rgb": 1.0}, {"caption": 1.0})]
    masking = replace(
        masking_config(job), mixtures=(*own, ResolvedMixture({"caption": 1.0}, {"caption": 1.0}, weight=5.0))
    )
    first, *_, last = datasets
    several = [replace(first, mixtures=range(2), repeat=3), replace(last, mixtures=range(2, 3), weight=1.0)]
    one = TokenLoader("", (), training.SPECS, masking, 5, LoaderOptions(lanes=4, buffer_rows=16), several)
    assert one.epoch_size == 3 * 20 + 12
    batches, seen = one.batches(0, 20), set()
    for _, batch in itertools.islice(batches, 6):
        for i, key in enumerate(batch.keys):
            shown, asked = ({training.SPECS[m].name for m in getattr(batch, f"{side}_mod")[i][
                getattr(batch, f"{side}_valid")[i]].tolist()} for side in ("input", "target"))  # fmt: skip
            seen.add((key[:4], *sorted(shown), "to", *sorted(asked)))
    batches.close()
    assert {("set0", "rgb", "to", "tok_rgb"), ("set0", "tok_rgb", "to", "caption")} <= seen
    assert {row[1:] for row in seen if row[0] == "set2"} <= {("caption", "to", "caption"), ("caption", "to"),
                                                            ("to", "caption")}  # fmt: skip
    assert not any("caption" in row[: row.index("to")] for row in seen if row[0] == "set0")


def test_a_dataset_that_no_mixture_serves_is_refused(datasets: list[Dataset], tmp_path: Path) -> None:
    masking = masking_config(training.job(tmp_path / "job"))
    with pytest.raises(ValueError, match="none of the masking's mixtures is for this dataset"):
        TokenLoader("", (), training.SPECS, masking, 5, LoaderOptions(), [replace(datasets[0], mixtures=range(0))])


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_a_blend(datasets: list[Dataset], tmp_path: Path, world: int) -> None:
    def keys(rank: int, world: int) -> list[list[str]]:
        batches = loader(datasets, tmp_path).batches(2, 8, rank, world)
        keys = [batch.keys for _, batch in itertools.islice(batches, 5)]
        batches.close()
        return keys

    alone = keys(0, 1)
    together = [keys(rank, world) for rank in range(world)]
    for step, keys in enumerate(alone):
        assert Counter(keys) == Counter(key for rank in together for key in rank[step])


def test_stores_number_their_groups_through(datasets: list[Dataset]) -> None:
    stores = Stores(datasets, training.SPECS)
    assert stores.group_rows == (20, 40, 12)
    text = stores.read(2, np.zeros(1, np.uint64))
    assert text.shard == "set2" and list(text.columns["caption"].keys) == list(text.columns["rgb"].keys)
    for spec in training.SPECS:
        column = text.columns[spec.name]
        assert len(column) == 12 and column.valid.all() == (spec.name == "caption")
        if spec.name != "caption":
            assert not column.lengths.any() and column.sample(3) is None
            assert column.values.dtype == (np.uint8 if spec.kind is Kind.PIXELS else np.uint16)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    lanes=st.sampled_from([1, 2, 4, 8]),
    sizes_of_run=st.sampled_from([(1, 4), (3, 3), (3, 12), (4, 8), (5, 40)]),
    ahead=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=50)
def test_row_groups_are_cached_over_many_epochs(
    sizes: list[int], lanes: int, sizes_of_run: tuple[int, int], ahead: int, seed: int
) -> None:
    """Small datasets come round again in the middle of a batch, with sizes that lanes and ranks do not divide. As the
    loader does: blocks are wanted some batches ahead, begun, and read."""
    world, batch = sizes_of_run
    weights = [1.0, 9.0, 0.5][: len(sizes)]
    orders = [Order((size, 2 * size), seed, lanes, buffer_rows=16, repeat=1 + i) for i, size in enumerate(sizes)]
    order = Blend(orders, weights, seed) if len(sizes) > 1 else orders[0]

    def read(visit: tuple[int, int]) -> Any:
        return visit

    with ThreadPoolExecutor(1) as pool:
        cache = GroupCache(read, pool)
        for step in range(ahead):
            cache.want(order.blocks(rank_positions(step * batch, batch, 0, world)))
        for step in range(400 // batch):
            cache.want(order.blocks(rank_positions((step + ahead) * batch, batch, 0, world)))
            positions = rank_positions(step * batch, batch, 0, world)
            cache.begin(order.blocks(positions))
            places = order.locate(positions)
            for visit in zip(places.groups.tolist(), places.epochs.tolist(), strict=True):
                assert cache.get(visit) == visit


# the law of the loader, for one dataset and for several


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(0, 4)), min_size=1, max_size=8),
    st.booleans(),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_a_blend_continues_on_any_ranks(attempts: list[tuple[int, int]], several: bool, seed: int) -> None:
    """Each attempt has a number of ranks and dies some steps after its checkpoint; one step in two is a checkpoint.

    What was trained on between checkpoints that count is the sequence from its beginning, none twice, none missing.
    """
    batch = 12
    order = blend([29, 50], [2.0, 1.0], seed) if several else Order((29, 50), seed, lanes=4, buffer_rows=16)
    kept: list[tuple[int, int]] = []
    step = 0
    for world, steps in attempts:
        done = []
        for s in range(step, step + steps):
            parts = [order.locate(rank_positions(s * batch, batch, rank, world)) for rank in range(world)]
            done.append([pair for at in parts for pair in zip(at.groups.tolist(), at.rows.tolist(), strict=True)])
        survived = (step + steps) // 2 * 2 - step
        for rows in done[: max(survived, 0)]:
            kept += rows
        step += max(survived, 0)
    groups, rows, *_ = order.locate(np.arange(step * batch))
    assert Counter(kept) == Counter(zip(groups.tolist(), rows.tolist(), strict=True))
    if not several:
        times = Counter(kept)
        everywhere = [times[group, row] for group, size in enumerate((29, 50)) for row in range(size)]
        assert max(everywhere) - min(everywhere) <= 1, "an epoch has every row once"
