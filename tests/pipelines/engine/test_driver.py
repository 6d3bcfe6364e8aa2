"""Actors die, shards are broken: what can be done is done, with the same bytes, and the rest has its reason.

`_Pool` is tested with actors that are plain objects, the whole with Ray.
"""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fourmill_tests import data

from fourmill.pipelines.engine import driver as engine
from fourmill.pipelines.engine.driver import Outcome, _Pool
from fourmill.pipelines.engine.shard_worker import RejectRun
from fourmill.pipelines.plan import ShardTask
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.verbs.look import status
from fourmill.verbs.make import label, tokenize

# dealing, without Ray


class FakeActor:
    count = 0

    def __init__(self, *_: Any) -> None:
        self.run = SimpleNamespace(remote=self._run)

    def _run(self, task: ShardTask) -> str:
        FakeActor.count += 1
        return f"ref-{FakeActor.count}"


def pool(shards: str, size: int, attempts: int = 3) -> _Pool:
    job: Any = SimpleNamespace(engine=SimpleNamespace(cpus=1.0, attempts=attempts))
    tasks = deque(ShardTask(name, f"{name}.tar", "v", ("samples",)) for name in shards)
    return _Pool(job, tasks, size, SimpleNamespace(remote=FakeActor))


def loads(pool: _Pool) -> list[list[str]]:
    return [[task.shard for owner, task in pool.in_flight.values() if owner is actor] for actor in pool.actors]


@pytest.mark.parametrize(
    ("shards", "size", "expected"),
    [
        ("a", 1, [["a"]]),
        ("ab", 2, [["a"], ["b"]]),
        ("abc", 2, [["a"], ["b"]]),  # a second one each only while there are enough for all
        ("abcd", 2, [["a", "c"], ["b"]]),
        ("abcdef", 2, [["a", "c"], ["b", "d"]]),
        ("ab", 4, [["a"], ["b"]]),  # no more actors than tasks
    ],
)
def test_two_tasks_to_an_actor_while_there_are_plenty(shards: str, size: int, expected: list[list[str]]) -> None:
    one = pool(shards, size)
    one.deal()
    assert loads(one) == expected


def test_a_killer_is_given_up_and_its_neighbours_are_not() -> None:
    """One actor, two shards in flight: the neighbour dies with the killer once, and then each is done alone."""
    one, outcome = pool("akb", 1), Outcome()
    done: list[str] = []
    for _ in range(20):
        one.deal()
        if not one.in_flight:
            break
        (held,) = loads(one)
        if "k" in held:
            one.bury(one.actors[0], "killed", outcome)
            continue
        assert len(held) == 1 or not any(one.attempts[name] for name in held)
        ref, (_, task) = next(iter(one.in_flight.items()))
        del one.in_flight[ref]
        done.append(task.shard)
    assert sorted(done) == ["a", "b"]
    assert outcome.failures == {"k": "its worker died 3 times: killed"}
    assert one.attempts == Counter(k=3, a=1)


# with Ray


def recipe(root: Path, shards: list[str], specialist: str = "", **options: Any) -> Recipe:
    specialists = (
        {"canny_edge": {"specialist": f"fourmill_tests.specialists:{specialist}", **options}} if specialist else {}
    )
    return data.recipe(
        root, shards, modalities=["rgb"], labels__keep=["canny_edge", "caption"], labels__specialists=specialists,
        generate__chains=[], engine__actors=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return data.good_shards(tmp_path_factory.mktemp("engine"), 4, 3)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, shards: list[str]) -> dict[str, bytes]:
    """The same columns, made without Ray."""
    plain = recipe(tmp_path_factory.mktemp("plain"), shards)
    data.make(plain, data.outputs(plain))
    return data.columns(plain.root)


def test_a_worker_that_is_killed_changes_nothing(
    ray_cluster: str, tmp_path: Path, shards: list[str], expected: dict[str, bytes]
) -> None:
    marker = tmp_path / "killed"
    killed = recipe(tmp_path / "out", shards, "Killer", key="000004", marker=str(marker))
    summary = tokenize.make(Project(killed))
    assert marker.exists()
    assert summary.complete and summary.samples == 12 and not summary.rejects
    assert data.columns(killed.root) == expected
    assert tokenize.make(Project(killed)).made == 0


def test_a_shard_that_always_kills_is_given_up_with_the_reason(
    ray_cluster: str, tmp_path: Path, shards: list[str], expected: dict[str, bytes]
) -> None:
    killed = recipe(tmp_path / "out", shards, "Killer", key="000004", marker=str(tmp_path / "never"), once=False)
    summary = tokenize.make(Project(killed))
    assert list(summary.missing) == ["shard train-00001"]
    assert "its worker died 3 times" in summary.missing["shard train-00001"]
    assert summary.samples == 9
    others = {name: content for name, content in expected.items() if "train-00001" not in name}
    assert data.columns(killed.root) == others
    assert "shard train-00001" in status.describe(Project(killed))["missing"]


def test_shards_that_cannot_be_read_are_told_and_the_others_done(
    ray_cluster: str, tmp_path: Path, shards: list[str]
) -> None:
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
    failing = recipe(tmp_path / "out", shards, "Failing")
    failing = failing.model_copy(update={"engine": failing.engine.model_copy(update={"max_reject_run": 2})})
    with pytest.raises(RejectRun, match=r"labels/canny_edge: 2 rejects in a row, .* key 00000\d: .*weights are broken"):
        label.make(Project(failing))
    assert not data.columns(failing.root)


def test_more_than_the_cluster_has_is_a_sentence(ray_cluster: str, tmp_path: Path, shards: list[str]) -> None:
    greedy = recipe(tmp_path / "out", shards)
    greedy = greedy.model_copy(update={"engine": greedy.engine.model_copy(update={"cpus": 1e6})})
    with pytest.raises(ValueError, match=r"lower engine.cpus"):
        label.make(Project(greedy))


def test_nothing_to_do_starts_nothing() -> None:
    job: Any = None
    assert engine.run(job, [], "label") == Outcome()
