"""Training without Ray, on columns of random tokens: the same run however it is shared, stopped and watched."""

from __future__ import annotations

import concurrent.futures
import errno
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fourmill_tests import runs, training

from fourmill.infra import storage
from fourmill.model import checkpoint as model_files
from fourmill.model.fourm import FourM
from fourmill.train import board, checkpoint, metrics, workers
from fourmill.train.pretrain import trainer, weights
from fourmill.train.pretrain.job import MODEL_FILES, model_config
from fourmill.train.pretrain.parts import split
from fourmill.train.pretrain.trainer import Trainer
from fourmill.train.pretrain.weights import load_model


def weights_of(folder: str, name: str = "model") -> dict[str, torch.Tensor]:
    return model_files.load(Path(folder, name)).state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run that nothing happened to."""
    return training.train(training.job(tmp_path_factory.mktemp("whole")))


def test_the_loss_falls_and_everything_is_logged(whole: Trainer) -> None:
    rows = runs.losses(Path(whole.job.root))
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == [1, 2, 3, 4, 5, 6]
    assert train[-1]["loss"] < train[0]["loss"] - 0.1
    assert {"loss", "loss/tok_rgb", "loss/caption", "loss/tok_dinov2_global", "lr", "gradient_norm"} <= set(train[0])
    assert [row["step"] for row in rows if row["kind"] == "val"] == [3, 6]


@pytest.mark.parametrize("at", [1, 5])
def test_a_killed_run_goes_on_as_if_it_had_not(whole: Trainer, tmp_path: Path, at: int) -> None:
    """Before the first checkpoint, and after the second; the weights are equal bit by bit."""
    job = training.job(tmp_path)
    training.train_until(job, at)
    torch.manual_seed(99)
    training.train(job)
    assert runs.losses(tmp_path) == runs.losses(Path(whole.job.root))
    actual, expected = weights_of(job.folder), weights_of(whole.job.folder)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_a_damaged_checkpoint_is_passed_over(whole: Trainer, tmp_path: Path) -> None:
    """The one before it counts, the run says so, and ends as if nothing had happened."""
    job = training.job(tmp_path)
    training.train_until(job, 5)
    Path(job.folder, "checkpoints", "step-00000004", checkpoint.MARKER).write_text("{")
    finished = training.train(job)
    assert [note.partition("; ")[2] for note in finished.notes] == ["passed over for step 2"]
    assert runs.losses(tmp_path) == runs.losses(Path(whole.job.root))
    actual, expected = weights_of(job.folder), weights_of(whole.job.folder)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def poison(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """The gradients of these steps hold a NaN."""
    take, norm, now = Trainer.train_step, Trainer._norm, [0]

    def stepping(self: Trainer, *args: Any) -> None:
        now[0] = self.step + 1
        take(self, *args)

    def poisoned(self: Trainer, *args: Any) -> torch.Tensor:
        if now[0] in steps:
            gradient = self.weights.parameters[3].grad
            assert gradient is not None
            gradient.view(-1)[0] = math.nan
        return norm(self, *args)

    monkeypatch.setattr(Trainer, "train_step", stepping)
    monkeypatch.setattr(Trainer, "_norm", poisoned)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip_norm: float | None
) -> None:
    """Weights, moments, average, and the number of steps that corrects the moments."""
    poison(monkeypatch, 3)  # at the first step the learning rate is 0: nothing differs from its average yet
    one = training.trainer(training.job(tmp_path, ema=0.5, clip_norm=clip_norm, weight_decay=0.5))
    batches, window = one.loader.made(one.parts, 0, 8), trainer.Window(one.outputs)
    seen = []
    for _ in range(4):
        one.train_step(next(batches)[1], window)
        steps = {f"step.{n}": one.weights.optimizer.state[p]["step"] for n, p in one.weights.named.items()}
        seen.append({name: tensor.clone() for name, tensor in (one.weights.tensors() | steps).items()})
    batches.close()
    _, before, after, later = seen
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(not torch.equal(after[name], later[name]) for name in after)
    assert all(torch.isfinite(tensor).all() for tensor in later.values())
    assert all(int(later[name]) == 3 for name in later if name.startswith("step."))


def test_nonfinite_steps_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the log, and a run that was stopped in between ends with the same weights, bit by bit."""
    with monkeypatch.context() as patch:
        poison(patch, 2, 3)
        with pytest.raises(
            FloatingPointError, match=r"gradient is nan at step 2 .*; set train.nonfinite=skip to go on"
        ):
            training.train(training.job(tmp_path / "stopped"))
        whole = training.train(training.job(tmp_path / "whole", nonfinite="skip", ema=0.5, log_every=2))
        killed = training.job(tmp_path / "killed", nonfinite="skip", ema=0.5, log_every=2)
        training.train_until(killed, 5)
        training.train(killed)
    rows = runs.losses(tmp_path / "whole")
    assert rows == runs.losses(tmp_path / "killed")
    assert [(row["step"], row["kind"]) for row in rows] == [
        (2, "skipped"), (2, "train"), (3, "val"), (3, "skipped"), (4, "train"), (6, "train"), (6, "val"),
    ]  # fmt: skip
    assert rows[0]["modalities"] == list(whole.outputs), "the losses were good, so nobody knows which it was"
    assert len(rows[0]["samples"]) == 8 and all(key.startswith("train-") for key in rows[0]["samples"])
    for name in ("model", "last"):
        actual, expected = weights_of(killed.folder, name), weights_of(whole.job.folder, name)
        assert all(torch.equal(actual[key], expected[key]) for key in expected)


