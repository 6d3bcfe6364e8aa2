"""Trackers only show a run: their trouble is not the run's. With stand-ins for both packages."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fourmill_tests import training
from fourmill_tests.cases import require


class Mlflow(ModuleType):
    """Its server goes away after two batches."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = ModuleSpec("mlflow", None)
        self.batches = 0

    def set_experiment(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1")

    def search_runs(self, *_: Any, **__: Any) -> list[Any]:
        return []

    def start_run(self, **_: Any) -> None:
        pass

    def log_dict(self, *_: Any) -> None:
        pass

    def end_run(self) -> None:
        pass

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.batches += 1
        if self.batches > 2:
            raise ConnectionError("503 of the MLflow server")


class Wandb(ModuleType):
    """WANDB_MODE=offline: a file of the run below its folder, which one syncs later."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)

    def init(self, **options: Any) -> Any:
        folder = Path(options.get("dir") or os.environ["WANDB_DIR"]) / "wandb" / "offline-run-1"
        folder.mkdir(parents=True)
        (folder / "run-1.wandb").write_bytes(b"lines")
        return SimpleNamespace(log=lambda *_: None, finish=lambda *_: None, define_metric=lambda *_, **__: None)


def test_an_outage_of_mlflow_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch-lightning#12833, transformers#28779: the curve may have a gap, the run goes on."""
    mlflow, said = Mlflow(), ""
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    try:
        training.train(training.job(tmp_path, trackers=["mlflow"]))
    except ConnectionError as error:
        said = str(error)
    if not mlflow.batches:
        raise RuntimeError("nothing was logged")
    require(not said, f"the run ends: {said}")


def test_an_offline_run_of_wandb_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute nodes without a network (wandb#4744, lerobot#897): there is a run to `wandb sync` below WANDB_DIR."""
    monkeypatch.setitem(sys.modules, "wandb", Wandb())
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb-logs"))
    training.train(training.job(tmp_path / "root", steps=2, checkpoint_every=2, warmup_steps=1, trackers=["wandb"]))
    require(any(tmp_path.rglob("*.wandb")), "the offline run is thrown away")
