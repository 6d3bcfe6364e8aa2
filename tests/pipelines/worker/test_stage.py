"""Label and tokenize on the cluster: what can be done is done, with the same bytes, and the rest has its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fourmill_tests import data

from fourmill.infra import ledger
from fourmill.pipelines.worker import stage
from fourmill.pipelines.worker.reject_run import RejectRun
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.verbs.make import label, tokenize


def recipe(root: Path, shards: list[str], specialist: str = "", **options: Any) -> Recipe:
    specialists = (
        {"canny_edge": {"specialist": f"fourmill_tests.specialists:{specialist}", **options}} if specialist else {}
    )
    return data.recipe(
        root, shards, modalities=["rgb"], labels__keep=["canny_edge", "caption"], labels__specialists=specialists,
        generate__chains=[], engine__actors=1, engine__attempts=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return data.good_shards(tmp_path_factory.mktemp("engine"), 4, 3)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, shards: list[str]) -> dict[str, tuple[str, str]]:
    """The same columns, made without Ray."""
    plain = recipe(tmp_path_factory.mktemp("plain"), shards)
    data.make(plain, data.outputs(plain))
    return data.rows(plain.root)


def test_a_worker_that_is_killed_changes_nothing(
    ray_cluster: str, tmp_path: Path, shards: list[str], expected: dict[str, tuple[str, str]]
) -> None:
    marker = tmp_path / "killed"
    killed = recipe(tmp_path / "out", shards, "Killer", key="000004", marker=str(marker))
    summary = tokenize.make(Project(killed))
    assert marker.exists()
    assert summary.complete and summary.samples == 12 and not summary.rejects
    assert data.rows(killed.root) == expected
    assert tokenize.make(Project(killed)).made == 0


def test_a_sample_that_always_kills_costs_itself(ray_cluster: str, tmp_path: Path, shards: list[str]) -> None:
    killed = recipe(tmp_path / "out", shards, "Killer", key="000004", marker=str(tmp_path / "never"), once=False)
    summary = tokenize.make(Project(killed))
    assert summary.complete and summary.samples == 12
    record = ledger.read(killed.root, "labels/canny_edge", "train-00001")
    assert record is not None
    assert record.rejects == [{"key": "000004", "reason": "canny_edge: killed its worker 3 times"}]
    refused = recipe(tmp_path / "refused", shards, "Dark", key="000004")
    data.make(refused, data.outputs(refused))
    assert data.rows(killed.root) == data.rows(refused.root)
    assert not list(Path(killed.root).rglob("ledger/calls/*"))


def test_unreadable_shards_are_listed_and_others_done(ray_cluster: str, tmp_path: Path, shards: list[str]) -> None:
    empty, folder, missing = tmp_path / "zero.tar", tmp_path / "folder.tar" / "x.tar", tmp_path / "missing.tar"
    empty.touch()
    folder.mkdir(parents=True)
    broken = recipe(tmp_path / "out", [shards[0], str(empty), str(folder), str(missing)])
    # A folder is expanded to the tars in it, hence only by its bytes is the third one no shard.
    folder.rmdir()
    folder.write_bytes(b"no tar at all" * 100)
    summary = label.make(Project(broken))
    assert summary.samples == 3 and summary.made == 3
    assert set(summary.missing) == {"shard zero", "shard x", "shard missing"}
    assert "0 bytes" in summary.missing["shard zero"] and str(empty) in summary.missing["shard zero"]
    assert "not a tar archive" in summary.missing["shard x"]
    assert "there is no shard at" in summary.missing["shard missing"]


def test_a_run_of_rejects_stops_the_job_and_keeps_what_was_done(
    ray_cluster: str, tmp_path: Path, shards: list[str]
) -> None:
    failing = recipe(tmp_path / "out", shards, "Refusing")
    failing = failing.model_copy(update={"engine": failing.engine.model_copy(update={"max_reject_run": 2})})
    with pytest.raises(RejectRun, match=r"labels/canny_edge: 2 rejects in a row, .* key 00000\d: .*too dark"):
        label.make(Project(failing))
    assert not data.columns(failing.root)


def test_an_actor_takes_what_its_specialists_take(tmp_path: Path, shards: list[str]) -> None:
    plain = recipe(tmp_path / "out", shards)
    job = data.job(plain)
    assert job.demand(False) == job.demand(True) and job.demand(True).gpus == 0
    assert not job.uses_torch() and not job.node_setups()
    engine = plain.engine.model_copy(update={"cpus": 3.0, "gpus": 0.5})
    more = plain.model_copy(update={"engine": engine})
    assert (data.job(more).demand(True).cpus, data.job(more).demand(False).gpus) == (3.0, 0.5)
    assert "canny_edge 0.1 GiB" in job.advice_if_too_large()


def test_nothing_to_do_starts_nothing() -> None:
    job: Any = None
    assert stage.run(job, [], "label") == stage.Outcome()
