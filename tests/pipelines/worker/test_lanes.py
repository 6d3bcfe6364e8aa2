"""Specialists beside each other: they overlap, what they make is what one after the other makes, and nothing hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.pipelines.engine.job import PlaceError
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item, Specialist
from fourmill.pipelines.worker import isolate, lane, lanes
from fourmill.pipelines.worker.isolate import Ward
from fourmill.pipelines.worker.lane import Shared
from fourmill.pipelines.worker.lanes import Lanes
from fourmill.pipelines.worker.sample import LabelledSample

LOAD = 200


class Stage(Specialist):
    """Says with what its stages are called; works and fails where it is asked to.

    load: side of the matrices that each stage multiplies, while other threads go on. bad: the key at which a stage
    raises, by its name. places: the key at which it raises an error of the place.
    """

    label: ClassVar[str] = "det"
    needs_image: ClassVar[bool] = False
    batch_size: ClassVar[int] = 2
    gpus: ClassVar[float] = 1.0

    load: int = 0
    bad: dict[str, str] = {}
    places: dict[str, str] = {}

    def _at(self, stage: str, items: Sequence[Item]) -> None:
        np.ones((self.load, self.load)) @ np.ones((self.load, self.load))
        keys = [item.key for item in items]
        if self.bad.get(stage) in keys:
            raise RuntimeError(f"{stage} cannot do {self.bad[stage]}")
        if self.places.get(stage) in keys:
            raise ConnectionError("reset")

    def prepare(self, items: Sequence[Item]) -> Any:
        self._at("prepare", items)
        return list(items)

    def infer(self, prepared: Any) -> Any:
        self._at("infer", prepared)
        return [(item, len(prepared)) for item in prepared]

    def finish(self, items: Sequence[Item], inferred: Any) -> list[Any]:
        self._at("finish", items)
        assert [item for item, _ in inferred] == list(items)
        return [
            Reject("det: odd") if int(item.key) % 5 == 4 else {"key": item.key, "beside": n} for item, n in inferred
        ]


class Whole(Stage):
    """The same in a single call."""

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        return self.finish(items, self.infer(self.prepare(items)))


class Second(Stage):
    label: ClassVar[str] = "depth"
    needs: ClassVar[tuple[str, ...]] = ("det",)

    def finish(self, items: Sequence[Item], inferred: Any) -> list[Any]:
        self._at("finish", items)
        return [np.array([float(item.labels["det"]["key"]), n]) for item, n in inferred]


def batches(count: int, size: int = 4) -> list[list[LabelledSample]]:
    return [[LabelledSample(Item(f"{size * i + n}", None, None)) for n in range(size)] for i in range(count)]


def labelled(made: Sequence[Specialist], given: list[list[LabelledSample]], ward: Ward | None = None) -> dict[str, str]:
    """What each sample has of each label in the end, in words."""
    work = Lanes({one.label: one for one in made}, Shared(lambda *_: None, ward=ward or Ward()))
    out = [sample for batch in work.labelled(given) for sample in batch]
    assert [sample.key for sample in out] == [sample.key for batch in given for sample in batch]
    return {f"{s.key} {m.label}": str(s.item.labels.get(m.label, s.reasons.get(m.label))) for s in out for m in made}


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("fourmill-")}


@pytest.fixture(autouse=True)
def nothing_runs_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(isolate, "WAIT_SECONDS", 0.0)
    yield
    assert not threads()


class Meeting(Stage):
    """Waits at three keys until all three stages are at work, each at a batch of its own."""

    keys: ClassVar[dict[str, str]] = {"prepare": "8", "infer": "6", "finish": "4"}
    barrier: ClassVar[threading.Barrier] = threading.Barrier(3)

    def _at(self, stage: str, items: Sequence[Item]) -> None:
        if self.keys[stage] in [item.key for item in items]:
            self.barrier.wait(20)


def test_stages_of_one_specialist_overlap() -> None:
    labels = labelled([Meeting()], batches(6, 2))
    assert {label for label in labels.values() if "Error" in label} == set()


class Apart(Stage):
    """Infers on a device, and says if another one does at the same time."""

    at_work: ClassVar[threading.Lock] = threading.Lock()

    def infer(self, prepared: Any) -> Any:
        assert self.at_work.acquire(blocking=False)
        np.ones((LOAD, LOAD)) @ np.ones((LOAD, LOAD))
        self.at_work.release()
        return super().infer(prepared)


class AlsoApart(Apart):
    label: ClassVar[str] = "normal"


def test_one_specialist_at_a_time_uses_the_device() -> None:
    labels = labelled([Apart(), AlsoApart(bad={"finish": "5"})], batches(10))
    assert sum("Error" in label for label in labels.values()) == 1


STAGES = st.sampled_from(["prepare", "infer", "finish"])


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 6), st.integers(1, 5)),
    bad=st.dictionaries(STAGES, st.integers(0, 12).map(str), max_size=2),
    second=st.booleans(),
)
def test_labels_are_those_of_a_single_call(sizes: tuple[int, int], bad: dict[str, str], second: bool) -> None:
    """Which samples a call sees together, what is rejected, and why."""
    after = [Second(bad={"infer": "3"})] if second else []
    wards = Ward(), Ward()
    split = labelled([Stage(bad=bad), *after], batches(*sizes), wards[0])
    assert split == labelled([Whole(bad=bad), *after], batches(*sizes), wards[1])
    keys = {sample.key for batch in batches(*sizes) for sample in batch}
    for stage, key in bad.items():
        said = split.get(f"{key} det", "")
        assert key not in keys or "RuntimeError" in said, (stage, key)


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish"])
def test_an_error_of_the_place_ends_all_in_any_stage(stage: str) -> None:
    with pytest.raises(PlaceError, match="det, key 6: ConnectionError"):
        labelled([Stage(places={stage: "6"}), Second(load=LOAD)], batches(8))


def test_what_is_left_early_is_left_by_all() -> None:
    """As by a fit that has enough, or by Ctrl-C."""
    work = Lanes({"det": Stage(load=LOAD), "depth": Second(load=LOAD)}, Shared(lambda *_: None))
    out = work.labelled(batches(30))
    assert [sample.key for sample in next(out)] == list("0123") and threads()
    out.close()


def test_a_retry_that_meets_the_end_is_no_failure_of_its_sample() -> None:
    """Between the look whether the work goes on and the call of the network it ends: threads take nothing any more."""
    shared = Shared(lambda name, seconds: None)

    class Ends(Stage):
        def prepare(self, items: Sequence[Item]) -> Any:
            shared.stopped.set()
            one.stop()
            return super().prepare(items)

    one = lane.Lane("det", Ends(), shared)
    with pytest.raises(lane.Stopped):
        one._at_once([Item("0", None, None, {}, {})])


def test_a_batch_that_cannot_be_decoded_ends_all() -> None:
    def broken() -> Iterator[list[LabelledSample]]:
        yield from batches(3)
        raise OSError("the tar ends here")

    with pytest.raises(OSError, match="the tar ends here"):
        list(Lanes({"det": Stage(load=LOAD)}, Shared(lambda *_: None)).labelled(broken()))


class Watching(Stage):
    """How many parts have been prepared and not finished, at most."""

    seen: ClassVar[list[int]] = []
    now: ClassVar[set[str]] = set()

    def prepare(self, items: Sequence[Item]) -> Any:
        self.now.update(item.key for item in items)
        self.seen.append(len(self.now))
        return super().prepare(items)

    def finish(self, items: Sequence[Item], inferred: Any) -> list[Any]:
        self.now.difference_update(item.key for item in items)
        return super().finish(items, inferred)


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def counted() -> Iterator[list[LabelledSample]]:
        nonlocal taken
        for batch in batches(20):
            taken += 1
            yield batch

    monkeypatch.setattr(Watching, "seen", [])
    done = 0
    for _ in Lanes({"det": Watching(load=LOAD)}, Shared(lambda *_: None)).labelled(counted()):
        assert taken - done <= lanes.AHEAD + 1
        done += 1
    assert 1 < max(Watching.seen) / Watching.batch_size <= lane.PARTS


def test_large_images_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(lanes, "MOST_BYTES", 9 * image.nbytes)
    taken: list[int] = []

    def given() -> Iterator[list[LabelledSample]]:
        for number in range(6):
            taken.append(number)
            yield [LabelledSample(Item(f"{number}-{n}", image, None)) for n in range(4)]

    held = [len(taken) - done for done, _ in enumerate(Lanes({}, Shared(lambda *_: None)).labelled(given()))]
    assert max(held) == 3  # of 4 images: two in memory, and one that comes
