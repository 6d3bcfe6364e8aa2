"""Nodes of a cluster that come and go, with a plain object in place of Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fourmill.pipelines.engine import nodes, room
from fourmill.pipelines.engine.nodes import Nodes

A, B = "a" * 56, "b" * 56  # ids as Ray's


class TaskError(Exception):
    cause = None


class PlainRay:
    """living: names of nodes. fetched: names of those that have been asked to fetch; unready: whose calls run on."""

    exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=Exception)
    __version__ = "2.60.0"

    def __init__(self, *living: str) -> None:
        self.living, self.fetched, self.unready = list(living), list[str](), set[str]()
        self.broken: set[str] = set()
        self.cpus = 2.0

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "NodeID": name, "Resources": {"CPU": self.cpus, name: 1.0}, "Labels": {}}
            for name in self.living
        ]

    def remote(self, **_: Any) -> Any:
        def options(scheduling_strategy: Any) -> Any:
            def call(*_: Any) -> str:
                self.fetched.append(scheduling_strategy.node_id)
                return str(scheduling_strategy.node_id)

            return SimpleNamespace(remote=call)

        return lambda function: SimpleNamespace(options=options)

    def put(self, value: Any) -> Any:
        return value

    def get(self, ref: str) -> None:
        if ref in self.broken:
            raise TaskError("no weights")

    def wait(self, refs: list[str], timeout: float) -> tuple[list[str], list[str]]:
        return [ref for ref in refs if ref not in self.unready], [ref for ref in refs if ref in self.unready]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(nodes, "draining", lambda: set[str]())


def names(of: Nodes) -> set[str]:
    return {name for resources in of.resources() for name in resources if name != "CPU"}


def test_a_joining_node_is_used_once_it_is_set_up() -> None:
    ray = PlainRay(A)
    cluster = Nodes(ray, [object()])  # type: ignore[list-item]
    ray.living.append(B)
    ray.unready.add(B)
    assert not cluster.have_changed() and names(cluster) == {A}
    ray.unready.clear()
    assert cluster.have_changed() and names(cluster) == {A, B}
    assert ray.fetched == [A, B] and not cluster.have_changed()


def test_a_node_that_goes_away_is_noticed() -> None:
    ray = PlainRay(A, B)
    cluster = Nodes(ray, [])
    ray.living.remove(A)
    assert cluster.have_changed() and names(cluster) == {B} and ray.fetched == []


def test_a_node_that_cannot_fetch_gets_no_actors() -> None:
    ray = PlainRay(A)
    cluster = Nodes(ray, [object()])  # type: ignore[list-item]
    ray.living.append(B)
    ray.broken.add(B)
    assert not cluster.have_changed() and names(cluster) == {A}
    ray.broken.clear()
    assert cluster.have_changed() and names(cluster) == {A, B} and ray.fetched == [A, B, B]


def test_a_node_that_goes_away_takes_its_actors_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = PlainRay(A)
    cluster = Nodes(ray, [])
    assert not cluster.is_leaving(A) and not cluster.is_leaving("") and cluster.is_leaving(B)
    monkeypatch.setattr(nodes, "draining", lambda: {A})
    assert cluster.is_leaving(A)


def test_the_first_nodes_must_all_be_usable() -> None:
    ray = PlainRay(A, B)
    ray.broken.add(B)
    with pytest.raises(ValueError, match=rf"^node {B}: .*no weights.* \(1 of 2 nodes cannot be used\)$"):
        Nodes(ray, [object()])  # type: ignore[list-item]


def test_a_node_that_is_about_to_leave_gets_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = PlainRay(A, B)
    cluster = Nodes(ray, [])
    monkeypatch.setattr(nodes, "draining", lambda: {A, "another cluster's"})
    assert cluster.have_changed() and names(cluster) == {B} and cluster.leaving == {A}
    assert not cluster.have_changed()
    ray.living.remove(A)
    cluster.have_changed()
    assert names(cluster) == {B} and not cluster.leaving


def test_which_clusters_may_grow() -> None:
    ray = PlainRay(A)
    assert not Nodes(ray, []).may_grow()  # somebody has started its nodes by hand
    ray.cpus = 0.0
    assert Nodes(ray, []).may_grow()  # nothing works yet
    managed = {"Resources": {"CPU": 2.0}, "Labels": {room.LABEL: "workers"}}
    assert room.may_grow([managed]) and not room.may_grow([managed | {"Labels": None}])


class Groups:
    """What of Ray knows placement groups. placed: those that have room."""

    def __init__(self) -> None:
        self.asked, self.placed, self.count = dict[str, dict[str, float]](), set[str](), 0
        self.util = self

    def placement_group(self, bundles: list[dict[str, float]]) -> Any:
        self.count += 1
        name = str(self.count)
        (self.asked[name],) = bundles
        return SimpleNamespace(id=SimpleNamespace(hex=lambda: name))

    def remove_placement_group(self, group: Any) -> None:
        del self.asked[group.id.hex()]

    def placement_group_table(self) -> dict[str, dict[str, str]]:
        return {name: {"state": "CREATED" if name in self.placed else "PENDING"} for name in self.asked}


def test_room_is_asked_for_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ASK_SECONDS", 0.0)
    ray = Groups()
    asked = room.Room(ray, {"CPU": 2.0, "GPU": 0.0})
    asked.ask(2)
    assert ray.asked == {"1": {"CPU": 2.0}, "2": {"CPU": 2.0}} and asked.is_asked
    ray.placed.add("1")
    asked.ask(1)  # of what was placed an actor takes the place
    assert set(ray.asked) == {"2"}
    asked.ask(-1)
    assert not ray.asked and not asked.is_asked
    asked.ask(1000)
    assert len(ray.asked) == room.MOST
    asked.close()
    assert not ray.asked
