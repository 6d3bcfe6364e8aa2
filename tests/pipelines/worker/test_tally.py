"""What workers wait for."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from fourmill.pipelines.worker import tally


def test_the_wait_for_images_is_a_share_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(tally, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def decoded() -> Iterator[int]:
        for number in range(3):
            now[0] += 2.0
            yield number

    counts = tally.Tally()
    assert counts.shares() == {}
    with counts.working():
        for _ in counts.waiting(decoded()):
            now[0] += 1.0
        assert counts.shares() == pytest.approx({"images": 6 / 9})  # while it works, too
        now[0] += 3.0
    now[0] += 50.0
    assert counts.shares() == pytest.approx({"images": 6 / 12})


def test_where_shards_overlap_none_waits_and_time_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(tally, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def decoded() -> Iterator[int]:
        for number in range(2):
            now[0] += 2.0
            yield number

    counts = tally.Tally()
    first, second = counts.working(), counts.working()
    with first:
        now[0] += 3.0
        with second:
            assert list(counts.waiting(decoded())) == [0, 1]
    assert (counts.worked, counts.waited) == (7.0, 0.0)
    with counts.working():
        assert list(counts.waiting(decoded())) == [0, 1]
    assert counts.shares() == pytest.approx({"images": 4 / 11})
