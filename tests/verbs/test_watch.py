"""`status --watch`: what each look finds while another process works on the root."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from fourmill_tests import data, runs

from fourmill import recipe as recipes
from fourmill.infra import ledger
from fourmill.project import Project
from fourmill.verbs import watch
from fourmill.verbs.look.status import missing_runs
from fourmill.verbs.watch import State, Watch

LABELS: dict[str, Any] = {"modalities": ["rgb"], "labels__keep": ["caption"], "generate__chains": []}


@pytest.fixture
def recipe(tmp_path: Path) -> recipes.Recipe:
    """Three shards, the last with samples that are rejected."""
    paths = data.good_shards(tmp_path / "s", 2, 3)
    (tmp_path / "s" / "train-00002.tar").write_bytes(data.tar(data.bad_entries()))
    settings = data.settings(tmp_path / "out", [*paths, str(tmp_path / "s" / "train-00002.tar")], **LABELS)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return recipes.parse(settings)


def make_one(recipe: recipes.Recipe) -> None:
    """The next shard that lacks something, as a job would."""
    worker, tasks = data.worker_of(recipe, data.outputs(recipe))
    data._run(worker, tasks[0])


def test_each_look_finds_what_was_committed(recipe: recipes.Recipe) -> None:
    looked = Watch(lambda: Project(recipe), missing_runs)
    state = looked.look()
    assert (state.shards, state.done, state.samples, state.shards_per_minute) == (3, 0, 0, 0.0)
    assert state.idle_seconds is None and state.seconds_left is None and not state.complete
    make_one(recipe)
    state = looked.look()
    assert (state.done, state.samples) == (1, 3) and state.idle_seconds is not None
    make_one(recipe)
    state = looked.look(time.time() + 60)
    # The second shard of the window came within some 60 s; a third is left.
    assert state.done == 2 and 0.5 < state.shards_per_minute <= 1.0
    assert state.seconds_left == pytest.approx(60 / state.shards_per_minute, rel=0.01)
    assert state.samples_per_second == pytest.approx(3 * state.shards_per_minute / 60, rel=0.2)
    make_one(recipe)
    state = looked.look()
    assert state.done == 3 and "samples: json: not valid JSON" in state.rejects
    (waits,) = state.waits_for
    assert waits.startswith("runs/4m: ") and not state.complete
    assert looked.look(time.time() + 3600).shards_per_minute == 0.0


def test_a_watch_that_begins_later_knows_the_rate(recipe: recipes.Recipe) -> None:
    make_one(recipe)
    make_one(recipe)
    assert Watch(lambda: Project(recipe)).look(time.time() + 30).shards_per_minute > 1.0


def test_outdated_outputs_count_once_they_are_made_again(recipe: recipes.Recipe, tmp_path: Path) -> None:
    for _ in range(3):
        make_one(recipe)
    changed = recipes.load(tmp_path / "recipe.yaml", ["images.jpeg_quality=50"])
    looked = Watch(lambda: Project(changed))
    assert looked.look().done == 0
    make_one(changed)
    assert looked.look().done == 1


def test_slow_shards_are_named(recipe: recipes.Recipe) -> None:
    for _ in range(3):
        make_one(recipe)
    project = Project(recipe)
    for shard, seconds in (("train-00000", 4.0), ("train-00001", 5.0), ("train-00002", 100.0)):
        for output in ("samples", "labels/caption", "tokens/rgb"):
            record = ledger.read(project.root, output, shard)
            assert record is not None
            url = ledger.record_url(project.root, output, shard)
            Path(url).write_bytes(ledger.dumps(dataclasses.replace(record, seconds=seconds)))
    state = Watch(lambda: Project(recipe)).look()
    assert state.median_seconds == 5.0 and state.slowest == {"train-00002": 100.0}


def test_it_prints_until_nothing_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    trained = {"step": 8, "steps": 20, "loss": 3.25}
    states = [
        State(400, 120, 480, 3.0, 12.5, 5600.0, 4.0, {"tokens/det: no image": 12}, {"00017": 812.0}, 240.0, absent=1),
        State(400, 399, 480, absent=1, waits_for=["runs/4m: trained up to step 8 of 20"], run=trained),
        State(400, 399, 480, absent=1),
    ]

    class Given:
        def look(self) -> State:
            return states.pop(0)

    waited: list[float] = []
    watch.follow(Given(), 30.0, False, waited.append)  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert waited == [30.0, 30.0] and not states
    for part in (
        "120/400 shards  480 samples  3.0 shards/min, 12.5 samples/s  1:33:20 left", "cannot be read: 1 shards",
        "rejects: tokens/det: no image x12", "slowest: 00017 13:32 (median 4:00)", "training: step 8 of 20, loss 3.25",
        "waits for runs/4m: trained up to step 8 of 20",
    ):  # fmt: skip
        assert part in out


def test_what_is_watched_is_json_for_programs(recipe: recipes.Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        make_one(recipe)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch.follow(Watch(lambda: Project(recipe), missing_runs), 5.0, True, interrupt)
    assert json.loads(capsys.readouterr().out)["done"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--watch", "0"], "--watch: got 0, expected a second"), (["--watch=x"], "invalid float")]
)
def test_a_wrong_interval_is_a_sentence(
    recipe: recipes.Recipe, tmp_path: Path, arguments: list[str], said: str
) -> None:
    status, _, err = runs.command("status", str(tmp_path / "recipe.yaml"), *arguments)
    assert status == 2 and said in err


def test_a_root_alone_cannot_be_watched(recipe: recipes.Recipe, tmp_path: Path) -> None:
    make_one(recipe)
    status, _, err = runs.command("status", str(tmp_path / "out"), "--watch")
    assert status == 2 and "--watch needs a recipe" in err


def test_times_of_records_are_read(recipe: recipes.Recipe) -> None:
    make_one(recipe)
    record = next(iter(Project(recipe).plan(data.outputs(recipe)).done.values()))
    assert abs(watch._time(record) - datetime.now(UTC).timestamp()) < 600
    assert watch._time(record._replace(own=())) == 0.0
