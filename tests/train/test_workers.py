"""Workers: what each gets, which errors are tried again, what is shown; and Ray Train with two of them, one killed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fourmill_tests import data, runs, training

from fourmill.infra import ledger
from fourmill.project import Project
from fourmill.train import workers
from fourmill.train.board import Beat, BoardState
from fourmill.train.workers import Resources, bundle_of, capacity
from fourmill.verbs.make import fit

GPU_NODE = {"CPU": 32.0, "GPU": 4.0, "memory": 1e11}


@pytest.mark.parametrize(
    ("nodes", "resources", "bundle"),
    [
        ([{"CPU": 8.0}], Resources(3), {"CPU": 2.0}),
        ([{"CPU": 8.0}], Resources(1), {"CPU": 8.0}),
        ([{"CPU": 8.0}, {"CPU": 8.0}], Resources(3), {"CPU": 4.0}),  # 16 // 3 = 5 would fit only twice
        ([{"CPU": 0.0}, {"CPU": 3.0}, {"CPU": 16.0}], Resources(2), {"CPU": 8.0}),  # a head node without CPUs
        ([GPU_NODE] * 2, Resources(8, gpus=1), {"CPU": 8.0, "GPU": 1}),
        ([GPU_NODE, {"CPU": 64.0}], Resources(2, gpus=1), {"CPU": 16.0, "GPU": 1}),  # the other one has no GPU
        ([{"CPU": 2.0}], Resources(4, cpus=0.5), {"CPU": 0.5}),
        ([{"CPU": 1.0}], Resources(10, cpus=0.1), {"CPU": 0.1}),
        ([{"CPU": 8.0}], Resources((2, 4)), {"CPU": 2.0}),  # elastic: for the most that there may be
        ([{"CPU": 3.0}], Resources((2, 4)), {"CPU": 1.0}),  # or as many as there is room for
        ([GPU_NODE], Resources((2, 16), gpus=1), {"CPU": 8.0, "GPU": 1}),
    ],
)
def test_workers_share_what_fits_on_single_nodes(
    nodes: list[dict[str, float]], resources: Resources, bundle: dict[str, float]
) -> None:
    assert bundle_of(resources, nodes, "train") == bundle
    assert capacity(nodes, bundle) >= resources.least


@pytest.mark.parametrize(
    ("nodes", "resources", "said"),
    [
        ([{"CPU": 2.0}], Resources((3, 5)), "train.workers: 3 workers with 1 CPU each do not fit"),
        ([{"CPU": 2.0}], Resources(3), "train.workers: 3 workers with 1 CPU each do not fit .* 2 CPU, 0 GPU"),
        (
            [{"CPU": 6.0}] * 2,
            Resources(2, cpus=8),
            r"2 workers with 8 CPU each .*\(2 nodes, the largest: 6 CPU,",
        ),
        ([{"CPU": 8.0}], Resources(1, gpus=1), "1 CPU, 1 GPU each .* lower train.workers, train.cpus or train.gpus"),
        ([], Resources(1), "0 nodes, the largest: none"),
    ],
)
def test_workers_that_fit_nowhere_are_a_sentence(
    nodes: list[dict[str, float]], resources: Resources, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        bundle_of(resources, nodes, "train")


class Reporter:
    """In place of a worker's way to the board."""

    def __init__(self, failure: str = "") -> None:
        self.failure = failure

    def begin(self) -> str:
        return self.failure

    def fail(self, failure: str) -> None:
        self.failure = failure


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("error", [ValueError("no"), FloatingPointError("no"), FileNotFoundError("no"), OSError("no")])
def test_final_errors_are_not_retried(monkeypatch: pytest.MonkeyPatch, error: Exception, grouped: bool) -> None:
    """Others wait in a collective only within a group; without one the worker ends as if it were done."""
    monkeypatch.setattr(workers, "_in_group", lambda: grouped)
    calls = []

    def work(config: dict[str, Any]) -> None:
        calls.append(config)
        raise error

    reporter = Reporter()
    final = type(error) is not OSError
    if grouped or not final:
        with pytest.raises(type(error), match="no"):
            workers.guard(work)({"reporter": reporter})
    else:
        workers.guard(work)({"reporter": reporter})
    assert reporter.failure == (f"{type(error).__name__}: no" if final else "")
    if final:
        workers.guard(work)({"reporter": reporter})  # the next attempt
        assert len(calls) == 1


def test_workers_that_take_long_to_start_are_waited_for_aloud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers, "WAITING_SECONDS", 0.0)
    screen = workers._Screen(stage="fit")
    screen.show(BoardState())
    assert capsys.readouterr().err == "fit: its workers are still starting (0 s)\n"
    screen.show(BoardState(last={0: {"stage": "fit text", "done": 1, "total": 2, "unit": "captions", "notes": ""}}))
    assert "still starting" not in capsys.readouterr().err


