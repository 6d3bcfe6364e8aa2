"""The driver: who gets which task, and what becomes of tasks whose actor dies.

`Pool` is tested with actors that are plain objects, the whole with Ray and a job of numbers.
"""

from __future__ import annotations

from collections import Counter, deque
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fourmill_tests.engine import Doubler, Doubling

from fourmill.pipelines.engine import driver
from fourmill.pipelines.engine.calls import Call, Spot
from fourmill.pipelines.engine.driver import Outcome
from fourmill.pipelines.engine.job import Hints, PlaceError, Status, StopJob
from fourmill.pipelines.engine.pool import Pool
from fourmill.pipelines.engine.settings import Engine


class PlainActor:
    count = 0

    def __init__(self, avoid: set[str]) -> None:
        self.run = SimpleNamespace(remote=self._run)

    def _run(self, task: str, hints: Hints) -> str:
        PlainActor.count += 1
        return f"ref-{PlainActor.count}"


def pool(names: str, size: int, attempts: int = 3) -> Pool[str]:
    return Pool({name: name for name in names}, deque(names), size, PlainActor, attempts)


def loads(pool: Pool[str]) -> list[list[str]]:
    return [pool.held(actor) for actor in pool.actors]


@pytest.mark.parametrize(
    ("names", "size", "expected"),
    [
        ("a", 1, [["a"]]),
        ("ab", 2, [["a"], ["b"]]),
        ("abc", 2, [["a"], ["b"]]),  # a second one each only while there are enough for all
        ("abcd", 2, [["a", "c"], ["b"]]),
        ("abcdef", 2, [["a", "c"], ["b", "d"]]),
        ("ab", 4, [["a"], ["b"]]),  # no more actors than tasks
    ],
)
def test_two_tasks_an_actor_while_there_are_plenty(names: str, size: int, expected: list[list[str]]) -> None:
    one = pool(names, size)
    one.assign()
    assert loads(one) == expected


def test_assigning_again_changes_nothing() -> None:
    one = pool("abcdef", 2)
    one.assign()
    before = dict(one.in_flight)
    one.assign()
    assert one.in_flight == before and len(one.actors) == 2


def test_a_killing_task_fails_and_its_neighbours_do_not() -> None:
    """One actor, two tasks in flight: the neighbour dies with the killing one once, and then each runs alone."""
    one, failures = pool("akb", 1), {}
    done: list[str] = []
    for _ in range(20):
        one.assign()
        if not one.in_flight:
            break
        (held,) = loads(one)
        if "k" in held:
            failures |= one.requeue(one.actors[0], "killed")
            continue
        assert len(held) == 1 or not any(name in one.deaths for name in held)
        ref, (_, name) = next(iter(one.in_flight.items()))
        del one.in_flight[ref]
        done.append(name)
    assert sorted(done) == ["a", "b"]
    assert failures == {"k": "its worker died 3 times: killed"}
    assert {name: deaths.total for name, deaths in one.deaths.items()} == {"k": 3, "a": 1}


def test_requeue_leaves_other_actors_alone(caplog: pytest.LogCaptureFixture) -> None:
    one = pool("ab", 2)
    one.assign()
    first, second = one.actors
    assert one.requeue(first, "killed") == {}
    assert one.actors == [second] and one.held(second) == ["b"] and list(one.pending) == ["a"]
    assert "at the task a (killed): it is done again with care" in caplog.text


def refs(pool: Pool[str]) -> dict[str, Any]:
    return {name: ref for ref, (_, name) in pool.in_flight.items()}


def test_a_task_goes_to_another_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourmill.pipelines.engine.pool.WAIT_SECONDS", 0.0)
    one = pool("ab", 2)
    one.assign()
    first, second = one.actors
    assert one.displace(refs(one)["a"], PlaceError("full", "full")) == {}
    one.assign()
    assert one.held(first) == [] and one.held(second) == ["b"]  # it waits for the other one
    one.succeed(refs(one)["b"])
    one.assign()
    assert one.held(second) == ["a"] and not one.retiring


def test_the_only_actor_is_replaced_for_it() -> None:
    stopped: list[Any] = []
    one = pool("ab", 1)
    one.stop_actor = stopped.append
    one.assign()
    (first,) = one.actors
    suspects = frozenset({("det", "x")})
    assert one.displace(refs(one)["a"], PlaceError("who?", suspects=suspects, in_doubt=True)) == {}
    one.assign()
    assert one.held(first) == ["b"]  # which it has begun, and may finish
    one.succeed(refs(one)["b"])
    one.assign()
    (second,) = one.actors
    assert second is not first and stopped == [first] and one.held(second) == ["a"]
    assert one.suspects["a"] == suspects and not one.attempts["a"]


