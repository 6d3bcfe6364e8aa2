"""Where a shard ends and the next one begins: the lanes of both are at work, and no byte depends on it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from fourmill_tests import data

from fourmill.pipelines.specialists.base import ImageItem, Specialist
from fourmill.pipelines.specialists.classical.canny import Canny
from fourmill.pipelines.worker.lane import PARTS, AllTurns, Lane, Shared, Stopped
from fourmill.pipelines.worker.sample import LabelledSample

SAMPLES = 6  # of a shard


class Edges(Specialist):
    """Edges in three stages, each of which asserts that it is called for one shard at a time. The last part of the
    first shard ends when a part of the second one has been prepared."""

    label: ClassVar[str] = "canny_edge"
    batch_size: ClassVar[int] = 2
    at_work: ClassVar[defaultdict[str, threading.Lock]] = defaultdict(threading.Lock)
    first_began: ClassVar[threading.Event] = threading.Event()
    second_began: ClassVar[threading.Event] = threading.Event()

    @contextmanager
    def _alone(self, stage: str) -> Iterator[None]:
        assert self.at_work[stage].acquire(blocking=False)
        np.ones((200, 200)) @ np.ones((200, 200))  # while other threads go on
        yield
        self.at_work[stage].release()

    def prepare(self, items: Sequence[ImageItem]) -> Any:
        (self.second_began if int(items[0].key) >= SAMPLES else self.first_began).set()
        with self._alone("prepare"):
            return list(items)

    def infer(self, prepared: Any) -> Any:
        with self._alone("infer"):
            return Canny()(prepared)

    def finish(self, items: Sequence[ImageItem], inferred: Any) -> list[Any]:
        assert int(items[-1].key) != SAMPLES - 1 or self.second_began.wait(5)
        with self._alone("finish"):
            return list(inferred)


def test_the_next_shard_begins_while_one_ends(tmp_path: Path) -> None:
    shards = data.good_shards(tmp_path / "samples", 2, SAMPLES)
    changes = {"modalities": ["rgb"], "labels__keep": ["canny_edge", "caption"], "generate__chains": []}
    plain, both = (data.recipe(tmp_path / name, shards, engine__batch_size=2, **changes) for name in ("plain", "both"))
    outputs = data.outputs(plain, tokens=False)
    data.make(plain, outputs)
    worker, tasks = data.worker_of(both, outputs)
    worker.job.specialists["canny_edge"] = Edges()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(worker.run, tasks[0])
        assert Edges.first_began.wait(20)
        second = pool.submit(worker.run, tasks[1])
        records = [*first.result(), *second.result()]
    assert len(records) == 2 * len(outputs) and {record.nulls for record in records} == {0}
    assert data.rows(both.root) == data.rows(plain.root)


class Held(Specialist):
    """Its inference waits."""

    label: ClassVar[str] = "canny_edge"
    batch_size: ClassVar[int] = 2
    may: ClassVar[threading.Event] = threading.Event()
    prepared: ClassVar[threading.Semaphore] = threading.Semaphore(0)

    def prepare(self, items: Sequence[ImageItem]) -> Any:
        self.prepared.release()
        return items

    def infer(self, prepared: Any) -> Any:
        assert self.may.wait(20)
        return [item.image[..., 0] for item in prepared]

    def finish(self, items: Sequence[ImageItem], inferred: Any) -> list[Any]:
        return list(inferred)


def test_a_shard_that_is_stopped_keeps_no_room() -> None:
    """It waits for room that another one has, and ends; what it has itself it gives back."""
    image = np.zeros((4, 4, 3), np.uint8)
    samples = [LabelledSample(ImageItem(f"{n}", image, None)) for n in range(2 * PARTS)]
    turns, one = AllTurns(), Held()
    lanes = [Lane(one.label, one, Shared(lambda *_: None, turns=turns)) for _ in range(2)]
    room = turns.of(one.label, one).room
    few = lanes[0].start(samples[:2], [])
    many = lanes[1].start(samples, [])
    assert all(Held.prepared.acquire(timeout=20) for _ in range(PARTS)) and room._free == 0
    lanes[1].shared.stopped.set()
    lanes[1].stop()
    with pytest.raises(Stopped):
        many.result(5)
    Held.may.set()
    lanes[1].join()
    assert few.exception(5) is None
    lanes[0].stop()
    lanes[0].join()
    assert room._free == PARTS
