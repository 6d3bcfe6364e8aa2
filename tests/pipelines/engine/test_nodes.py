"""Nodes of a cluster that come and go, with a plain object in place of Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fourmill.pipelines.engine import nodes
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

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "NodeID": name, "Resources": {"CPU": 2.0, name: 1.0}} for name in self.living]

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
    monkeypatch.setattr(nodes, "draining", lambda: set[str]())
    assert not cluster.is_leaving(A) and not cluster.is_leaving("") and cluster.is_leaving(B)
    monkeypatch.setattr(nodes, "draining", lambda: {A})
    assert cluster.is_leaving(A)


def test_the_first_nodes_must_all_be_usable() -> None:
    ray = PlainRay(A, B)
    ray.broken.add(B)
    with pytest.raises(ValueError, match=rf"^node {B}: .*no weights.* \(1 of 2 nodes cannot be used\)$"):
        Nodes(ray, [object()])  # type: ignore[list-item]
