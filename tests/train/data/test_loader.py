"""The loader, on a small store whose tokens say which sample and crop they belong to."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.batch import PackedBatch
from fourmill.tokenize.store import ColumnSpec, encode_column
from fourmill.train.data.groups import RowGroup, ShardRows
from fourmill.train.data.loader import LoaderOptions, TokenLoader
from fourmill.train.data.order import rank_positions
from fourmill.train.data.samples import decode_patches
from fourmill.train.masking.masking import MaskingConfig, ResolvedMixture

RGB, GRID, TEXT, T5 = range(4)
SPECS = [
    ModalitySpec("rgb", Kind.PIXELS, 0, 4, input_dim=48),
    ModalitySpec("tok_rgb", Kind.GRID, 1000, 4),
    ModalitySpec("caption", Kind.SEQUENCE, 9000, 6),
    ModalitySpec("t5_caption", Kind.EMBEDDING, 0, 3, input_dim=2),
]
COLUMNS = [
    ColumnSpec("rgb", Kind.PIXELS, crops=2, length=8),
    ColumnSpec("tok_rgb", Kind.GRID, crops=2, length=4, vocab_size=1000),
    ColumnSpec("caption", Kind.SEQUENCE, crops=1, length=8, vocab_size=9000),
    ColumnSpec("t5_caption", Kind.EMBEDDING, crops=1, length=3, dim=2),
]
ALPHAS = {"rgb": 1.0, "tok_rgb": 1.0, "caption": 1.0, "t5_caption": 1.0}
MASKING = MaskingConfig((10, 12), (5, 6), (ResolvedMixture(ALPHAS, {"tok_rgb": 1.0, "caption": 1.0}),))
SHARDS = [ShardRows("00000", 20), ShardRows("00001", 8), ShardRows("00002", 0), ShardRows("00003", 5)]
TOTAL = 33
NULLS = {(GRID, 3), (TEXT, 4), (T5, 4), (RGB, 5), (RGB, 6), (GRID, 6), (TEXT, 6), (T5, 6)}  # sample 6 has nothing
OPTIONS = LoaderOptions(lanes=4, buffer_rows=16, threads=2, read_ahead=2)


@pytest.fixture(autouse=True)
def small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourmill.tokenize.store.ROW_GROUP", 8)
    monkeypatch.setattr("fourmill.train.data.groups.ROW_GROUP", 8)


def image_of(sample: int, crop: int) -> np.ndarray:
    """uint8 (8, 8, 3) RGB: sample, crop, and the number of the pixel."""
    image = np.empty((8, 8, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = sample, crop, np.arange(64).reshape(8, 8)
    return image


def row_of(m: int, sample: int) -> Any:
    if (m, sample) in NULLS:
        return None
    if m == RGB:
        return [cv2.imencode(".png", image_of(sample, c)[..., ::-1])[1].tobytes() for c in range(2)]
    if m == GRID:
        return np.array([[sample * 8 + crop * 4 + i for i in range(4)] for crop in range(2)], np.uint16)
    if m == TEXT:
        return [np.array([1000 + 10 * sample + i for i in range(sample % 8)] + [3], np.uint16)]
    return np.full((1, sample % 3 + 1, 2), sample, np.float16)


def write(root: Path, changes: dict[tuple[int, str], dict[str, Any]] | None = None) -> None:
    """All columns; `changes` replaces spec, keys or rows of one modality and shard."""
    begin = 0
    for shard in SHARDS:
        samples = range(begin, begin := begin + shard.rows)
        for m, spec in enumerate(COLUMNS):
            column = {"spec": spec, "keys": [f"k{s}" for s in samples], "rows": [row_of(m, s) for s in samples]}
            column |= (changes or {}).get((m, shard.name), {})
            path = root / spec.modality / f"{shard.name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_column(**column))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def loader(
    root: Path, masking: MaskingConfig = MASKING, options: LoaderOptions = OPTIONS, seed: int = 5
) -> TokenLoader:
    return TokenLoader(str(root), SHARDS, SPECS, masking, seed, options)


def take(batches: Iterator[tuple[int, PackedBatch]], count: int) -> list[tuple[int, PackedBatch]]:
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def described(batch: PackedBatch) -> list[tuple[Any, ...]]:
    """Each sample as a hashable value: key, inputs, targets, raw values."""
    fields = [v for k, v in vars(batch).items() if k not in ("values", "keys", "outputs")] + list(batch.values.values())
    return [(key, *(field[i].tobytes() for field in fields)) for i, key in enumerate(batch.keys)]


def test_batches_hold_the_samples_tokens(root: Path) -> None:
    crops = Counter()
    for _, b in take(loader(root).batches(0, 8), 20):
        assert b.input_ids.shape == (8, 12) and b.target_ids.shape == (8, 6)
        assert b.values["rgb"].shape == (8, 4, 48) and b.values["rgb"].dtype == np.uint8
        assert b.values["t5_caption"].shape == (8, 4, 2) and b.values["t5_caption"].dtype == np.float16
        for i, key in enumerate(b.keys):
            sample = int(key[1:])
            into = [b.input_valid[i] & (b.input_mod[i] == m) for m in range(4)]
            out = [b.target_valid[i] & (b.target_mod[i] == m) for m in range(4)]
            for m in range(4):
                assert not ((m, sample) in NULLS and (into[m].any() or out[m].any()))
            ids = np.r_[b.input_ids[i][into[GRID]], b.target_ids[i][out[GRID]]]
            at = np.r_[b.input_pos[i][into[GRID]], b.target_pos[i][out[GRID]]]
            crop = set(((ids - at - 8 * sample) // 4).tolist())
            if into[RGB].any():
                image = image_of(sample, int(b.values["rgb"][i, 0, 1]))
                patches = [image[y : y + 4, x : x + 4].reshape(-1) for y in (0, 4) for x in (0, 4)]
                np.testing.assert_array_equal(b.values["rgb"][i], patches)
                crop.add(int(b.values["rgb"][i, 0, 1]))
            else:
                assert not b.values["rgb"][i].any()
            assert len(crop) <= 1 and crop <= {0, 1}, "all modalities show the same crop"
            crops.update(crop)
            words = np.r_[b.input_ids[i][into[TEXT]], b.target_ids[i][out[TEXT]]]
            assert set(words[words >= 1000].tolist()) <= {1000 + 10 * sample + j for j in range(min(sample % 8, 6))}
            vectors = b.values["t5_caption"][i][b.input_ids[i][into[T5]]]
            assert set(vectors.reshape(-1).tolist()) <= {0.0, float(sample)}
            assert not b.values["t5_caption"][i, 3].any()
    assert min(crops[0], crops[1]) > 20


def test_an_epoch_holds_every_sample_repeat_times(root: Path) -> None:
    repeated = loader(root, options=replace(OPTIONS, repeat=4))
    assert repeated.epoch_size == 4 * TOTAL
    keys = [key for _, b in take(repeated.batches(0, 12), 11) for key in b.keys]
    assert Counter(keys) == {f"k{s}": 4 for s in range(TOTAL)}


def test_a_sample_without_tokens_still_counts(root: Path) -> None:
    for _, b in take(loader(root).batches(0, 11), 3):
        empty = ~b.input_valid.any(axis=1) & ~b.target_valid.any(axis=1)
        assert empty.tolist() == [key == "k6" for key in b.keys]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_number_of_ranks_changes_nothing(root: Path, world: int) -> None:
    """Same samples, crops, masks and pixels at each step, whether or not the ranks divide the 4 lanes."""
    alone = take(loader(root).batches(0, 12), 6)
    together = [take(loader(root).batches(0, 12, rank, world), 6) for rank in range(world)]
    for i, (step, batch) in enumerate(alone):
        parts = [described(ranks[i][1]) for ranks in together]
        assert all(ranks[i][0] == step for ranks in together) and {len(part) for part in parts} == {12 // world}
        assert Counter(described(batch)) == Counter(itertools.chain(*parts))


def test_resuming_continues(root: Path) -> None:
    whole = take(loader(root).batches(0, 8), 9)
    rest = take(loader(root).batches(6, 8), 3)
    assert [step for step, _ in rest] == [6, 7, 8]
    assert [described(b) for _, b in rest] == [described(b) for _, b in whole[6:]]
    assert [described(b) for _, b in whole[:3]] != [
        described(b) for _, b in take(loader(root, seed=6).batches(0, 8), 3)
    ]


@given(
    runs=st.lists(
        st.tuples(st.sampled_from([(1, 1), (6, 3), (8, 2), (20, 4), (15, 5)]), st.integers(0, 3)), max_size=5
    ),
    lanes=st.sampled_from([1, 2, 3, 8]),
    together=st.sampled_from([1, 10, 64]),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_samples_are_the_same_for_any_batch_and_ranks(
    root: Path, runs: list[tuple[tuple[int, int], int]], lanes: int, together: int, seed: int
) -> None:
    """Runs of other batch sizes on other numbers of ranks, one after another: no sample is lost or comes twice, and
    each has the crop, mask and raw inputs that it has for one reader of one sample at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fourmill.train.data.loader._SAMPLES_TOGETHER", together)
        one = loader(root, options=replace(OPTIONS, lanes=lanes), seed=seed)
        total = sum(size * steps for (size, _), steps in runs)
        straight = [sample for _, b in take(one.batches(0, 1), total) for sample in described(b)]
        done = 0
        for (size, world), steps in runs:
            ranks = [take(one.batches(0, size, rank, world, start_sample=done), steps) for rank in range(world)]
            seen = Counter(sample for batches in ranks for _, b in batches for sample in described(b))
            assert seen == Counter(straight[done : done + size * steps])
            done += size * steps


