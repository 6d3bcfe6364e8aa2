"""Two jobs on one root do no work twice, and the claims of a job that died are void."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data, engine

from fourmill import recipe as recipes
from fourmill.infra import storage
from fourmill.pipelines.engine import claims as claiming
from fourmill.pipelines.engine.claims import Claims
from fourmill.project import Project
from fourmill.verbs.stage import process_shards

NAMES = [f"{i:02d}" for i in range(6)]


def files(root: Path) -> list[str]:
    return storage.list_names(str(root / "ledger" / claiming.FOLDER))


def test_a_task_has_one_driver(tmp_path: Path) -> None:
    with Claims(str(tmp_path)) as first:
        first.take(NAMES, 2)
        with Claims(str(tmp_path)) as second:
            second.take(NAMES, 3)
            assert (first.held, second.held) == ({"00", "01"}, {"02", "03", "04"})
            assert second.others == {"00", "01"}
            first.take(NAMES, 9)
            assert first.held == {"00", "01", "05"}
            second.take(NAMES, 9)  # nothing is free
            assert second.held == {"02", "03", "04"}
        assert len(files(tmp_path)) == 1
    assert not files(tmp_path)


def test_what_is_done_is_free_again(tmp_path: Path) -> None:
    with Claims(str(tmp_path)) as first, Claims(str(tmp_path)) as second:
        first.take(NAMES, 6)
        first.release("03")
        first.take(["more"], 1)  # writes what is left
        second.take(NAMES, 9)
        assert second.held == {"03"}


def test_of_two_at_the_same_moment_the_older_one_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Claims(str(tmp_path)), Claims(str(tmp_path))
    looks = Claims._look
    first._write()
    second._write()

    def overtaken(self: Claims) -> None:
        looks(self)
        if self is second and not first.held:  # between the other one's look and its claim
            first.take(NAMES, 2)

    monkeypatch.setattr(Claims, "_look", overtaken)
    second.take(NAMES, 3)
    assert (first.held, second.held) == ({"00", "01"}, {"02"})


@pytest.mark.parametrize("how", ["gone", "silent", "damaged"])
def test_claims_of_a_driver_that_died_are_void(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = Claims(str(tmp_path))
    dead.held = set(NAMES)
    dead._write()
    path = tmp_path / "ledger" / claiming.FOLDER / f"{dead.identity}.json"
    content = json.loads(path.read_text())
    if how == "gone":  # of this machine, and its process has ended
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        path.write_text(json.dumps(content | {"pid": process.pid}))
    elif how == "silent":  # of another machine
        path.write_text(json.dumps(content | {"host": "elsewhere"}))
    else:
        path.write_text("{")
    other = Claims(str(tmp_path))
    other.take(NAMES, 6)
    if how == "silent":
        assert not other.held
        monkeypatch.setattr(claiming, "EXPIRES_SECONDS", -1.0)
        other._next_look = 0.0
        other.take(NAMES, 6)
    assert other.held == set(NAMES)


def test_two_stages_at_once_label_each_sample_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both plan before either begins: what one has made the other takes as made."""
    engine.inline(monkeypatch, 2)
    monkeypatch.setattr(claiming, "LOOK_SECONDS", 0.05)
    log = tmp_path / "log"
    settings = data.settings(
        tmp_path / "out", data.good_shards(tmp_path / "s", 12, 3), modalities=["tok_canny_edge"],
        labels__keep=["canny_edge"], generate__chains=[],
        labels__specialists={"canny_edge": {"specialist": "fourmill_tests.specialists:Counting", "log": str(log)}},
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    projects = [Project(recipes.load(tmp_path / "recipe.yaml")) for _ in range(2)]
    for project in projects:
        assert len(project.plan(project.label_outputs, footers=True).missing) == 12
    threads = [
        threading.Thread(target=process_shards, args=("label", project, project.label_outputs)) for project in projects
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(log.read_text().split()) == {f"{i:06d}": 1 for i in range(36)}
    assert not files(tmp_path / "out")
    assert not Project(projects[0].recipe).plan(projects[0].label_outputs).missing
