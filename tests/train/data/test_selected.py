"""The loader on selected rows: all of them are as none selected; of some each comes once an epoch, and no other."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourmill.modalities import Kind, ModalitySpec
from fourmill.tokenize.store import ColumnSpec, encode_column
from fourmill.train.data.blend import Dataset
from fourmill.train.data.groups import RowGroup, ShardRows, TokenStore
from fourmill.train.data.loader import LoaderOptions, TokenLoader
from fourmill.train.masking.masking import MaskingConfig, ResolvedMixture

SIZES = {"00000": 20, "00001": 8, "00002": 0, "00003": 5}
SPECS = [ModalitySpec("tok_rgb", Kind.GRID, 1000, 4), ModalitySpec("caption", Kind.SEQUENCE, 9000, 6)]
ALPHAS = {"tok_rgb": 1.0, "caption": 1.0}
MASKING = MaskingConfig((4, 4), (4, 4), (ResolvedMixture(ALPHAS, ALPHAS),))
OPTIONS = LoaderOptions(lanes=2, buffer_rows=8, threads=1, prefetch=1, read_ahead=1)
GROUP = 8


@pytest.fixture(autouse=True)
def small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourmill.tokenize.store.ROW_GROUP", GROUP)
    monkeypatch.setattr("fourmill.train.data.groups.ROW_GROUP", GROUP)


@pytest.fixture
def root(tmp_path: Path) -> str:
    for name, rows in SIZES.items():
        keys = [f"{name}-{i}" for i in range(rows)]
        grid = [np.full((1, 4), i, np.uint16) for i in range(rows)]
        text = [[np.array([1000 + i, 3], np.uint16)] for i in range(rows)]
        for spec, values in (
            (ColumnSpec("tok_rgb", Kind.GRID, crops=1, length=4, vocab_size=1000), grid),
            (ColumnSpec("caption", Kind.SEQUENCE, crops=1, length=8, vocab_size=9000), text),
        ):
            path = tmp_path / spec.modality / f"{name}.parquet"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode_column(spec=spec, keys=keys, rows=values))
    return str(tmp_path)


def shards(masks: dict[str, np.ndarray] | None) -> list[ShardRows]:
    if masks is None:
        return [ShardRows(name, rows) for name, rows in SIZES.items()]
    return [ShardRows(name, rows, selected=np.packbits(masks[name]).tobytes()) for name, rows in SIZES.items()]


def loader(root: str, masks: dict[str, np.ndarray] | None, options: LoaderOptions = OPTIONS) -> TokenLoader:
    return TokenLoader(root, shards(masks), SPECS, MASKING, 5, options)


def described(one: TokenLoader, batches: int, size: int, rank: int = 0, world: int = 1) -> list[tuple[str, bytes]]:
    made = one.batches(0, size, rank, world)
    taken = list(itertools.islice(made, batches))
    made.close()
    return [
        (key, b.input_ids[i].tobytes() + b.target_ids[i].tobytes()) for _, b in taken for i, key in enumerate(b.keys)
    ]


def every(chosen: bool) -> dict[str, np.ndarray]:
    return {name: np.full(rows, chosen) for name, rows in SIZES.items()}


def test_all_selected_is_as_none_selected(root: str) -> None:
    assert described(loader(root, every(True)), 9, 11) == described(loader(root, None), 9, 11)


def test_each_selected_sample_comes_once_an_epoch(root: str) -> None:
    rng = np.random.default_rng(3)
    masks = {name: rng.random(rows) < 0.4 for name, rows in SIZES.items()}
    masks["00000"][8:16] = False  # a row group of which nothing is selected
    wanted = {f"{name}-{i}": 1 for name, mask in masks.items() for i in np.flatnonzero(mask)}
    one = loader(root, masks)
    assert one.epoch_size == len(wanted)
    found = described(one, 3 * len(wanted), 1)
    for epoch in range(3):
        keys = [key for key, _ in found[epoch * len(wanted) : (epoch + 1) * len(wanted)]]
        assert Counter(keys) == wanted
    # The tokens are those of the keys, and any number of ranks sees the same sequence.
    for key, ids in found:
        row = int(key.rpartition("-")[2])
        shown = set(np.frombuffer(ids, np.int64).tolist()) if len(ids) % 8 == 0 else set()
        assert not {i for i in shown if 1000 <= i < 1100} - {1000 + row}
    halves = [described(loader(root, masks), len(wanted), 2, rank, 2) for rank in (0, 1)]
    assert [one for pair in zip(*halves, strict=True) for one in pair] == found[: 2 * len(wanted)]
    repeated = loader(root, masks, replace(OPTIONS, repeat=3))
    assert Counter(key for key, _ in described(repeated, 3 * len(wanted), 1)) == dict.fromkeys(wanted, 3)


def test_row_groups_without_selected_rows_are_not_read(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = every(False)
    masks["00000"][[1, 17]] = True
    read: list[int] = []
    whole = TokenStore.read

    def noted(self: TokenStore, group: int, draws: np.ndarray) -> RowGroup:
        read.append(group)
        return whole(self, group, draws)

    monkeypatch.setattr(TokenStore, "read", noted)
    described(loader(root, masks), 6, 2)
    assert set(read) == {0, 2}


def test_of_several_datasets_one_may_be_selected(root: str) -> None:
    masks = every(False)
    masks["00001"][2:4] = True
    both = [Dataset(root, tuple(shards(masks))), Dataset(root, tuple(shards(None)[3:]))]
    one = TokenLoader(root, [], SPECS, MASKING, 5, OPTIONS, both)
    keys = {key for key, _ in described(one, 40, 2)}
    assert keys == {"00001-2", "00001-3", *(f"00003-{i}" for i in range(5))}


@given(st.integers(0, 40), st.data())
def test_counts_are_those_of_the_mask(rows: int, data: st.DataObject) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), np.bool_)
    shard = ShardRows("a", rows, selected=np.packbits(mask).tobytes())
    assert shard.mask().tolist() == mask.tolist() and shard.count == mask.sum()
    counts = shard.group_counts()
    assert sum(counts) == shard.count and len(counts) == len(ShardRows("a", rows).group_counts())
