"""How many actors fit."""

from __future__ import annotations

import pytest

from fourmill.pipelines.engine.job import Demand
from fourmill.pipelines.engine.resources import no_place, places

NODES = [{"CPU": 8.0, "GPU": 1.0, "memory": 4.0 * 2**30}, {"CPU": 3.0, "memory": 64.0 * 2**30}]


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (Demand(1.0, 0.0, 0), 11),
        (Demand(2.0, 0.0, 0), 5),  # an actor lies on one node: 4 + 1, not 11 // 2 of all
        (Demand(1.0, 0.0, 2**30), 4 + 3),
        (Demand(1.0, 0.25, 0), 4),
        (Demand(9.0, 0.0, 0), 0),
        (Demand(1.0, 2.0, 0), 0),
    ],
)
def test_actors_fit_on_one_node_each(demand: Demand, expected: int) -> None:
    assert places(NODES, demand) == expected


def test_too_large_actors_are_explained() -> None:
    text = no_place(NODES, Demand(9.0, 0.0, 3 * 2**29), "wait")
    assert "asks for 9 CPUs, 0 GPUs and 1.5 GiB" in text
    assert "no node of the cluster has more than 8 CPUs, 1 GPUs and 64.0 GiB" in text
    assert text.endswith("or wait")
    assert "more than 3 CPUs, 0 GPUs" in no_place(NODES[1:], Demand(1.0, 1.0, 0), "wait")
