"""What workers wait for."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from fourmill.pipelines.worker import tally


class Clock:
    """A time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def decoded(self, count: int) -> Iterator[int]:
        """Batches, each after two seconds."""
        for number in range(count):
            self.now += 2.0
            yield number


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tally, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_the_wait_for_images_is_a_share_of_the_work(clock: Clock) -> None:
    clock.now = 100.0
    counts = tally.Tally()
    assert counts.shares() == {}
    with counts.working():
        for _ in counts.waiting(clock.decoded(3)):
            clock.now += 1.0
        assert counts.shares() == pytest.approx({"images": 6 / 9})  # while it works, too
        clock.now += 3.0
    clock.now += 50.0
    assert counts.shares() == pytest.approx({"images": 6 / 12})


def test_where_shards_overlap_none_waits_and_time_counts_once(clock: Clock) -> None:
    counts = tally.Tally()
    first, second = counts.working(), counts.working()
    with first:
        clock.now += 3.0
        with second:
            assert list(counts.waiting(clock.decoded(2))) == [0, 1]
    assert (counts.worked, counts.waited) == (7.0, 0.0)
    with counts.working():
        assert list(counts.waiting(clock.decoded(2))) == [0, 1]
    assert counts.shares() == pytest.approx({"images": 4 / 11})
