"""Permits for hosts, over all workers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fourmill.pipelines.download.limits import FORGET_SECONDS, Limiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


HOSTS = ("a", "b", "c")
ASKED = st.tuples(st.sampled_from("xyz"), st.dictionaries(st.sampled_from(HOSTS), st.integers(0, 5)), st.floats(0, 1))


@given(st.lists(ASKED, max_size=40), st.integers(1, 4))
def test_no_host_ever_has_more_than_its_permits(asks: list[tuple[str, dict[str, int], float]], most: int) -> None:
    limiter = Limiter(most)
    held: dict[str, dict[str, int]] = {name: {} for name in "xyz"}
    for worker, wanted, share in asks:
        held[worker] = {host: int(count * share) for host, count in held[worker].items()}  # some have ended
        granted, _ = limiter.ask(worker, held[worker], wanted, {})
        assert all(0 < count <= wanted[host] for host, count in granted.items())
        for host, count in granted.items():
            held[worker][host] = held[worker].get(host, 0) + count
        for host in HOSTS:
            assert sum(of.get(host, 0) for of in held.values()) <= most


def test_what_is_free_is_given() -> None:
    limiter = Limiter(4)
    assert limiter.ask("x", {}, {"a": 3}, {})[0] == {"a": 3}
    assert limiter.ask("y", {}, {"a": 3}, {})[0] == {"a": 1}
    assert limiter.ask("y", {"a": 1}, {"a": 3}, {})[0] == {}
    assert limiter.ask("x", {"a": 1}, {}, {})[0] == {}
    assert limiter.ask("y", {"a": 1}, {"a": 3}, {})[0] == {"a": 2}


def test_a_question_asked_again_changes_nothing() -> None:
    limiter = Limiter(2)
    for _ in range(3):  # the answer was lost each time
        assert limiter.ask("x", {}, {"a": 2}, {})[0] == {"a": 2}


def test_permits_of_a_worker_that_is_silent_come_back() -> None:
    clock = Clock()
    limiter = Limiter(2, clock=clock)
    limiter.ask("x", {}, {"a": 2}, {})
    assert limiter.ask("y", {}, {"a": 2}, {})[0] == {}
    clock.now += FORGET_SECONDS + 1
    assert limiter.ask("y", {}, {"a": 2}, {})[0] == {"a": 2}


def test_a_host_that_asks_for_rest_gets_it_from_all() -> None:
    clock = Clock()
    limiter = Limiter(None, clock=clock)
    limiter.ask("x", {"a": 1}, {}, {"a": 30.0})
    assert limiter.ask("y", {}, {"a": 5, "b": 5}, {}) == ({"b": 5}, {"a": 30.0})
    clock.now += 31
    assert limiter.ask("y", {}, {"a": 5}, {}) == ({"a": 5}, {})


def test_an_interval_is_kept_by_all() -> None:
    clock = Clock()
    limiter = Limiter(4, interval=2.0, clock=clock)
    assert limiter.ask("x", {}, {"a": 3}, {})[0] == {"a": 1}
    assert limiter.ask("y", {}, {"a": 3}, {}) == ({}, {"a": 2.0})
    clock.now += 2.5
    assert limiter.ask("y", {}, {"a": 3}, {})[0] == {"a": 1}
