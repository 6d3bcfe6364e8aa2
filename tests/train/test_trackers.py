"""Trackers get every line, continue the same run, and name a missing package; with stand-ins for both services."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fourmill_tests import training

from fourmill.train import metrics, trackers


class Wandb(ModuleType):
    """Keeps what it receives, run by run, as the service would."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.lines: dict[str, list[dict[str, float]]] = {}
        self.open = 0

    def init(self, **options: Any) -> Any:
        self.inits.append(options)
        lines = self.lines.setdefault(options["id"], [])
        self.open += 1

        def finish() -> None:
            self.open -= 1

        return SimpleNamespace(log=lines.append, finish=finish, define_metric=lambda *_, **__: None)


class Mlflow(ModuleType):
    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: list[dict[str, Any]] = []
        self.active: dict[str, Any] | None = None
        self.experiments: list[str] = []

    def set_experiment(self, name: str) -> Any:
        self.experiments.append(name)
        return SimpleNamespace(experiment_id="7")

    def search_runs(self, experiments: list[str], filter_string: str, output_format: str) -> list[Any]:
        assert experiments == ["7"] and output_format == "list"
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=run["id"]))
            for run in self.runs
            if filter_string == f"tags.fourmill = '{run['tags']['fourmill']}'"
        ]

    def start_run(self, run_id: str | None = None, run_name: str = "", tags: dict[str, str] | None = None) -> None:
        if run_id is None:
            self.runs.append({"id": str(len(self.runs)), "name": run_name, "tags": tags, "lines": [], "dicts": []})
            run_id = self.runs[-1]["id"]
        self.active = self.runs[int(run_id)]

    def log_dict(self, values: dict[str, Any], name: str) -> None:
        assert self.active is not None
        self.active["dicts"].append(name)

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        assert self.active is not None
        self.active["lines"].append((step, values))

    def end_run(self) -> None:
        self.active = None


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Wandb, Mlflow]]:
    services = Wandb(), Mlflow()
    for fake in services:
        fake.__spec__ = SimpleNamespace(name=fake.__name__)  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
    yield services


def test_every_line_goes_to_the_trackers(tmp_path: Path, fakes: tuple[Wandb, Mlflow]) -> None:
    """A run that dies at step 3 and goes on from step 2: one run of each tracker."""
    wandb, mlflow = fakes
    job = training.job(tmp_path, trackers=["wandb", "mlflow"])
    training.train_until(job, 3)
    training.train(job)
    (lines,) = wandb.lines.values()
    assert [init["resume"] for init in wandb.inits] == ["allow", "allow"]
    assert wandb.inits[0]["project"] == "fourmill" and wandb.inits[0]["config"]["train"]["steps"] == 6
    (run,) = mlflow.runs
    assert run["name"] == "4m" and run["dicts"] == ["recipe.json"] and mlflow.active is None
    assert wandb.open == 1, "the run that died could not close its own"
    kept = {(row["step"], row["kind"]): row["loss"] for row in metrics.read(job.folder)}
    for (step, kind), loss in kept.items():
        assert any(row["step"] == step and abs(row.get(f"{kind}/loss", 0.0) - loss) < 1e-4 for row in lines)
        assert any(s == step and abs(values.get(f"{kind}/loss", 0.0) - loss) < 1e-4 for s, values in run["lines"])


def test_another_run_is_another_run(tmp_path: Path, fakes: tuple[Wandb, Mlflow]) -> None:
    job = training.job(tmp_path, trackers=["mlflow", "wandb"])
    for one in (job, replace(job, fingerprint="other")):
        ended(trackers.trackers(one))
    assert len(fakes[1].runs) == 2 and set(fakes[0].lines) == {"print", "other"}


def ended(started: list[trackers.Watcher]) -> None:
    for tracker in started:
        tracker.finish(complete=True)
        tracker.wait(60)


def test_projects_are_the_environment_s(
    tmp_path: Path, fakes: tuple[Wandb, Mlflow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    ended(trackers.trackers(training.job(tmp_path, trackers=["mlflow", "wandb"])))
    assert fakes[0].inits[0]["project"] == "mine" and fakes[1].experiments == ["ours"]
    assert "dir" not in fakes[0].inits[0], "its own settings say where it lies"


def test_workers_get_what_the_command_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cluster was started elsewhere, with another environment and another working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", "curves")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    given = trackers.environment(["wandb"])
    assert (given["WANDB_MODE"], given["WANDB_DIR"]) == ("offline", str(tmp_path / "curves"))
    assert given["MLFLOW_TRACKING_URI"] == "http://there"
    monkeypatch.delenv("WANDB_DIR")
    assert trackers.environment(["wandb"])["WANDB_DIR"] == str(tmp_path)


def test_a_missing_package_is_a_sentence_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    trackers.check(["wandb"])
    assert "train.trackers: wandb is not installed" in capsys.readouterr().err
    job = training.job(tmp_path, trackers=["wandb"])
    training.train(job)
    assert metrics.read(job.folder)[-1]["step"] == 6


def test_one_that_never_answers_delays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at its start nor at a line; the end of the run waits for a moment, and no longer."""
    never = threading.Event()
    monkeypatch.setattr(trackers, "TRACKERS", {"mlflow": lambda job: never.wait()})
    monkeypatch.setattr(trackers, "WAITING", 3)
    monkeypatch.setattr(metrics, "CLOSE_SECONDS", 0.01)
    job = training.job(tmp_path, trackers=["mlflow"])
    training.train(job)
    assert metrics.read(job.folder)[-1]["step"] == 6
    never.set()


def test_one_that_comes_back_gets_the_later_lines(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[int] = []
    starts = iter([ConnectionError("503"), SystemExit(1)])

    class Kept:
        def log(self, step: int, values: Any) -> None:
            lines.append(step)

        def close(self) -> None:
            raise OSError("gone again")

    def start() -> Kept:
        for error in starts:
            raise error
        return Kept()

    watcher = trackers.Watcher("mlflow", start)
    for step in (1, 2, 3):
        watcher.log(step, {"train/loss": 1.0})
    ended([watcher])
    assert lines == [2, 3]
    assert [text for text in ("503", "SystemExit", "gone again") if text not in caplog.text] == []
