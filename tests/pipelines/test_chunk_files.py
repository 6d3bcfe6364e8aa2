"""Chunks as files: rows come out of them as they were, damage is found, and all that looks at a root knows them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import data
from fourmill_tests.engine import Dead
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fourmill import recipe as recipes
from fourmill.modalities import Kind
from fourmill.pipelines import chunk_files
from fourmill.pipelines.removal import removal
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.classical.canny import Canny
from fourmill.pipelines.worker.chunks import Part, gaps, joined
from fourmill.pipelines.worker.rows import Rows
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.report import prune
from fourmill.report.check import check
from fourmill.tokenize import store
from fourmill.tokenize.store import ColumnSpec
from fourmill.verbs.look import status

ROOTS = itertools.count()


SPECS = {
    Kind.GRID: ColumnSpec("tok_x", Kind.GRID, 2, 3, vocab_size=9),
    Kind.SEQUENCE: ColumnSpec("caption", Kind.SEQUENCE, 2, 5, vocab_size=9),
    Kind.PIXELS: ColumnSpec("rgb", Kind.PIXELS, 2, 5),
    Kind.EMBEDDING: ColumnSpec("t5_caption", Kind.EMBEDDING, 1, 4, dim=3),
}
IDS = st.integers(0, 8)
ROWS = {
    Kind.GRID: arrays.arrays(np.uint16, (2, 3), elements=IDS),
    Kind.SEQUENCE: st.lists(arrays.arrays(np.uint16, st.integers(1, 5), elements=IDS), min_size=2, max_size=2),
    Kind.PIXELS: st.lists(st.binary(min_size=1, max_size=9), min_size=2, max_size=2),
    Kind.EMBEDDING: arrays.arrays(np.float16, st.tuples(st.just(1), st.integers(1, 4), st.just(3))),
}


@settings(max_examples=60)
@given(kind=st.sampled_from(list(SPECS)), data_=st.data())
def test_columns_of_rows_that_were_in_chunks_are_the_same_bytes(kind: Kind, data_: st.DataObject) -> None:
    spec, folder = SPECS[kind], f"memory://chunks-{next(ROOTS)}"
    rows = data_.draw(st.lists(st.none() | ROWS[kind], max_size=12))
    keys = [f"k{i}" for i in range(len(rows))]
    cuts = sorted({0, len(rows), *data_.draw(st.lists(st.integers(0, len(rows)), max_size=3))})
    again: list[Any] = []
    for start, stop in itertools.pairwise(cuts):
        fields = {f"tokens/x/{n}": a for n, a in store.arrays(spec, keys[start:stop], rows[start:stop]).items()}
        place = chunk_files.write(folder, "s", start, chunk_files.Chunk(keys[start:stop], {}, {}, {}, fields))
        read = chunk_files.read(folder, place)
        assert list(read.keys) == keys[start:stop]
        again += store.samples(spec, read.keys, {name.rpartition("/")[2]: of for name, of in read.fields.items()})
    assert store.encode_column(spec, keys, again) == store.encode_column(spec, keys, rows)


def test_every_damage_of_a_chunk_is_found(tmp_path: Path) -> None:
    fields = store.arrays(SPECS[Kind.PIXELS], ["a", "b"], [[b"abc", b"d"], None])
    chunk = chunk_files.Chunk(["a", "b"], {"x": "y"}, {"x": "z"}, {"x": []}, {f"x/{n}": a for n, a in fields.items()})
    place = chunk_files.write(str(tmp_path), "s", 4, chunk)
    assert chunk_files.place_of(place.path) == place and place[:3] == ("s", 4, 6)
    path = tmp_path / place.path
    whole = path.read_bytes()
    expected = chunk_files.read(str(tmp_path), place)
    for at in range(0, len(whole), 3):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                assert chunk_files.read(str(tmp_path), place) == expected
            except ValueError:
                continue
    path.write_bytes(whole)
    other = place._replace(start=0, stop=2)
    path.rename(tmp_path / other.path)  # as another's, whose rows these are not
    assert chunk_files.read(str(tmp_path), other).keys == expected.keys


@given(bounds=st.sets(st.integers(0, 20), max_size=6), count=st.integers(0, 20))
def test_parts_and_the_gaps_between_them_are_the_shard(bounds: set[int], count: int) -> None:
    def part(rows: range) -> Part:
        return Part(rows.start, {"x": Rows(list(rows))}, [f"{row}" for row in rows])

    cuts = sorted({min(bound, count) for bound in bounds})
    parts = [part(range(*pair)) for pair in zip(cuts[::2], cuts[1::2], strict=False)]
    parts += [part(gap) for gap in gaps(list(parts), count)]
    whole = joined(parts[::-1], ["x"])
    assert whole.rows["x"].values == list(range(count)) and whole.keys == [f"{row}" for row in range(count)]


def test_rows_that_lack_or_are_there_twice_are_not_joined() -> None:
    for starts in ((0, 3), (0, 1)):
        with pytest.raises(ValueError, match="missing, or there twice"):
            joined([Part(start, {"x": Rows()}, ["a", "b"]) for start in starts], ["x"])


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recipe:
    """A root in which a shard of twelve was stopped in its third batch of four, an hour and more ago."""
    recipe = data.recipe(
        tmp_path / "out", data.good_shards(tmp_path / "s", 1, 12), modalities=["rgb"], generate__chains=[],
        labels__keep=["canny_edge", "caption"], engine__chunk_seconds=0.0,
    )  # fmt: skip
    call = Canny.__call__

    def dying(specialist: Canny, items: Sequence[Item]) -> list[Any]:
        if any(item.key == "000009" for item in items):
            raise Dead
        return call(specialist, items)

    with monkeypatch.context() as patch:
        patch.setattr(Canny, "__call__", dying)
        with pytest.raises(Dead):
            data.make(recipe, data.outputs(recipe))
    Path(recipe.root, "recipe.yaml").write_text(recipes.dump(recipe))
    for path in Path(recipe.root).rglob("chunks/*/*"):
        os.utime(path, (4e8, 4e8))
    return recipe


def chunks_of(recipe: Recipe) -> list[chunk_files.Place]:
    return chunk_files.of_shard(recipe.root, "train-00000")


def test_status_says_what_is_there(stopped: Recipe) -> None:
    said = status.describe(Project(stopped))["missing"]["shard train-00000"]
    assert said.endswith("; 8 of its samples are in chunks, from which the next run goes on")


def test_check_keeps_what_the_next_run_goes_on_from(stopped: Recipe) -> None:
    first, second = chunks_of(stopped)
    path = Path(stopped.root, second.path)
    path.write_bytes(path.read_bytes()[:-1])
    os.utime(path, (4e8, 4e8))
    checked = check.check(stopped.root)
    assert not checked.broken
    whys = {finding.what: finding.why for finding in checked.findings}
    assert "rows 0 to 4 of a shard that is not done" in whys[first.path] and "damaged" in whys[second.path]
    assert check.repair(checked) == [second.path] and chunks_of(stopped) == [first]
    content = Path(stopped.root, first.path).read_bytes()
    data.make(stopped, data.outputs(stopped))
    assert not chunks_of(stopped)
    left = Path(stopped.root, first.path)  # by a worker that was thought dead
    left.parent.mkdir(parents=True)
    left.write_bytes(content)
    os.utime(left, (4e8, 4e8))
    checked = check.check(stopped.root)
    assert [finding.why for finding in checked.findings] == ["rows of a shard that is done"]
    assert check.repair(checked) == [first.path]


def test_prune_takes_what_no_recipe_asks_for(stopped: Recipe) -> None:
    assert not prune.unasked([Project(stopped)]).found
    asked = stopped.model_dump(mode="json")
    asked["labels"]["keep"], asked["images"]["max_pixels"] = ["color_palette"], 99_999
    others = Project(recipes.parse(asked))
    assert not prune.unasked([Project(stopped), others]).found
    (found,) = prune.unasked([others]).found
    assert found.what == "chunks/train-00000" and found.files == 2 and found.bytes > 0
    prune.delete(stopped.root, found)
    assert not Path(stopped.root, "chunks").exists()


def test_a_removal_reaches_them(stopped: Recipe) -> None:
    _, second = chunks_of(stopped)
    outcome = removal.run(stopped.root, ["000002"], [], {}, "/tmp")
    assert outcome.found == {"train-00000": {"000002"}} and chunks_of(stopped) == [second] and not outcome.unknown
    records = {record.output: record for record in data.make(stopped, data.outputs(stopped))}
    assert records["labels/canny_edge"].rejects == [{"key": "000002", "reason": "removed"}]
