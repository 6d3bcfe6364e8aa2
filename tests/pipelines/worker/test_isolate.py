"""A batch that fails: whether it is the samples or the place, and what then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourmill.infra import faults
from fourmill.pipelines.engine.job import Hints, PlaceError
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.worker import isolate
from fourmill.pipelines.worker.isolate import Ward, batch


@dataclass(frozen=True)
class Thing:
    key: str


def things(keys: str) -> list[Thing]:
    return [Thing(key) for key in keys]


class Maker:
    """Upper-cases keys; `fails` says with what a call fails. Notes the calls."""

    def __init__(self, fails: Callable[[str, int], Exception | None]) -> None:
        self.fails, self.calls = fails, list[str]()

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        keys = "".join(item.key for item in items)
        self.calls.append(keys)
        if error := self.fails(keys, len(self.calls)):
            raise error
        return [key.upper() for key in keys]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "WAIT_SECONDS", 0.0)


def made(values: Sequence[Any]) -> str:
    return "".join("-" if isinstance(value, Exception) else value for value in values)


DEAD = RuntimeError("CUDA error: device-side assert triggered")
BAD = RuntimeError("this sample only")


def test_what_fails_once_is_done_again_whole() -> None:
    for error in (DEAD, BAD, ConnectionError("reset"), MemoryError()):
        maker, ward = Maker(lambda _, n, error=error: error if n == 1 else None), Ward(alone=False)
        assert made(batch("det", maker, things("abc"), ward)) == "ABC" and maker.calls == ["abc", "abc"]
        ward.verdict("s")


@pytest.mark.parametrize("error", [DEAD, ConnectionError("reset"), OSError(28, "No space left on device")])
@pytest.mark.parametrize("alone", [True, False])
def test_an_error_of_the_place_makes_no_reject(error: Exception, alone: bool) -> None:
    maker = Maker(lambda *_: error)
    with pytest.raises(PlaceError, match="det, key a: "):
        batch("det", maker, things("abc"), Ward(alone=alone))
    assert maker.calls == ["abc", "abc"]


def test_a_reject_that_was_made_of_such_an_error_is_none() -> None:
    with pytest.raises(PlaceError):
        batch("det", lambda items: [Reject(f"det: failed ({DEAD})") for _ in items], things("abc"), Ward())
    assert made(batch("det", lambda items: [Reject("det: dark") for _ in items], things("ab"), Ward())) == "--"


def test_memory_splits_and_says_so() -> None:
    maker, ward = Maker(lambda keys, _: MemoryError() if len(keys) > 2 else None), Ward()
    assert made(batch("det", maker, things("abcde"), ward)) == "ABCDE"
    assert len(ward.splits) == 2 and "5 samples from a did not fit into memory" in ward.splits[0][1]
    with pytest.raises(PlaceError, match=r"MemoryError.*fewer actors"):
        batch("det", Maker(lambda *_: MemoryError()), things("abc"), Ward())


def large(keys: str) -> Callable[[str, int], Exception | None]:
    return lambda batch, _: MemoryError() if set(batch) & set(keys) else None


@pytest.mark.parametrize("keys", ["abc", "bac", "cab"])
def test_a_sample_that_fits_nowhere_is_a_reject_of_two_actors(keys: str) -> None:
    first, probes = Ward(alone=False), dict[str, Any]()
    expected = keys.upper().replace("B", "-")
    assert made(batch("det", Maker(large("b")), things(keys), first)) == expected
    with pytest.raises(PlaceError, match="1 samples failed, the first, b: det: it does not fit into memory") as raised:
        first.verdict("s")
    assert raised.value.in_doubt and raised.value.suspects == {("det", "b")}
    second = Ward(Hints(raised.value.suspects), False, probes)
    assert made(batch("det", Maker(large("b")), things(keys), second)) == expected
    second.verdict("s")
    assert second.judged == {("det", "b"): f"det: {isolate.TOO_LARGE}"}
    assert not faults.reads_as_place(f"det: {isolate.TOO_LARGE}"), "or the next run would make the record again"
    third = Ward(Hints(known=frozenset(second.known)), False, probes)  # another sample is asked about again
    assert made(batch("det", Maker(large("z")), things("yz"), third)) == "Y-"
    with pytest.raises(PlaceError):
        third.verdict("t")


def test_memory_of_the_place_is_no_reject() -> None:
    """What fitted before does not fit now; nothing fits; a sample fits elsewhere."""
    maker, ward = Maker(lambda _, n: MemoryError() if n > 1 else None), Ward(alone=False)
    batch("det", maker, things("ab"), ward)
    with pytest.raises(PlaceError, match=r"key c.*MemoryError.*fewer actors"):
        batch("det", maker, things("c"), ward)
    for alone in (True, False):
        with pytest.raises(PlaceError, match=r"key b.*MemoryError"):
            batch("det", Maker(lambda *_: MemoryError()), things("ab"), Ward(alone=alone))
    ward = Ward(Hints(frozenset({("det", "b")})), alone=False)
    assert made(batch("det", Maker(large("")), things("abc"), ward)) == "ABC"
    ward.verdict("s")


def test_a_fit_goes_on_without_what_does_not_fit() -> None:
    assert made(batch("det", Maker(large("b")), things("abc"), Ward())) == "A-C"


def bad(keys: str) -> Callable[[str, int], Exception | None]:
    return lambda batch, _: BAD if set(batch) & set(keys) else None


def test_a_suspect_is_a_reject_once_it_fails_elsewhere() -> None:
    first = Ward(alone=False)
    assert made(batch("det", Maker(bad("b")), things("abc"), first)) == "A-C"
    with pytest.raises(PlaceError, match=r"1 samples failed, the first, b: det: RuntimeError: this sample") as raised:
        first.verdict("s")
    assert raised.value.in_doubt and raised.value.suspects == {("det", "b")}
    second = Ward(Hints(raised.value.suspects), alone=False)
    assert made(batch("det", Maker(bad("b")), things("abc"), second)) == "A-C"
    second.verdict("s")
    third = Ward(Hints(known=frozenset(second.known)), alone=False)  # the same error at another sample is known now
    assert made(batch("det", Maker(bad("z")), things("yz"), third)) == "Y-"
    third.verdict("t")


def test_a_suspect_that_works_elsewhere_stays_in_its_batch() -> None:
    ward, maker = Ward(Hints(frozenset({("det", "b")})), alone=False), Maker(bad(""))
    assert made(batch("det", maker, things("abc"), ward)) == "ABC" and maker.calls == ["abc"]
    ward.verdict("s")


def test_a_place_that_breaks_is_found_by_what_worked_before() -> None:
    maker, ward = Maker(lambda _, n: BAD if n > 1 else None), Ward(alone=False)
    batch("det", maker, things("ab"), ward)
    with pytest.raises(PlaceError, match="all of 2 samples from c"):
        batch("det", maker, things("cd"), ward)
    assert maker.calls[-1] == "a"


def test_a_place_where_nothing_ever_worked_proves_nothing() -> None:
    suspects = frozenset(("det", key) for key in "ab")
    for hints in (Hints(), Hints(suspects)):
        ward = Ward(hints, alone=False)
        assert made(batch("det", Maker(lambda *_: BAD), things("ab"), ward)) == "--"
        with pytest.raises(PlaceError, match="no sample works") as raised:
            ward.verdict("s")
        assert not raised.value.in_doubt and raised.value.suspects == suspects
    many = [Thing(f"{i}") for i in range(isolate.MAX_UNPROVEN)]
    ward = Ward(alone=False)
    batch("det", Maker(lambda *_: BAD), many, ward)
    with pytest.raises(PlaceError, match="all of 1 samples"):
        batch("det", Maker(lambda *_: BAD), things("x"), ward)


def test_who_has_nobody_to_ask_rejects_at_once() -> None:
    ward = Ward()
    assert made(batch("det", Maker(lambda *_: BAD), things("ab"), ward)) == "--"
    ward.verdict("s")


@given(
    st.lists(st.sampled_from("good bad dark".split()), min_size=1, max_size=12),
    st.sets(st.integers(1, 12)),
    st.integers(1, 5),
)
def test_rejects_are_the_bad_samples_whatever_fails_meanwhile(kinds: list[str], outages: set[int], size: int) -> None:
    """Two actors, the first with outages of the place at some calls: what is recorded depends on samples alone."""
    items = [Thing(f"{kind}-{i}") for i, kind in enumerate(kinds)]
    calls = 0

    def run(batch: Sequence[Any]) -> list[Any]:
        nonlocal calls
        calls += 1
        if calls in outages:
            raise ConnectionError("reset")
        if any(item.key.startswith("bad") for item in batch):
            raise BAD
        return [Reject("det: dark") if item.key.startswith("dark") else item.key for item in batch]

    probes: dict[str, Any] = {"det": Thing("good-before")}
    hints, values = Hints(), list[Any]()
    for _ in range(30):
        ward = Ward(hints, False, probes)
        try:
            values = [v for i in range(0, len(items), size) for v in batch("det", run, items[i : i + size], ward)]
            ward.verdict("s")
            break
        except PlaceError as error:
            hints = Hints(hints.suspects | error.suspects)
    assert [value if isinstance(value, str) else None for value in values] == [
        item.key if item.key.startswith("good") else None for item in items
    ]
