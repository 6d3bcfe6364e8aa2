"""Errors of the place on several workers: nothing of them is recorded, and the rest is the same, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fourmill_tests import data
from fourmill_tests.engine import inline

from fourmill.infra import ledger
from fourmill.pipelines.engine.job import StopJob
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.verbs.make import tokenize

SHARDS, SAMPLES = 4, 6


def recipe(root: Path, shards: list[str], specialist: str = "Slow", **options: Any) -> Recipe:
    return data.recipe(
        root, shards, modalities=["rgb"], labels__keep=["canny_edge", "caption"], generate__chains=[],
        labels__specialists={"canny_edge": {"specialist": f"fourmill_tests.specialists:{specialist}", **options}},
        engine__batch_size=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return data.good_shards(tmp_path_factory.mktemp("places"), SHARDS, SAMPLES)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, shards: list[str]) -> dict[str, tuple[str, str]]:
    plain = recipe(tmp_path_factory.mktemp("plain"), shards, seconds=0.0)
    data.make(plain, data.outputs(plain))
    return data.rows(plain.root)


def rejects(root: str) -> dict[str, str]:
    records = [ledger.read(root, "labels/canny_edge", f"train-{shard:05d}") for shard in range(SHARDS)]
    return {reject["key"]: reject["reason"] for record in records if record for reject in record.rejects}


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize("says", ["CUDA error: an illegal memory access was encountered", "the handle is invalid"])
@pytest.mark.parametrize(("calls", "only"), [(0, ""), (1, ""), (4, ""), (1, "1")])
def test_a_poisonous_accelerator_leaves_no_null(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shards: list[str], expected: dict[str, tuple[str, str]],
    places: int, says: str, calls: int, only: str,
) -> None:  # fmt: skip
    """In one of two workers, or in the only one: known by its text, or not; at all samples, or only some."""
    inline(monkeypatch, places)
    options = {"marker": str(tmp_path / "poisoned"), "calls": calls, "says": says, "only": only}
    poisoned = recipe(tmp_path / "out", shards, "Poisonous", **options)
    summary = tokenize.make(Project(poisoned))
    assert summary.complete and summary.samples == SHARDS * SAMPLES and not rejects(poisoned.root)
    assert data.rows(poisoned.root) == expected


def test_bad_samples_are_rejects_and_each_kind_costs_one_shard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shards: list[str], expected: dict[str, tuple[str, str]]
) -> None:
    inline(monkeypatch, 2)
    bad = ("000001", "000008", "000009", "000020")
    picky = recipe(tmp_path / "out", shards, "Picky", keys=list(bad))
    summary = tokenize.make(Project(picky))
    assert summary.complete and tuple(rejects(picky.root)) == bad
    assert rejects(picky.root)["000008"] == "canny_edge: RuntimeError: this sample only, 000008"
    untouched = [name for name in expected if "train-00002" in name]
    columns = data.rows(picky.root)
    assert untouched and all(columns[name] == expected[name] for name in untouched)


def test_where_nothing_works_nothing_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shards: list[str]
) -> None:
    inline(monkeypatch, 2)
    failing = recipe(tmp_path / "out", shards, "Failing")
    summary = tokenize.make(Project(failing))
    assert set(summary.missing) == {f"shard train-{shard:05d}" for shard in range(SHARDS)}
    assert "the weights are broken" in summary.missing["shard train-00000"]
    assert not data.columns(failing.root)


def test_a_place_that_stays_broken_stops_the_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shards: list[str]
) -> None:
    inline(monkeypatch)
    monkeypatch.setattr("fourmill.pipelines.engine.driver.MAX_GIVEN_UP", 2)
    failing = recipe(tmp_path / "out", shards, "Failing")
    with pytest.raises(StopJob, match=r"2 shards in a row could not be done, the last: .*the weights are broken"):
        tokenize.make(Project(failing))
