from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from fourmill.infra import storage
from fourmill.train import metrics
from fourmill.train.metrics import Metrics


def test_lines_and_events(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    assert metrics.read(folder) == []
    log = Metrics(folder, 0)
    log.log(10, "train", {"loss": 1.23456789, "loss/caption": 2.0})
    log.log(10, "val", {"loss": 1.5})
    assert metrics.read(folder) == []  # nothing is put at every step
    log.close()
    assert metrics.read(folder) == [
        {"step": 10, "kind": "train", "loss": 1.23457, "loss/caption": 2.0},
        {"step": 10, "kind": "val", "loss": 1.5},
    ]
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))


def test_tensorboard_reads_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Metrics(str(tmp_path), 0)
    for step in (1, 2, 3):
        log.log(step, "train", {"loss": 10.0 / step})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (step, pytest.approx(10.0 / step)) for step in (1, 2, 3)
    ]


def test_a_resume_drops_what_is_beyond_its_checkpoint(tmp_path: Path) -> None:
    """The first attempt logged steps 1 to 4, its newest checkpoint is of step 2."""
    first = Metrics(str(tmp_path), 0)
    for step in (1, 2, 3, 4):
        first.log(step, "train", {"loss": float(step)})
    first.close()
    second = Metrics(str(tmp_path), 2)
    for step in (3, 4, 5):
        second.log(step, "train", {"loss": 10.0 * step})
    second.close()
    assert [(row["step"], row["loss"]) for row in metrics.read(str(tmp_path))] == [
        (1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0),
    ]  # fmt: skip


def test_lines_are_put_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Metrics(str(tmp_path), 0)
    monkeypatch.setattr(metrics, "FLUSH_SECONDS", 0.0)
    log.log(1, "train", {"loss": 1.0})
    log._thread.shutdown()
    assert len(metrics.read(str(tmp_path))) == 1


def test_slow_storage_delays_checkpoints_not_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first lines are being put others come; `flush` puts those too."""
    go, put, texts = threading.Event(), storage.put, []

    def slow(url: str, data: bytes, **options: Any) -> bool:
        assert go.wait(30)
        if url.endswith(".jsonl"):
            texts.append(data.count(b"\n"))
        return put(url, data, **options)

    log = Metrics(str(tmp_path), 0)
    monkeypatch.setattr(storage, "put", slow)
    monkeypatch.setattr(metrics, "FLUSH_SECONDS", 0.0)
    for step in (1, 2, 3):
        log.log(step, "train", {"loss": 1.0})
    log.skipped({"step": 4, "modalities": ["caption"], "samples": ["a"]})
    assert not texts
    go.set()
    log.flush()
    assert texts == [1, 4]
    assert metrics.read(str(tmp_path))[3] == {"step": 4, "kind": "skipped", "modalities": ["caption"], "samples": ["a"]}
    log.close()


def test_failed_writes_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> bool:
        raise OSError("No space left on device")

    log = Metrics(str(tmp_path), 0)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "put", full)
        log.log(1, "train", {"loss": 1.0})
        log.flush(wait=False)
        with pytest.raises(OSError, match="No space left"):
            log.flush()
    log.close()
    assert len(metrics.read(str(tmp_path))) == 1


@pytest.mark.parametrize("put_fails", [False, True])
def test_a_run_that_stops_short_keeps_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put_fails: bool
) -> None:
    class NoCredentials(Exception):
        """Errors of object stores are not all OSErrors."""

    def refuse(*_: Any, **__: Any) -> bool:
        raise NoCredentials

    log = Metrics(str(tmp_path), 0)
    log.log(1, "train", {"loss": 1.0})
    assert metrics.read(str(tmp_path)) == []
    with monkeypatch.context() as patch:
        if put_fails:
            patch.setattr(storage, "put", refuse)
            log.flush(wait=False)
            Metrics(str(tmp_path), 0).abandon()
            log._thread.shutdown()
    log.abandon()
    assert [row["loss"] for row in metrics.read(str(tmp_path))] == [1.0]
    assert list((tmp_path / "tensorboard").iterdir())
