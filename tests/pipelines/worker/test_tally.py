"""What workers wait for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from fourmill.pipelines.worker.tally import Tally


def test_the_wait_for_images_is_a_share_of_the_work() -> None:
    def decoded() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.02)
            yield number

    tally = Tally()
    assert tally.shares() == {}
    with tally.working():
        assert list(tally.waiting(decoded())) == [0, 1, 2]
        before = tally.shares()["images"]
        time.sleep(0.12)
        assert tally.shares()["images"] < before  # while it works, too
    assert tally.waited >= 0.06 and tally.worked >= tally.waited + 0.12
    assert tally.shares() == pytest.approx({"images": tally.waited / tally.worked})