def test_too_many_skipped_steps_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those with others in between; and what is advised then is another run that begins with these weights."""
    monkeypatch.setattr(trainer, "MAX_SKIPPED", 3)
    poison(monkeypatch, 1, 2, 4, 5, 6)
    job = training.job(tmp_path, nonfinite="skip")
    said = (
        r"the norm of the gradient is not finite at step 6, as at the 2 before it \(modalities: tok_rgb, .*; samples: "
        rf"train-.*; lower train.base_lr.* \(train.init={job.folder}/checkpoints begins"
    )
    with pytest.raises(FloatingPointError, match=said):
        training.train(job)


def losses(root: Path) -> np.ndarray:
    return np.array([row["loss"] for row in runs.losses(root)])


@pytest.mark.parametrize(
    "change", [{"accumulate": 4}, {"activation_checkpointing": "selective"}, {"accumulate": 2, "loss": "token"}]
)
def test_how_a_step_is_divided_does_not_change_it(whole: Trainer, tmp_path: Path, change: dict[str, Any]) -> None:
    base = {"loss": change["loss"]} if "loss" in change else {}
    plain = training.train(training.job(tmp_path / "plain", **base)) if base else whole
    training.train(training.job(tmp_path / "other", **change))
    np.testing.assert_allclose(losses(tmp_path / "other"), losses(Path(plain.job.root)), rtol=1e-3)


def test_the_token_loss_is_the_mean_over_all_targets(tmp_path: Path) -> None:
    one = training.trainer(training.job(tmp_path, loss="token"))
    window = trainer.Window(one.outputs)
    _, batch = next(one.loader.batches(0, 8))
    with torch.no_grad():
        expected = one.model(batch, weighting="token").loss
    one.train_step(one.parts(batch), window)
    assert window.entries[0].loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_modality_loss_is_the_models_own(tmp_path: Path) -> None:
    one = training.trainer(training.job(tmp_path, accumulate=2))
    window = trainer.Window(one.outputs)
    _, batch = next(one.loader.batches(0, 8))
    with torch.no_grad():
        expected = one.model(batch).loss
    one.train_step(one.parts(batch), window)
    assert window.entries[0].loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_bfloat16_trains_like_float32(whole: Trainer, tmp_path: Path) -> None:
    finished = training.train(training.job(tmp_path, precision="bf16"))
    assert all(p.dtype == torch.float32 for p in finished.model.parameters())
    actual, expected = losses(tmp_path), losses(Path(whole.job.root))
    np.testing.assert_allclose(actual, expected, rtol=0.05)
    assert not np.array_equal(actual, expected)


@pytest.mark.parametrize("use_ema", [True, False])
def test_the_average_is_kept_beside_the_weights(whole: Trainer, tmp_path: Path, use_ema: bool) -> None:
    decay = 0.5
    job = training.job(tmp_path, ema=decay, use_ema=use_ema)
    averages: list[dict[str, torch.Tensor]] = []
    one = training.trainer(job)
    average = {name: p.detach().clone() for name, p in one.weights.named.items()}
    batches = one.loader.made(one.parts, 0, 8)
    for done in (1, 2, 3):
        one.train_step(next(batches)[1], trainer.Window(one.outputs))
        ramped = min(decay, (1 + done) / (10 + done))
        average = {n: ramped * average[n] + (1 - ramped) * p.detach() for n, p in one.weights.named.items()}
    averages.append(average)
    for name, value in zip(one.weights.named, one.weights.average, strict=True):
        torch.testing.assert_close(value, average[name])
    batches.close()

    training.train(job)
    raw, other = ("last", "model") if use_ema else ("model", "ema")
    plain = weights_of(whole.job.folder)
    actual = weights_of(job.folder, raw)
    assert all(torch.equal(actual[name], plain[name]) for name in plain)
    moved = weights_of(job.folder, other)
    assert any(not torch.equal(moved[name], plain[name]) for name in plain)
    chosen = load_model(job.folder).state_dict()
    assert all(torch.equal(chosen[name], (moved if use_ema else actual)[name]) for name in plain)
    values = [row["loss"] for row in runs.losses(tmp_path) if row["kind"] == "val"]
    expected = [row["loss"] for row in runs.losses(Path(whole.job.root)) if row["kind"] == "val"]
    assert (values == expected) is not use_ema


def test_the_average_of_many_steps_has_the_decay_itself() -> None:
    """From step 9 / (1 - decay) on nothing is ramped: a run that resumes there goes on as it always did."""
    module = FourM(model_config(training.job_of(training.recipe_of("root"), training.SPECS)))
    one = weights.Weights(module, ema=0.9)
    one.resumed(100)
    for p, value in zip(one.parameters, one.average, strict=True):
        p.grad = torch.ones_like(p)
        value.fill_(1.0)
    one.step(0.1, torch.ones(()))
    for p, value in zip(one.parameters, one.average, strict=True):
        torch.testing.assert_close(value, 0.9 + 0.1 * p.detach())


def test_a_step_divides_by_what_its_mixtures_predict(tmp_path: Path) -> None:
    """As apple/ml-4m by its out_domains; which they are may change in the course of a run."""
    late, early = {"caption": 1}, {"tok_rgb": 1, "tok_dinov2_global": 1}
    mixtures = [
        {"input_alpha": {"rgb": 1}, "target_alpha": early, "during": [0, 0.5]},
        {"input_alpha": {"rgb": 1}, "target_alpha": late, "during": [0.5, 1]},
    ]
    job = training.job(tmp_path, steps=4, warmup_steps=1, validate_every=4, mixtures=mixtures)
    training.train(job)
    rows = runs.losses(tmp_path)
    for row in rows:
        losses = [value for name, value in row.items() if name.startswith("loss/")]
        assert row["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    named = [{name for name in row if name.startswith("loss/")} for row in rows if row["kind"] == "train"]
    assert named == [{f"loss/{name}" for name in each} for each in (early, early, late, late)]


def test_a_model_can_be_had_before_its_run_ends(whole: Trainer, tmp_path: Path) -> None:
    job = training.job(tmp_path, ema=0.9)
    one = training.trainer(job)
    batches = one.loader.made(one.parts, 0, 8)
    for _ in range(2):
        one.train_step(next(batches)[1], trainer.Window(one.outputs))
    batches.close()
    one.save()
    one.saver.wait()
    loaded = load_model(job.folder)
    for (name, p), value in zip(loaded.named_parameters(), one.weights.average, strict=True):
        assert torch.equal(p, value), name


def test_a_run_says_what_it_comes_from_before_it_ends(tmp_path: Path) -> None:
    for name, rows in (("train", 32), ("val", 8)):
        training.write_columns(tmp_path, name, rows, tokenizer="0123")
    job = replace(training.job(tmp_path), tokenizers={"tok_rgb": "0123"})
    training.train_until(job, 3)
    assert yaml.safe_load(Path(job.folder, "recipe.yaml").read_text()) == job.recipe
    assert json.loads(Path(job.folder, "tokenizers.json").read_text()) == {"tok_rgb": "0123"}


class Asking(training.Silent):
    """A board on which the command asks something at a step."""

    def __init__(self, one: Trainer, step: int, stop: bool) -> None:
        self.one, self.step, self.number = one, step, board.number_of(1, stop)

    def asked(self) -> int:
        return self.number if self.one.step >= self.step else 0


def test_a_run_that_is_stopped_saves_and_goes_on(whole: Trainer, tmp_path: Path) -> None:
    """At a step that has no checkpoint of its own, and no validation; the weights are those of a run in one piece."""
    job = training.job(tmp_path, checkpoint_every=100)
    one = training.trainer(job)
    with pytest.raises(board.Stopped, match="stopped at step 3, which is saved"):
        one.run(Asking(one, 3, stop=True))
    assert [saved.step for saved in checkpoint.complete(job.checkpoints)] == [3] and job.model_step() == 3
    training.train(job)
    expected = weights_of(whole.job.folder)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(job.folder).items())


def test_a_notice_saves_and_training_goes_on(tmp_path: Path) -> None:
    job = training.job(tmp_path, checkpoint_every=100, keep_checkpoints=5)
    one = training.trainer(job)
    one.run(Asking(one, 2, stop=False))
    assert [saved.step for saved in checkpoint.complete(job.checkpoints)] == [2, 6], "once"


def test_a_full_disk_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the step after the write that failed, and as an error that no other attempt would mend."""
    put = storage.put

    def full(url: str, data: bytes, **options: Any) -> bool:
        if "checkpoints/" in url:
            raise OSError(errno.ENOSPC, "No space left on device", url)
        return put(url, data, **options)

    monkeypatch.setattr(storage, "put", full)
    one = training.trainer(training.job(tmp_path, steps=50, checkpoint_every=2, validate_every=50, log_every=50))
    take = one.train_step

    def waiting(*arguments: Any) -> float:
        if one.saver._writing is not None:
            concurrent.futures.wait([one.saver._writing], 60)
        return take(*arguments)

    one.train_step = waiting  # type: ignore[method-assign]
    reporter: Any = training.Silent()
    with pytest.raises(OSError, match=r"cannot write the checkpoint: .*No space left on device") as raised:
        one.run(reporter)
    assert one.step == 3 and workers.final(raised.value)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing waits until two more steps are done; the checkpoint holds what was when it began."""
    import threading

    from fourmill.train import sharded

    job = training.job(tmp_path)
    one = training.trainer(job)
    batches = one.loader.made(one.parts, 0, 8)
    one.train_step(next(batches)[1], trainer.Window(one.outputs))
    before = {name: tensor.clone() for name, tensor in one.weights.tensors().items()}
    go, put = threading.Event(), sharded.storage.put

    def slow(url: str, data: bytes, **options: Any) -> bool:
        assert go.wait(30)
        return put(url, data, **options)

    monkeypatch.setattr(sharded.storage, "put", slow)
    one.save()
    for _ in range(2):
        one.train_step(next(batches)[1], trainer.Window(one.outputs))
    batches.close()
    assert checkpoint.newest(one.checkpoints) is None
    go.set()
    one.saver.wait()
    latest = checkpoint.newest(one.checkpoints)
    assert latest is not None and latest.step == 1
    other = training.trainer(job)
    assert other.step == 1
    for name, tensor in other.weights.tensors().items():
        assert torch.equal(tensor, before[name]), name
    assert all(other.weights.optimizer.state[p]["step"] == 1 for p in other.weights.parameters)


def test_a_batch_is_split_into_its_samples(tmp_path: Path) -> None:
    one = training.trainer(training.job(tmp_path))
    batches = one.loader.batches(0, 8)
    _, batch = next(batches)
    batches.close()
    parts = split(batch, 4)
    assert [part.num_samples for part in parts] == [2] * 4
    assert [key for part in parts for key in part.keys] == batch.keys
    for name in ("input_ids", "target_end"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(batch, name))
    np.testing.assert_array_equal(np.concatenate([part.values["rgb"] for part in parts]), batch.values["rgb"])


def test_models_are_whole_or_are_none(whole: Trainer) -> None:
    assert MODEL_FILES[-1] == model_files.CONFIG, "written last"
    folder = Path(whole.job.folder, "model")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*MODEL_FILES, "sums.json"])


@pytest.mark.parametrize(("world", "batch", "accumulate"), [(1, 8, 1), (2, 24, 1), (3, 24, 2), (4, 8, 2), (1, 48, 1)])
def test_validation_is_the_same_on_any_workers(tmp_path: Path, world: int, batch: int, accumulate: int) -> None:
    """Exactly the samples that were asked for, in micro-batches that are no larger than those of training."""

    def validated(world: int, **settings: Any) -> tuple[dict[str, bytes], int]:
        job = training.job(tmp_path, rows=16, validation_samples=7, **settings)
        seen, most = {}, 0
        for rank in range(world):
            trainer = training.trainer(job, rank, world)
            for part in trainer._validation_batches(trainer._loader(job.val_shards, 1, 1, training=False)):
                most = max(most, part.num_samples)
                for i in np.flatnonzero(np.asarray(part.target_valid).any(axis=1)).tolist():
                    assert part.keys[i] not in seen
                    shown = {name: np.asarray(array)[i] for name, array in part.arrays().items()}
                    seen[part.keys[i]] = b"".join(shown[name].tobytes() for name in sorted(shown))
        return seen, most

    expected, _ = validated(1)
    seen, most = validated(world, batch_size=batch, accumulate=accumulate)
    assert seen == expected and len(seen) == 7
    assert most <= batch // (world * accumulate)


class Clock:
    """In place of the module `time`: it goes forward only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_pauses_do_not_count_into_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 2 seconds and a validation in the middle of a window 500: the rate is that of the steps."""
    one = training.trainer(training.job(tmp_path, log_every=6, checkpoint_every=6))
    clock, step, validate = Clock(), one.train_step, one.validate

    def timed_step(*arguments: Any) -> float:
        clock.now += 2
        return step(*arguments)

    def timed_validation() -> dict[str, float]:
        clock.now += 500
        return validate()

    monkeypatch.setattr(trainer, "time", clock)
    monkeypatch.setattr(one, "train_step", timed_step)
    monkeypatch.setattr(one, "validate", timed_validation)
    reporter: Any = training.Silent()
    one.run(reporter)
    (row,) = [row for row in metrics.read(one.job.folder) if row["kind"] == "train"]
    tokens = 6 * 8 * (12 + 10)  # steps x batch x budgets
    assert row["tokens_per_second"] == pytest.approx(tokens / (6 * 2))
    assert row["data_wait_share"] == 0
