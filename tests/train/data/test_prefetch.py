"""Prefetched items are the same, errors reach the consumer, and the thread ends with it."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from fourmill.train.data.prefetch import prefetch


def numbers(count: int, closed: list[bool]) -> Generator[int]:
    try:
        yield from range(count)
    finally:
        closed.append(True)


@pytest.mark.parametrize("depth", [1, 3])
def test_items_come_in_order_and_end(depth: int) -> None:
    closed: list[bool] = []
    assert list(prefetch(numbers(10, closed), depth)) == list(range(10))
    assert closed == [True]


def test_an_error_comes_after_the_items_before_it() -> None:
    def failing() -> Generator[int]:
        yield 1
        raise OSError("disk")

    items = prefetch(failing(), 2)
    assert next(items) == 1
    with pytest.raises(OSError, match="disk"):
        next(items)


def test_a_consumer_that_stops_ends_the_thread() -> None:
    """The producer waits for room in a full queue; closing wakes it and closes the source."""
    closed: list[bool] = []
    before = threading.active_count()
    items = prefetch(numbers(10**9, closed), 2)
    assert next(items) == 0
    items.close()
    assert closed == [True] and threading.active_count() == before


def test_no_more_is_made_than_the_depth_allows() -> None:
    made: list[int] = []
    full = threading.Event()

    def counted() -> Generator[int]:
        for i in range(10):
            made.append(i)
            if i == 3:
                full.set()
            yield i

    items = prefetch(counted(), 2)
    assert next(items) == 0
    assert full.wait(30)  # two wait in the queue, and one for room
    assert made == [0, 1, 2, 3]
    items.close()