def test_a_dead_device_takes_its_actor_and_its_place() -> None:
    """What replaces it would have the same accelerator; another one has shown that it works."""
    one = pool("abcdefgh", 2)
    one.assign()
    bad, good = one.actors
    one.succeed(refs(one)["b"])
    assert one.displace(refs(one)["a"], PlaceError("CUDA error", "device")) == {}
    assert one.retiring == [bad] and one.size == 1
    assert one.displace(refs(one)["c"], PlaceError("CUDA error", "device")) == {}  # which it had begun
    one.assign()
    assert one.actors == [good] and set(one.held(good)) <= set("adefgh")
    while one.pending or one.in_flight:
        one.assign()
        one.succeed(next(iter(one.in_flight)))
    assert one.actors == [good]


def test_a_task_that_fails_everywhere_is_given_up() -> None:
    one, failures = pool("a", 1, attempts=2), {}
    for _ in range(2):
        one.assign()
        failures |= one.displace(refs(one)["a"], PlaceError("no space left", ""))
    assert failures == {"a": "tried 2 times: no space left"} and not one.pending and one.given_up == 1


def test_actors_that_leave_hand_back_what_they_have() -> None:
    one = pool("abcdef", 2)
    one.assign()
    first, second = one.actors
    one.nodes = {id(first): "going", id(second): "staying"}
    assert one.leave({"going"}) == [first] and one.leave({"going"}) == []
    one.resize(1, [first, second])
    assert one.held(first) == ["a", "c"]
    one.hand_back(refs(one)["c"])
    one.assign()
    assert one.held(first) == ["a"] and one.pending[0] == "c" and len(one.actors) == 2
    one.resize(2, [first, second])  # another node has come
    one.assign()
    (third,) = (actor for actor in one.actors if actor not in (first, second))
    assert one.held(third)[0] == "c" and not one.attempts and not one.deaths
    one.hand_back(refs(one)["a"])
    one.assign()
    assert one.actors == [second, third] and not one.leaving and not one.retiring


def test_actors_without_work_are_given_back() -> None:
    stopped: list[Any] = []
    one = pool("ab", 2)
    one.stop_actor = stopped.append
    one.assign()
    first, second = one.actors
    one.succeed(refs(one)["a"])
    one.spare(10.0)
    assert not stopped
    one.spare(0.0)
    assert stopped == [first] and one.actors == [second] and one.held(second) == ["b"]
    assert one.displace(refs(one)["b"], PlaceError("who?", in_doubt=True)) == {}
    one.assign()  # another one decides
    (third,) = (actor for actor in one.actors if actor is not second)
    assert one.held(third) == ["b"]


def test_more_actors_are_wanted_while_there_is_work_for_them() -> None:
    one = pool("abcde", 2)
    one.assign()
    assert one.lacking(None) == 3 and one.lacking(4) == 2 and one.lacking(1) < 0
    while one.pending or one.in_flight:
        one.succeed(next(iter(one.in_flight)))
        one.assign()
    assert one.lacking(None) < 0


class Answers:
    """What stands for Ray. A question is answered once `said` has what its actor says, or the error that ends it."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self) -> None:
        self.said: dict[str, Status | RuntimeError] = {}
        self.asked: list[str] = []
        self.waited: list[float] = []

    def wait(self, refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        self.waited.append(timeout)
        return [ref for ref in refs if ref[0] in self.said], [ref for ref in refs if ref[0] not in self.said]

    def get(self, ref: tuple[str, int]) -> Status:
        said = self.said[ref[0]]
        if isinstance(said, RuntimeError):
            raise said
        return said


class Asks:
    def __init__(self, name: str, ray: Answers) -> None:
        self.status, self.name, self.ray = SimpleNamespace(remote=self._status), name, ray

    def _status(self) -> tuple[str, int]:
        self.ray.asked.append(self.name)
        return self.name, len(self.ray.asked)


def test_nothing_waits_for_what_actors_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is busy, or starts, holds nobody up, and is asked once until it answers."""
    monkeypatch.setattr(driver, "POLL_SECONDS", 0.0)
    ray, one, asked = Answers(), pool("abc", 3), driver._Asked({})
    quick, busy, _ = one.actors = [Asks(name, ray) for name in ("quick", "busy", "dead")]
    ray.said = {"quick": Status(1, Counter(), works=frozenset({"det"})), "dead": RuntimeError("it died")}
    for _ in range(3):
        asked.look(ray, one)
    assert Counter(ray.asked) == {"quick": 3, "busy": 1, "dead": 3} and set(ray.waited) == {0.0}
    assert asked.status.keys() == {quick} and len(asked.ready) == 1 and one.works == {"det"}
    assert [actor for actor, _ in asked.new()] == ["busy"]
    ray.said["busy"] = Status(2, Counter(), waiting="the root is full")
    asked.look(ray, one)
    assert asked.status[busy].samples == 2 and not asked.new() and len(asked.ready) == 2
    one.actors.remove(busy)  # what it waited for when it died holds nobody up
    asked.look(ray, one)
    assert asked.status[busy].waiting == "" and asked.status[busy].samples == 2


def test_nothing_to_do_starts_nothing() -> None:
    job: Any = None
    assert driver.run(job, Doubler, {}, "double", "numbers") == Outcome()


# with Ray