def test_what_begins_again_has_a_rate_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Two tokenizers read their training samples under one name, the second after the first."""
    screen = workers._Screen()
    for done in (500, 32, 40):
        message = {"stage": "fit training", "done": done, "total": 3_000, "unit": "crops", "notes": ""}
        screen.show(BoardState(last={0: message}))
    screen.close()
    said = capsys.readouterr().err
    assert "500/3,000" in said and "40/3,000" in said and " -" not in said


def test_restarts_and_the_first_failure_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    screen = workers._Screen()
    message = {"stage": "train", "done": 3, "total": 8, "unit": "steps", "notes": ""}
    for state in (BoardState(), BoardState({0: message}, 1), BoardState({0: message}, 1), BoardState({}, 2)):
        screen.show(state)
    said = capsys.readouterr().err
    assert "3/8 steps" in said and said.count("workers failed and were started again (attempt 2)") == 1
    screen.show(BoardState({}, 2, "ValueError: no"))
    screen.show(BoardState())  # a board that was lost and is new
    assert screen.failure == "ValueError: no"


def test_a_changed_number_of_workers_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    screen = workers._Screen(elastic=True)
    for attempt in (1, 2):
        screen.show(BoardState({}, attempt))
    assert "workers failed, or their number changed; started again (attempt 2)" in capsys.readouterr().err


def test_work_that_gets_on_is_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train counts failures of a job of weeks; each trainer here ends as it does then."""
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.01)
    state, calls = BoardState(), list[float]()
    steps = [3, 5, 9, 9]  # after the last failure of each: the fourth one got no further

    def ask(method: Any, *arguments: Any) -> BoardState:
        return state

    class Trainer:
        def fit(self) -> None:
            state.last[0] = {"stage": "train", "done": steps[len(calls)], "total": 12, "unit": "steps", "notes": ""}
            calls.append(steps[len(calls)])
            raise RuntimeError("a node is gone")

    monkeypatch.setattr(workers, "ask", ask)
    monkeypatch.setattr(workers, "draining", lambda: set[str]())
    board: Any = SimpleNamespace(read=None)
    with pytest.raises(RuntimeError, match="a node is gone"):
        workers._watch(Trainer, board, workers._Screen(stage="train"))
    assert calls == steps


def test_where_workers_stand_still_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    beats = {
        0: Beat("at step 7", 100.0, 199.0), 1: Beat("waits for data", 90.0, 199.0), 2: Beat("at step 7", 95.0, 150.0),
        3: Beat("at step 7", 100.0, 200.0),
    }  # fmt: skip
    message = {"stage": "train", "done": 6, "total": 8, "unit": "steps", "notes": ""}
    state = BoardState({0: message}, 1, beats=beats, now=200.0)
    expected = "no worker gets on since 1:40: at step 7: worker 0, 3; waits for data: worker 1; not heard of for 50 s: "
    assert workers.stalled(state) == expected + "worker 2"
    screen = workers._Screen()
    screen._stall_said -= workers.STALL_SECONDS
    screen.show(state)
    screen.show(state)
    assert capsys.readouterr().err.count("no worker gets on") == 1
    beats[3] = Beat("at step 8", 199.0, 200.0)
    assert workers.stalled(state) == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.chaos
def test_two_workers_fit_what_one_fits(ray_cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of them is killed by a specialist, in the middle of the shards; Ray Train starts both again."""
    shards = data.good_shards(tmp_path / "s", 2, 8), data.good_shards(tmp_path / "s", 1, 8, first=50, name="val")
    killer = {"specialist": "fourmill_tests.specialists:Killer", "key": "000003", "marker": str(tmp_path / "killed")}
    options: dict[str, Any] = {
        "modalities": ["rgb", "tok_rgb", "tok_canny_edge", "caption"],
        "labels__keep": [],
        "labels__specialists": {"canny_edge": killer},
        "generate__chains": [],
        "fit__workers": 2,
        "fit__cpus": 1,
    }
    recipe = data.recipe(tmp_path / "out", *shards, **options)
    summary = fit.make(Project(recipe))
    assert summary.complete and summary.made == 3
    assert (tmp_path / "killed").exists()
    assert "workers failed and were started again (attempt 2)" in capsys.readouterr().err
    alone = data.recipe(tmp_path / "alone", *shards, **options)
    data.fit(alone)
    for name in ("tok_rgb/model.safetensors", "tok_canny_edge/model.safetensors", "text/tokenizer.json"):
        shared, single = (Path(one.root, "tokenizers", name).read_bytes() for one in (recipe, alone))
        assert shared == single, name


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.chaos
def test_training_resumes_when_a_rank_is_killed(
    ray_cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs of two ranks; in the second, rank 1 is killed between two checkpoints."""

    def dying(config: dict[str, Any]) -> None:
        """Sent to the workers by value: what it needs is imported here."""
        import os
        import signal
        from pathlib import Path

        from fourmill.train.pretrain import pretrain

        pretrain.work({**config, "job": config["whole"]})
        step = pretrain.Trainer.train_step

        def train_step(self: Any, *arguments: Any) -> Any:
            if self.rank == 1 and self.step == 3 and not Path(config["killed"]).exists():
                Path(config["killed"]).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, *arguments)

        pretrain.Trainer.train_step = train_step  # type: ignore[method-assign]
        pretrain.work(config)

    whole, job = training.job(tmp_path / "whole"), training.job(tmp_path / "killed")
    config = {"whole": whole, "job": job, "killed": str(tmp_path / "flag"), "environment": {}}
    workers.run(dying, config, Resources(2, cpus=1), "train", None)
    assert (tmp_path / "flag").exists()
    assert "workers failed and were started again (attempt 2)" in capsys.readouterr().err
    for root in (tmp_path / "whole", tmp_path / "killed"):
        assert ledger.read(str(root), "runs/4m", job.fingerprint) is not None
    rows = runs.losses(tmp_path / "killed")
    assert rows == runs.losses(tmp_path / "whole")
    assert [row["step"] for row in rows if row["kind"] == "val"] == [3, 6]
