"""`fourmill doctor`, and the first lines of `plan`: what they say, and their exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data, runs
from fourmill_tests.tiny import hub as hubs
from fourmill_tests.tiny.hub import Hub, Model

QUICK = ("--measure", "0", "--for", "cpux4")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hubs.alone(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    weights = {"depth": {"weights": "org/depth", "predicts": "depth"}}
    settings = data.settings(
        tmp_path / "out", data.good_shards(tmp_path / "s", 1, 2), modalities=["rgb", "tok_depth"], labels__keep=[],
        labels__specialists=weights, generate__chains=[],
    )  # fmt: skip
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def test_what_is_good_and_what_is_not(hub: Hub, recipe: str) -> None:
    status, out, err = runs.command("doctor", recipe)
    assert status == 1 and "what to do" in out and "org/depth" in out and "1 to be mended" in out, err
    hub.models["org/depth"] = Model({"config.json": 2, "model.safetensors": 99_000_000}, "cc-by-nc-4.0")
    status, out, err = runs.command("doctor", recipe)
    assert status == 0 and "what to do" not in out and "cc-by-nc-4.0" in out and "99 MB" in out, err
    assert "all that the recipe needs is there, or can be fetched; 1 to know" in out


def test_json_says_the_same(hub: Hub, recipe: str) -> None:
    status, out, _ = runs.command("doctor", recipe, "--json", "--for", "h200x8")
    said = json.loads(out)
    assert (
        status == 1
        and not said["good"]
        and [one["what"] for one in said["problems"]] == ["labels.specialists.depth: org/depth"]
    )
    assert said["weights"][0]["state"] == "missing" and said["disks"] and not said["warnings"]


def test_a_wrong_recipe_or_machine_is_one_sentence(hub: Hub, recipe: str) -> None:
    for arguments in ((recipe, "--set", "train.stpes=1"), ("nowhere.yaml",), (recipe, "--for", "abacus")):
        status, out, err = runs.command("doctor", *arguments)
        assert status == 2 and not out and err.startswith("fourmill doctor: ") and "Traceback" not in err


def test_plan_begins_with_what_is_wrong(hub: Hub, recipe: str) -> None:
    status, out, err = runs.command("plan", recipe, *QUICK)
    first, second, *_ = out.splitlines()
    assert status == 0 and first.startswith("labels.specialists.depth: org/depth: there is no repository"), err
    assert second == "1 to be mended (`fourmill doctor` says more)"
    hub.models["org/depth"] = Model({"config.json": 2, "model.safetensors": 99_000_000})
    status, out, _ = runs.command("plan", recipe, *QUICK)
    assert out.splitlines()[0] == "all that the recipe needs is there, or can be fetched"


def test_plan_says_it_before_a_recipe_that_cannot_be_resolved(hub: Hub, recipe: str) -> None:
    status, out, err = runs.command("plan", recipe, "--set", "samples.train=[/nowhere/*.tar]")
    assert (
        status == 2 and "samples.train: shards: nothing found" in out and "org/depth" in out and "nothing found" in err
    )