def runs(folder: Path, number: int) -> int:
    return len((folder / f"log-{number}").read_text().splitlines())


def double(job: Doubling, *numbers: int) -> Outcome[int]:
    return driver.run(job, Doubler, {f"n{number}": number for number in numbers}, "double", "numbers")


def test_tasks_of_a_killed_actor_are_done_by_another(
    ray_cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = double(Doubling(str(tmp_path), kills=(2,)), 1, 2, 3, 13)
    assert outcome.results == {"n1": 2, "n2": 4, "n3": 6}
    assert outcome.failures == {"n13": "13 is not doubled"}  # a task that raises fails alone, and is not tried again
    assert (runs(tmp_path, 2), runs(tmp_path, 13)) == (2, 1)
    assert len(list(tmp_path.glob("fetched-*"))) == 1
    assert 0 < outcome.ready_seconds <= outcome.seconds
    assert "4/4 numbers" in capsys.readouterr().err.splitlines()[-1]  # what failed is done, too


def test_a_task_that_always_kills_is_given_up(ray_cluster: str, tmp_path: Path) -> None:
    job = Doubling(str(tmp_path), kills=(2,), always=True, engine=Engine(actors=1, attempts=2))
    outcome = double(job, 2, 3)
    assert outcome.results == {"n3": 6}
    assert "its worker died 2 times" in outcome.failures["n2"]
    assert runs(tmp_path, 2) == 2


def test_a_worker_may_stop_the_whole_job(ray_cluster: str, tmp_path: Path) -> None:
    with pytest.raises(StopJob, match="the whole job is wrong"):
        double(Doubling(str(tmp_path)), 666, 1, 2, 3)


def test_a_worker_that_cannot_start_is_a_sentence(ray_cluster: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"engine: a worker could not start: .*there are no weights"):
        double(Doubling(str(tmp_path), broken=True), 1)


def test_more_than_the_cluster_has_is_a_sentence(ray_cluster: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"asks for 1e\+06 CPUs.*lower engine.cpus or engine.gpus, or double less"):
        double(Doubling(str(tmp_path), engine=Engine(cpus=1e6)), 1)


def test_an_actor_without_a_place_gives_its_tasks_back() -> None:
    """Its node has gone; the actor that replaces it can never be placed."""
    one = pool("abc", 2)
    one.assign()
    placed, unplaced = one.actors
    one.resize(1, {placed})
    assert one.actors == [placed] and list(one.pending) == ["b", "c"] and not one.attempts
    one.assign()
    assert loads(one) == [["a", "b"]] and unplaced not in one.actors


def test_nodes_that_join_get_actors() -> None:
    one = pool("abcd", 1)
    one.assign()
    one.resize(3, set(one.actors))
    one.assign()
    assert len(one.actors) == 3


@pytest.mark.parametrize("said", [("its node has died. Node Id: 1", False), ("the network is gone", True)])
def test_a_task_is_not_blamed_for_its_machine(said: tuple[str, bool]) -> None:
    one = pool("a", 1, attempts=1)
    for _ in range(5):
        one.assign()
        assert one.requeue(one.actors[0], *said) == {}
    assert list(one.pending) == ["a"] and not one.attempts and not one.deaths


def test_a_death_on_one_node_is_tried_on_another() -> None:
    """The node itself may be what kills."""
    avoided: list[set[str]] = []
    one = pool("ab", 2)
    one.start_actor = lambda avoid: avoided.append(avoid) or PlainActor(avoid)
    one.assign()
    first, second = one.actors
    one.nodes |= {id(first): "x", id(second): "x"}
    one.requeue(first, "killed")
    one.assign()
    assert avoided == [set(), set(), {"x"}]
    third = one.actors[-1]
    one.nodes[id(third)] = "y"
    assert one.held(second) == ["b"] and one.held(third) == ["a"]
    one.succeed(refs(one)["b"])
    assert not one._may_try(second, "a") and one._may_try(third, "a")


class OnlyNotes:
    """Every attempt was at the same sample, alone, with a specialist that has worked or not."""

    def __init__(self, worked: bool) -> None:
        self.worked, self.forgotten = worked, list[str]()

    def read(self, attempt: str) -> Call | None:
        return Call(Spot("det", f"{len(self.forgotten)}", 1), False, self.worked) if attempt else None

    def forget(self, attempt: str) -> None:
        if attempt:
            self.forgotten.append(attempt)


@pytest.mark.parametrize(("worked", "status"), [(True, False), (False, True), (False, False)])
def test_a_specialist_that_never_worked_stops_the_job(worked: bool, status: bool) -> None:
    one, notes = pool("abcd", 4), OnlyNotes(worked)
    one.calls = notes  # type: ignore[assignment]
    one.works |= {"det"} if status else set()
    stops = pytest.raises(StopJob, match="its worker died at each of 3 samples")
    with nullcontext() if worked or status else stops:
        for _ in range(2):
            one.assign()
            for actor in list(one.actors):
                one.requeue(actor, "killed")
        assert len(notes.forgotten) == 4 and not one.careful