@given(
    size=st.sampled_from([12, 24, 120]),
    world=st.sampled_from([1, 3, 4]),
    shape=st.sampled_from([{}, {"lanes": 1}, {"buffer_rows": 200, "repeat": 2}, {"lanes": 3, "buffer_rows": 4}]),
)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_row_groups_are_read_ahead_once_for_a_block(root: Path, size: int, world: int, shape: dict[str, int]) -> None:
    """None that is still needed is dropped and read again, on small and large batches; none waits for its reading."""
    one = loader(root, options=replace(OPTIONS, **shape))
    reads: Counter[int] = Counter()
    read = one.store.read

    def counted(group: int, draws: np.ndarray) -> RowGroup:
        reads[group] += 1
        return read(group, draws)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.store, "read", counted)
        patch.setattr("fourmill.train.data.loader._SAMPLES_TOGETHER", 16)
        steps = max(1, one.epoch_size // size)
        take(one.batches(0, size, 0, world), steps)
    blocks = Counter(
        (block.lane, block.number, group)
        for block in one.order.blocks(rank_positions(0, (steps + 200) * size, 0, world))
        for group, _ in block.visits
    )
    assert set(blocks.values()) == {1}
    for group, times in reads.items():
        assert times <= sum(g == group for _, _, g in blocks), "at most once for each block that reads from it"


def test_only_what_is_shown_is_decoded(tmp_path: Path) -> None:
    broken = [[b"no image", b"no image"]] * 20
    write(tmp_path, {(RGB, "00000"): {"rows": broken}})
    without = replace(MASKING, mixtures=(ResolvedMixture({"tok_rgb": 1.0, "caption": 1.0}, {"tok_rgb": 1.0}),))
    assert len(take(loader(tmp_path, without).batches(0, 8), 5)) == 5
    with pytest.raises(ValueError, match=r"shard 00000, sample 'k\d+', rgb: 8 bytes are no image"):
        take(loader(tmp_path).batches(0, 8), 5)


def spec_of(m: int, **fields: Any) -> dict[str, Any]:
    return {"spec": replace(COLUMNS[m], **fields), "rows": [None] * 20}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {(TEXT, "00000"): {"keys": [f"x{i}" for i in range(20)]}},
            "shard 00000: the keys of caption differ from those of rgb",
        ),
        (
            {(GRID, "00000"): spec_of(GRID, vocab_size=2000)},
            "00000, tok_rgb: token ids go to 2000, .* vocabulary has 1000",
        ),
        (
            {(GRID, "00000"): spec_of(GRID, length=9)},
            "00000, tok_rgb: the file has 9 tokens of each crop, .* expects 4",
        ),
        ({(RGB, "00000"): spec_of(RGB, length=16)}, "00000, rgb: crops have 16 px, the model expects 8 px"),
        ({(T5, "00000"): spec_of(T5, dim=5)}, "00000, t5_caption: vectors have 5 numbers, the model expects 2"),
        ({(GRID, "00000"): spec_of(GRID, crops=3)}, "00000: columns have different numbers of crops"),
        ({(GRID, "00000"): spec_of(GRID, modality="tok_depth")}, "00000, tok_rgb: .* grid of tok_depth"),
        ({(GRID, "00000"): {"keys": [], "rows": []}}, "00000, tok_rgb: the file has 0 samples, the ledger says 20"),
    ],
)
def test_wrong_stores_are_named(tmp_path: Path, changes: dict[tuple[int, str], dict[str, Any]], message: str) -> None:
    write(tmp_path, changes)
    with pytest.raises(ValueError, match=message):
        take(loader(tmp_path).batches(0, 8), 5)


