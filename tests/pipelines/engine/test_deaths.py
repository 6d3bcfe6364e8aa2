"""Deaths of workers at a task are narrowed down to the samples that kill, whichever these are, with few deaths."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fourmill_tests.engine import Dead
from hypothesis import given
from hypothesis import strategies as st

from fourmill.infra import storage
from fourmill.pipelines.engine import deaths as deaths_module
from fourmill.pipelines.engine.calls import Call, Calls, Spot
from fourmill.pipelines.engine.deaths import Deaths
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.worker.watch import Watch


@dataclass(frozen=True)
class Thing:
    key: str


class Memory(Calls):
    """Notes that are kept here."""

    last: Call | None = None

    def note(self, attempt: str, call: Call) -> None:
        object.__setattr__(self, "last", call)


Kills = Callable[[list[str]], bool]
MOST = 40  # deaths, in which anything here is found


def labelled(parts: Sequence[Sequence[str]], kills: Kills, attempts: int = 3) -> tuple[list[list[str]], Deaths, str]:
    """A task done as the engine and the worker do it: values by part, what its deaths have shown, why it ends."""

    def run(items: Sequence[Any]) -> list[Any]:
        keys = [item.key for item in items]
        if kills(keys):
            raise Dead
        return [f"{key} of {len(keys)}" for key in keys]

    deaths, is_first = Deaths(attempts), True
    for attempt in itertools.count():
        assert attempt < MOST
        notes, made = Memory(), list[list[str]]()
        watch = Watch(notes, deaths.care(f"{attempt}"))
        try:
            for part in parts:
                things = [Thing(key) for key in part]
                made.append([str(v) for v in (run if is_first else watch.over("det", run))(things)])
            return made, deaths, ""
        except Dead:
            deaths.add(None if is_first else notes.last)
            is_first = False
            if why := deaths.why_hopeless("killed"):
                return made, deaths, why
    raise AssertionError


def parts_of(sizes: Sequence[int]) -> list[list[str]]:
    numbers = iter(range(sum(sizes)))
    return [[f"{next(numbers)}" for _ in range(size)] for size in sizes]


@given(sizes=st.lists(st.integers(1, 80), min_size=1, max_size=5), data=st.data())
def test_a_sample_that_kills_is_found_and_costs_itself(sizes: list[int], data: st.DataObject) -> None:
    parts = parts_of(sizes)
    every = [key for part in parts for key in part]
    bad = set(data.draw(st.lists(st.sampled_from(every), max_size=3)))
    made, deaths, why = labelled(parts, lambda keys: bool(bad & set(keys)))
    assert not why and {key for _, key in deaths.killers} == bad
    assert deaths.total <= 5 * len(bad)  # the first alone, in a call, in a piece of it, alone, alone
    for part, values in zip(parts, made, strict=True):
        for key, value in zip(part, values, strict=True):
            # What has no slot to keep (a codec's) leaves a smaller call; else see test_killers.
            sound = len(part) - len(bad & set(part))
            assert value == (f"det: killed its worker {deaths.killers['det', key]} times" if key in bad else
                             f"{key} of {sound}")  # fmt: skip


@given(size=st.integers(2, 70), data=st.data())
def test_samples_that_kill_together_come_one_by_one(size: int, data: st.DataObject) -> None:
    """As images that do not fit into memory at once."""
    (part,) = parts_of([size])
    pair = set(data.draw(st.lists(st.sampled_from(part), min_size=2, max_size=2, unique=True)))
    made, deaths, why = labelled([part, ["x", "y"]], lambda keys: pair <= set(keys))
    assert not deaths.killers and not why
    assert made == [[f"{key} of 1" for key in part], ["x of 2", "y of 2"]]


def test_what_kills_once_is_no_killer() -> None:
    """Somebody else took the memory of the machine, whatever sample was there."""
    times = iter([True, True, True])
    made, deaths, why = labelled(parts_of([4, 4]), lambda keys: next(times, False))
    assert not why and not deaths.killers and deaths.total == 3
    assert made == [[f"{key} of 4" for key in part] for part in parts_of([4, 4])]


def test_deaths_that_tell_nothing_end() -> None:
    deaths = Deaths(3)
    for _ in range(2):
        deaths.add(None)
        assert not deaths.why_hopeless("killed")
    deaths.add(None)
    assert deaths.why_hopeless("killed") == "its worker died 3 times: killed"


def test_deaths_everywhere_end() -> None:
    """Each at another sample: none can be found."""
    deaths = Deaths(3)
    while not deaths.why_hopeless("killed"):
        deaths.add(Call(Spot("det", f"{deaths.total}", 1)))
    assert deaths.total == 3 + deaths_module.STEPS and not deaths.killers


def test_a_task_whose_samples_all_kill_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaths_module, "MOST_KILLERS", 4)
    _, deaths, why = labelled(parts_of([5, 5]), lambda keys: True)
    assert len(deaths.killers) == 4
    assert why == "4 of its samples kill their worker, the last: det, key 3: killed"


def test_one_attempt_is_one_death() -> None:
    deaths = Deaths(1)
    deaths.add(None)
    assert deaths.why_hopeless("killed") == "its worker died 1 times: killed"


# notes


def test_a_note_says_where_it_was(tmp_path: Path) -> None:
    calls, call = Calls(str(tmp_path)), Call(Spot("det", "a/\udcff", 3), True, True)
    assert calls.read("x") is None
    calls.note("x", call)
    assert calls.read("x") == call and Calls().read("x") is None
    calls.forget("x")
    assert calls.read("x") is None and not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("content", [b"", b"[]", b'{"spot": ["det"], "tried": false}', b'{"spot": null}', b"\xff"])
def test_a_damaged_note_says_nothing(tmp_path: Path, content: bytes) -> None:
    storage.put(f"{tmp_path}/ledger/calls/x.json", content)
    assert Calls(str(tmp_path)).read("x") is None


def test_a_reason_of_a_killer_reads_as_its_own() -> None:
    """Not as an error of the place, which would be made again."""
    from fourmill.infra import faults

    assert not faults.reads_as_place("det: killed its worker 3 times")
    assert isinstance(Reject("det: killed its worker 3 times"), Exception)
