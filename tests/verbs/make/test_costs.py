"""What a plan says of hours, bytes, requests and money, and how it compares with what was done."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fourmill_tests import data, runs

from fourmill.infra import storage
from fourmill.project import Project
from fourmill.recipe import dump
from fourmill.verbs import costs
from fourmill.verbs.make import plan

PRICES = {"gpu_hour": 2.5, "core_hour": 0.04, "gib_month": 0.023, "million_requests": 5.0}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    changes: dict[str, Any] = {"modalities": ["rgb", "caption"], "labels__keep": ["caption"], "generate__chains": []}
    return Project(data.recipe(tmp_path / "out", data.good_shards(tmp_path / "s", 2, 8), **changes))


@pytest.fixture
def described(project: Project) -> dict[str, Any]:
    return plan.describe(project, 4, prices=PRICES)


def stage(described: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (one for one in described["stages"] if one["stage"] == name)
    return dict(found)


def test_every_stage_has_its_cost(project: Project, described: dict[str, Any]) -> None:
    actors = described["actors"]
    for name in ("label", "tokenize", "train"):
        one = stage(described, name)
        cores = actors["cluster"]["CPU"] if name == "train" else actors["at_once"] * actors["cpus"]
        assert one["gpu_hours"] == 0.0 and one["core_hours"] == round(one["seconds"] / 3600 * cores, 3)
        assert one["bytes"] > 0 and one["requests"] == 0  # the root is a folder here
        money = 0.04 * one["core_hours"] + 0.023 * one["bytes"] / 2**30
        assert one["money"] == pytest.approx(money, abs=1e-4)
    assert stage(plan.describe(project, 4), "label")["money"] is None  # no price is built in


def test_requests_count_where_the_root_is_in_a_bucket(project: Project, described: dict[str, Any]) -> None:
    stages = [dict(one) for one in described["stages"]]
    project.recipe = project.recipe.model_copy(update={"root": "s3://bucket/out"})
    costs.add(stages, project, described, {}, PRICES)
    label, tokenize = (one["requests"] for one in stages if one["stage"] in ("label", "tokenize"))
    assert label == 2 * 2 * costs.OF_OUTPUT and tokenize == 2 * 2 * costs.OF_OUTPUT


def test_what_was_planned_is_compared_once_it_is_done(project: Project, described: dict[str, Any]) -> None:
    """By the samples that were done: the first of two shards was there before."""
    costs.keep(project.root, described["stages"], described["samples"])
    assert costs.compared(project.root, described["stages"]) == []  # nothing is done
    times = {"seconds": 30.0, "made": 2, "samples": 8, "unit": "samples", "asked": "x"}
    storage.put(storage.join(project.root, "ledger", "stages", "label.json"), json.dumps(times).encode())
    done = [one | {"seconds": 0.0} if one["stage"] in ("label", "fit") else one for one in described["stages"]]
    (row,) = costs.compared(project.root, done)
    planned = stage(described, "label")["seconds"] / 2
    assert row["planned"] == round(planned, 1) and row["took"] == 30.0 and row["ratio"] == round(30.0 / planned, 2)


@pytest.mark.parametrize("word", ["gpu=2", "gpu_hour", "gpu_hour=", "gpu_hour=much", "gpu_hour=-1", "core_hour=nan"])
def test_wrong_prices_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match=f"--price: got {re.escape(repr(word))}, expected"):
        costs.parsed([word])


def test_another_machine_may_have_measured(
    project: Project, described: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seconds of a sample and its FLOP/s count, and nothing is labelled here."""
    node = json.loads(json.dumps(described))
    node["measured"]["seconds_per_sample"] *= 1000
    node["node"] = {"machine": "the other one", "flops": {"4m": 1.0}}
    (tmp_path / "node.json").write_text(json.dumps(node))
    (tmp_path / "recipe.yaml").write_text(dump(project.recipe))
    monkeypatch.setattr(plan, "_measured", lambda *_: pytest.fail("it was measured here"))
    words = ["plan", str(tmp_path / "recipe.yaml"), "--node", str(tmp_path / "node.json"), "--json"]
    status, out, err = runs.command(*words)
    assert status == 0, err
    there = json.loads(out)
    assert stage(there, "label")["seconds"] > stage(described, "label")["seconds"]
    assert stage(there, "train")["seconds"] > 10 * stage(described, "train")["seconds"]
    assert all("the other one" in stage(there, name)["rests_on"] for name in ("label", "train"))


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text("{}")
    for name in ("node.json", "nowhere.json"):
        with pytest.raises(ValueError, match="is no plan of another machine; there, with the same recipe, run"):
            costs.of_node(str(tmp_path / name))
