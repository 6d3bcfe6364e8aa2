"""Specialists that group by themselves: what they see together follows from the shard alone, and no label moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from fourmill_tests import data
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.pipelines.engine.job import PlaceError
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item, Specialist
from fourmill.pipelines.worker import isolate, lanes
from fourmill.pipelines.worker.lane import Shared
from fourmill.pipelines.worker.lanes import Lanes, begin_of_texts
from fourmill.pipelines.worker.sample import LabelledSample
from fourmill.pipelines.worker.shard_worker import ShardWorker
from fourmill.project import Project


class Grouping(Specialist):
    """The caption in capitals; notes what it sees together, refuses "no", and breaks at "break"."""

    label: ClassVar[str] = "det"
    needs_image: ClassVar[bool] = False
    groups: ClassVar[bool] = True
    batch_size: ClassVar[int] = 2
    seen: ClassVar[list[list[str]]] = []

    def infer(self, prepared: Any) -> Any:
        self.seen.append([item.key for item in prepared])
        if "away" in [item.caption for item in prepared]:
            raise ConnectionError("reset")
        if "break" in [item.caption for item in prepared]:
            raise RuntimeError("no such word")
        return prepared

    def finish(self, items: Sequence[Item], inferred: Any) -> list[Any]:
        return [Reject("det: no") if item.caption == "no" else {"said": str(item.caption).upper()} for item in inferred]


class OfText(Grouping):
    label: ClassVar[str] = "metadata"
    sees_image: ClassVar[bool] = False
    seen: ClassVar[list[list[str]]] = []


class Alone(Grouping):
    label: ClassVar[str] = "human_poses"
    needs: ClassVar[tuple[str, ...]] = ("det", "metadata")
    groups: ClassVar[bool] = False
    seen: ClassVar[list[list[str]]] = []


KINDS = (Grouping, OfText, Alone)


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "WAIT_SECONDS", 0.0)


def labelled(
    captions: Sequence[str], size: int, window: int, texts: bool = True, begin: int = 0, ends: list[int] | None = None
) -> list[dict[str, Any]]:
    """What every sample has in the end.

    Args:
        begin: position of the first sample that is labelled. ends: gets the positions where windows end.
    """
    for kind in KINDS:
        kind.seen.clear()
    samples = [LabelledSample(Item(str(i), None, caption)) for i, caption in enumerate(captions)]
    batches = [samples[start : start + size] for start in range(begin, len(samples), size)]

    def read(position: int, count: int) -> list[LabelledSample]:
        return [LabelledSample(Item(s.key, None, s.item.caption)) for s in samples[position : position + count]]

    specialists, of_texts = {kind.label: kind() for kind in KINDS}, begin_of_texts(begin, size, len(samples))
    work = Lanes(specialists, Shared(lambda *_: None), window, read if texts else None, begin, of_texts)
    at = begin
    for batch, ends_window in work.windows(batches):
        assert [s.key for s in batch] == [s.key for s in samples[at : at + size]]
        at += len(batch)
        if ends is not None and ends_window:
            ends.append(at)
    assert at == len(samples)
    return [{**s.reasons, **s.item.labels} for s in samples[begin:]]


WORDS = st.lists(st.sampled_from(["a", "b", "c", "no", "break"]), max_size=14)


@settings(max_examples=30, deadline=None)
@given(captions=WORDS, size=st.integers(1, 4), window=st.integers(1, 4), most=st.integers(1, 9))
def test_labels_do_not_depend_on_windows(captions: list[str], size: int, window: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "TEXTS", most)
        assert labelled(captions, size, window) == labelled(captions, size, 1, texts=False)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 24), size=st.integers(1, 4), window=st.integers(1, 3), most=st.integers(1, 9))
def test_what_is_left_after_a_window_is_seen_together_as_ever(count: int, size: int, window: int, most: int) -> None:
    """So that a shard may be made in pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "TEXTS", most)
        ends: list[int] = []
        whole = labelled("a" * count, size, window, ends=ends)
        calls = [list(kind.seen) for kind in KINDS]
        assert ends[-1] == count
        for begin in ends[:-1]:
            assert labelled("a" * count, size, window, begin=begin) == whole[begin:]
            for kind, of_kind in zip(KINDS, calls, strict=True):
                assert kind.seen and kind.seen == of_kind[-len(kind.seen) :]


def test_who_groups_sees_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "TEXTS", 8)
    labelled("abcdefghijk", 2, 3)
    assert Grouping.seen == [list("012345"), ["6", "7", "8", "9", "10"]]
    assert OfText.seen == [list("01234567"), ["8", "9", "10"]]
    assert Alone.seen == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8", "9"], ["10"]]
    labelled("abcdefghijk", 2, 1, texts=False)
    assert Grouping.seen == OfText.seen == Alone.seen


def test_a_window_is_smaller_where_images_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(lanes, "MOST_BYTES", 9 * image.nbytes)
    Grouping.seen.clear()
    samples = [LabelledSample(Item(str(i), image, "a")) for i in range(10)]
    work = Lanes({"det": Grouping()}, Shared(lambda *_: None), 4)
    assert len(list(work.labelled([samples[i : i + 2] for i in range(0, 10, 2)]))) == 5
    assert Grouping.seen == [list("0123"), list("4567"), ["8", "9"]]


def test_a_place_that_fails_at_texts_ends_all() -> None:
    with pytest.raises(PlaceError, match="ConnectionError"):
        labelled(["a"] * 9 + ["away"], 2, 1)


def test_a_shard_worker_reads_captions_ahead(tmp_path: Any) -> None:
    """From the tar, without its images; removed and missing ones in their places."""
    (tmp_path / "bad.tar").write_bytes(data.tar(data.bad_entries()))
    place = f"{__name__}:OfText"
    recipe = data.recipe(
        tmp_path / "out", [str(tmp_path / "bad.tar")], modalities=["rgb"], generate__chains=[], engine__batch_size=3,
        labels__keep=["metadata"], labels__specialists={"metadata": {"specialist": place}},
    )  # fmt: skip
    OfText.seen.clear()
    project = Project(recipe)
    (task,) = project.plan(project.label_outputs).missing
    worker = ShardWorker(project.shard_job(project.specialists, project.label_outputs))
    worker.setup("cpu")
    records = {record.output: record for record in worker.run(task)}
    assert OfText.seen == [data.BAD_KEYS] and records["labels/metadata"].nulls == 0