def test_missing_columns_are_named(root: Path) -> None:
    (root / "caption" / "00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"shard 00001 has no caption tokens \(.*00001.parquet\); tokenize"):
        take(loader(root).batches(0, 8), 5)


def test_threads_end_with_the_iterator(root: Path) -> None:
    before = threading.active_count()
    batches = loader(root).batches(0, 4)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_wrong_arguments(root: Path) -> None:
    with pytest.raises(ValueError, match="batch size 9 does not divide among 2 ranks"):
        loader(root).batches(0, 9, 0, 2)
    with pytest.raises(ValueError, match=r"loader.threads: got 0"):
        loader(root, options=replace(OPTIONS, threads=0))
    with pytest.raises(ValueError, match=r"\['x'\] are not among"):
        loader(root, replace(MASKING, mixtures=(ResolvedMixture({"x": 1.0}, ALPHAS),)))


def test_images_of_another_size_are_refused() -> None:
    data = cv2.imencode(".png", np.zeros((6, 8, 3), np.uint8))[1]
    with pytest.raises(ValueError, match=r"got an image of \(6, 8\), expected 8 x 8 px"):
        decode_patches(data, SPECS[RGB])


def test_mixtures_are_drawn_in_their_part_of_the_run(root: Path) -> None:
    early = ResolvedMixture({"rgb": 1.0}, {"tok_rgb": 1.0}, during=(0.0, 0.25))
    late = ResolvedMixture({"tok_rgb": 1.0}, {"caption": 1.0}, during=(0.25, 1.0))
    masking = replace(MASKING, mixtures=(early, late), redistribute=False)

    def shown(samples: int | None, start: int = 0) -> list[bool]:
        """Whether each of 10 batches of 8 shows RGB."""
        batches = take(loader(root, masking, replace(OPTIONS, samples=samples)).batches(start, 8), 10)
        return [bool((np.asarray(b.input_mod)[np.asarray(b.input_valid)] == RGB).any()) for _, b in batches]

    assert shown(160) == [True] * 5 + [False] * 5
    assert shown(160, start=3) == [True] * 2 + [False] * 8  # by the place in the run, not by when it began
    assert shown(80, start=20) == [False] * 10  # past the end: the mixtures of the end
    assert shown(None) == [False] * 10  # validation
