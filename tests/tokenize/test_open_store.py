"""The token store as code outside fourmill reads it: what is listed, what arrays and items hold, what is refused."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fourmill_tests import roots, training
from torch.utils.data import DataLoader

from fourmill.modalities import Kind
from fourmill.tokenize.open_store import open_store
from fourmill.tokenize.store import ColumnSpec, encode_column

ROWS = {"a": 1030, "b": 5}  # two row groups, and one
SPECS = {
    "rgb": ColumnSpec("rgb", Kind.PIXELS, 2, 8),
    "tok_rgb": ColumnSpec("tok_rgb", Kind.GRID, 2, 4, vocab_size=50),
    "caption": ColumnSpec("caption", Kind.SEQUENCE, 1, 6, vocab_size=90),
    "t5_caption": ColumnSpec("t5_caption", Kind.EMBEDDING, 1, 3, dim=2),
}


def row(spec: ColumnSpec, number: int) -> list:
    """Tokens of both crops, or of the one, that follow from the number; None for every fifth sample."""
    if number % 5 == 4:
        return None
    rng = np.random.default_rng(number)
    if spec.kind is Kind.PIXELS:
        pictures = rng.integers(0, 256, (spec.crops, 8, 8, 3), np.uint8)
        return [cv2.imencode(".png", picture)[1].tobytes() for picture in pictures]
    if spec.kind is Kind.EMBEDDING:
        return rng.standard_normal((1, 1 + number % 3, 2)).astype(np.float16)
    if spec.kind is Kind.SEQUENCE:
        return [rng.integers(1, 90, 1 + number % 6).astype(np.uint16)]
    return rng.integers(0, 50, (spec.crops, 4)).astype(np.uint16)


def write(folder: Path, spec: ColumnSpec, shard: str, key: str = "{}-{}") -> None:
    keys = [key.format(shard, i) for i in range(ROWS[shard])]
    path = folder / spec.modality / f"{shard}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_column(spec, keys, [row(spec, i) for i in range(ROWS[shard])]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Columns without a ledger; the caption has no shard b."""
    folder = tmp_path_factory.mktemp("columns")
    for spec in SPECS.values():
        for shard in ROWS:
            if (spec.modality, shard) != ("caption", "b"):
                write(folder, spec, shard)
    (folder / "notes.txt").write_text("no column")
    return folder


def test_columns_are_listed(folder: Path) -> None:
    store = open_store(folder)
    assert store.modalities == ("caption", "rgb", "t5_caption", "tok_rgb")
    assert store.columns["caption"] == ("a",) and store.columns["rgb"] == ("a", "b")
    assert store.shards() == ("a",) and store.shards(["rgb", "tok_rgb"]) == ("a", "b") and store.shards([]) == ()
    assert store.spec("tok_rgb") == SPECS["tok_rgb"]


def test_only_committed_columns_of_a_root_count(tmp_path: Path) -> None:
    for shard in ("x", "y", "z"):
        training.write_columns(tmp_path, shard, 3, specs=training.SPECS[1:2])
    for shard in ("x", "y"):
        roots.commit(tmp_path, "tok_rgb", shard, 3)
    (tmp_path / "tokens" / "tok_rgb" / "y.parquet").unlink()
    assert open_store(str(tmp_path)).columns == {"tok_rgb": ("x",)}


def test_no_columns_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokens" / "tok_rgb").mkdir(parents=True)
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"{place}: there are no columns; expected a root"):
            open_store(place)


@pytest.mark.parametrize("name", SPECS)
def test_columns_hold_what_was_written(folder: Path, name: str) -> None:
    column = open_store(folder).column(name, "a")
    assert len(column) == ROWS["a"] and column.keys[7].as_py() == "a-7" and column.values.dtype == SPECS[name].dtype
    assert np.array_equal(column.valid, np.arange(ROWS["a"]) % 5 != 4)
    expected = row(SPECS[name], 1027)
    for crop in range(SPECS[name].crops):
        got = column.crop(1027, crop)
        assert got.tobytes() == expected[crop] if name == "rgb" else np.array_equal(got, expected[crop])


@pytest.mark.parametrize("crop", [0, 1])
@pytest.mark.parametrize(("index", "number"), [(0, 0), (1023, 1023), (1024, 1024), (1029, 1029), (1030, 0), (-1, 4)])
def test_items_are_the_samples_in_order(folder: Path, index: int, number: int, crop: int) -> None:
    dataset = open_store(folder).dataset(["tok_rgb", "rgb", "t5_caption"], crop=crop)
    assert len(dataset) == 1035
    item, shard = dataset[index], "a" if 0 <= index < 1030 else "b"
    assert (item["key"], item["shard"]) == (f"{shard}-{number}", shard)
    known = number % 5 != 4
    assert item["valid"] == dict.fromkeys(("tok_rgb", "rgb", "t5_caption"), known)
    grid = torch.full((4,), -1)
    picture, vectors = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 2, dtype=torch.float16)
    if known:
        grid = torch.from_numpy(row(SPECS["tok_rgb"], number)[crop].astype(np.int64))
        decoded = cv2.imdecode(np.frombuffer(row(SPECS["rgb"], number)[crop], np.uint8), cv2.IMREAD_COLOR)
        picture = torch.from_numpy(decoded[:, :, ::-1].copy()).permute(2, 0, 1)
        some = row(SPECS["t5_caption"], number)[0]
        vectors[: len(some)] = torch.from_numpy(some)
    for name, expected in (("tok_rgb", grid), ("rgb", picture), ("t5_caption", vectors)):
        assert item[name].dtype == expected.dtype and torch.equal(item[name], expected)


def test_sequences_are_padded_with_minus_one(folder: Path) -> None:
    dataset = open_store(folder).dataset(["caption"])
    assert torch.equal(dataset[4]["caption"], torch.full((6,), -1))
    text = row(SPECS["caption"], 2)[0].tolist()
    assert dataset[2]["caption"].tolist() == [*text, *[-1] * (6 - len(text))]


def test_iteration_ends(folder: Path) -> None:
    dataset = open_store(folder).dataset(["tok_rgb"], shards=["b"])
    assert [item["key"] for item in dataset] == [f"b-{i}" for i in range(5)]
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"{index} of 5 samples"):
            dataset[index]


def test_a_loader_with_workers_batches_items(folder: Path) -> None:
    loader = DataLoader(open_store(folder).dataset(["tok_rgb", "caption"]), batch_size=515, num_workers=1)
    batches = list(loader)
    assert [len(batch["key"]) for batch in batches] == [515, 515]
    assert batches[1]["tok_rgb"].shape == (515, 4) and batches[1]["valid"]["caption"].sum() == 412


def test_datasets_are_sent_without_what_they_read(folder: Path) -> None:
    dataset = open_store(folder).dataset(["tok_rgb"])
    size = len(pickle.dumps(dataset))
    first = dataset[3]["tok_rgb"]
    data = pickle.dumps(dataset)
    assert len(data) == size and torch.equal(pickle.loads(data)[3]["tok_rgb"], first)


def test_wrong_names_are_refused(folder: Path) -> None:
    store = open_store(folder)
    with pytest.raises(ValueError, match="there is no modality 'tok_rbg'; there are caption, rgb"):
        store.spec("tok_rbg")
    with pytest.raises(ValueError, match="caption has no shard 'b'; it has a"):
        store.column("caption", "b")
    with pytest.raises(ValueError, match="caption has no shard 'b'"):
        store.dataset(["rgb", "caption"], shards=["a", "b"])
    with pytest.raises(ValueError, match="no shard has all of rgb"):
        store.dataset(["rgb"], shards=[])
    for names, crop in ((["rgb", "caption"], 2), (["caption"], 1), (["rgb"], -1)):
        with pytest.raises(ValueError, match=f"there is no crop {crop}"):
            store.dataset(names, crop=crop)


def test_shards_of_two_kinds_are_no_dataset(tmp_path: Path) -> None:
    write(tmp_path, SPECS["tok_rgb"], "a")
    write(tmp_path, replace(SPECS["tok_rgb"], tokenizer="another"), "b")
    with pytest.raises(ValueError, match=r"tok_rgb of shard b is .*another.*, that of a is .*; tokenize both"):
        open_store(tmp_path).dataset(["tok_rgb"])


def test_columns_of_unlike_keys_are_refused(tmp_path: Path) -> None:
    write(tmp_path, SPECS["tok_rgb"], "b")
    write(tmp_path, SPECS["caption"], "b", key="other-{}-{}")
    with pytest.raises(ValueError, match=r"row 2 of shard b has the keys .*other-b-2"):
        open_store(tmp_path).dataset(["tok_rgb", "caption"])[2]


def test_what_is_no_picture_names_the_sample(tmp_path: Path) -> None:
    spec = replace(SPECS["rgb"], length=16)
    write(tmp_path, spec, "b")
    with pytest.raises(ValueError, match="rgb of b-0: expected a picture of 16 x 16 px"):
        open_store(tmp_path).dataset(["rgb"])[0]
