"""One rank of a training run: from batches to checkpoints, log lines and the finished model.

A killed run resumes, on any number of workers, with the batches that an uninterrupted run would have had: samples of
a batch, their crops and masks are functions of (seed, position), and the loss is that of the whole batch, however many
workers and micro-batches share it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...infra import ledger, storage
from ...model.batch import PackedBatch
from ...model.fourm import FourM
from ...model.prepare import group_targets
from .. import checkpoint, sharded
from ..board import NOTHING, Reporter, Stopped
from ..data.cache import CacheOptions
from ..data.groups import ShardRows
from ..data.loader import LoaderOptions, TokenLoader
from ..data.order import rank_positions
from ..flops import Lengths, peak_flops, step_flops, useful_flops
from ..metrics import Metrics
from ..parallel import Parallel, whole
from ..requests import Asked, Requests
from ..schedule import cosine_lr
from ..settings import Extend
from ..trackers import trackers
from . import initial, matching, pace
from .job import MODEL, TrainJob, masking_config, predicted_modalities, write_origin
from .learning import Learning
from .parts import Parts, parts_of
from .weights import Weights, save_model
from .window import Entry, Window, by_modality, target_weights

logger = logging.getLogger(__name__)

VALIDATION_SEED = 1_000_003  # the same masks in every validation of every run, so that losses can be compared
MAX_SKIPPED = 10  # skipped steps in a row after which the run stops, with `train.nonfinite: skip`


class Trainer:
    """One rank of a run: its model, optimizer, loader and log.

    Args:
        model: with fresh weights, the same on every rank, on its device. It becomes the trained one.
    """

    def __init__(self, job: TrainJob, model: FourM, rank: int = 0, world: int = 1) -> None:
        self.job, self.model, self.rank, self.world = job, model, rank, world
        model.tokenizers = dict(job.tokenizers)
        self.settings = settings = job.settings
        if settings.batch_size % (world * settings.accumulate):
            parts = f"{world} workers" + (f" x {settings.accumulate} parts" if settings.accumulate > 1 else "")
            raise ValueError(f"train.batch_size: {settings.batch_size} does not divide among {parts}")
        self.outputs = model.config.outputs
        self.peak_lr = settings.base_lr * settings.batch_size / 256
        self.step = 0
        self.seconds = 0.0
        self.skipped: list[int] = []  # steps of the run that changed nothing
        self.checkpoints = job.checkpoints
        self.saver = sharded.Saver(self.checkpoints, settings.keep_checkpoints)
        latest = self.saver.newest()
        self.notes = [*self.saver.notes]
        self.new: list[str] = []
        if latest is not None and isinstance(settings.begins_with, Extend):
            self.new = self._new_of(latest)
        if latest is None and (init := settings.begins_with) is not None:
            trained = initial.load(init.weights, init.revision)
            self.notes += initial.copy(trained, model, init, [spec.name for spec in job.specs])
            self.new = matching.new_modalities(trained.config, model.config, init)
        self.parallel = Parallel(
            model,
            settings.parallel,
            settings.precision,
            compiled=model.device.type == "cuda" if settings.compile is None else settings.compile,
            checkpointing=settings.activation_checkpointing,
            inputs=settings.batch_size // world * settings.budgets[0],
        )
        learning = self._learning() if isinstance(settings.begins_with, Extend) else None
        self.weights = Weights(
            model, weight_decay=settings.weight_decay, betas=settings.betas, ema=settings.ema, learning=learning
        )
        if latest is not None:
            self._resume_newest(latest)
        self.tokenizers = job.column_tokenizers()  # of training and of validation
        self.loader = self._loader(job.shards, job.seed, settings.repeat, training=True)
        unpad = settings.unpads(model.device.type)
        asked = predicted_modalities(self.loader.masking, job.datasets, (0.0, 1.0))
        self.parts = parts_of(model.config, settings.accumulate, model.device, unpad, self.parallel.touched, asked)

    def _learning(self) -> Learning:
        """What of an extended model learns."""
        init, asked = self.settings.begins_with, {spec.name for spec in self.job.specs}
        assert isinstance(init, Extend)
        idle = [spec.name for spec in self.model.config.modalities if spec.name not in asked]
        return Learning(self.model, self.new, idle, init.alone, self.settings.weight_decay)

    def _new_of(self, latest: checkpoint.Checkpoint) -> list[str]:
        """The modalities that were new when this run began, as each of its checkpoints says."""
        try:
            return latest.marker()["state"].get("new", [])
        except OSError:  # another job of this run has deleted it, see `_resume_newest`
            newer = self.saver.newest() if self.saver.group is None else None
            if newer is None or newer.step <= latest.step:
                raise
            return newer.marker()["state"].get("new", [])

    def _loader(self, shards: tuple[ShardRows, ...], seed: int, repeat: int, training: bool) -> TokenLoader:
        tokens = storage.join(self.job.root, "tokens")
        datasets = self.job.datasets if training else ()
        masking, shape = masking_config(self.job, datasets), self.settings.loader
        # Validation is by the mixtures of the run's end, at any step: its losses can be compared.
        samples = self.settings.steps * self.settings.batch_size if training else None
        cache = CacheOptions(**self.settings.cache.model_dump())
        options = LoaderOptions(shape.lanes, shape.buffer_rows, repeat, samples=samples, cache=cache)
        return TokenLoader(tokens, shards, self.job.specs, masking, seed, options, datasets, self.tokenizers)

    def _resume_newest(self, latest: checkpoint.Checkpoint) -> None:
        """Resume; from a newer checkpoint if another job of this run has deleted this one, the oldest of those kept."""
        while True:
            try:
                return self._resume(latest)
            except (OSError, ValueError):
                # Of several workers each would look for itself: Ray Train starts them again, and they look together.
                newer = self.saver.newest() if self.saver.group is None else None
                if newer is None or newer.step <= latest.step:
                    raise
                logger.warning("%s is gone, another job goes on with this run: resumed from %d", latest.url, newer.step)
                latest = newer

    def _resume(self, saved: checkpoint.Checkpoint) -> None:
        state = saved.marker()["state"]
        expected, stored = self.model.config.to_dict(), state["model"]
        if other := [name for name in expected if expected[name] != stored.get(name)]:
            # Tables of two modalities may have the same sizes: with another order they would load into each other's.
            raise ValueError(
                f"{saved.url}: this checkpoint is of a model with other {', '.join(other)} than the recipe's "
                "(the order of the modalities counts); move the folder away, or set another train.name"
            )
        sharded.load(saved, self.weights.tensors(), self.saver.group)
        self.step, self.seconds, self.skipped = saved.step, state["seconds"], state.get("skipped", [])
        self.weights.ramped = state.get("ramped", False)  # not of checkpoints of 0.1.0
        self.model.tokenizers = state.get("tokenizers", {}) | self.model.tokenizers  # of an extended one more
        # AdamW does not count skipped steps in its bias correction.
        self.weights.resumed(self.step - len(self.skipped))
        logger.info("worker %d of %d resumed from step %d: %s", self.rank, self.world, self.step, saved.url)

    def run(self, reporter: Reporter) -> None:
        """Train to the last step, with validation, checkpoints and log lines on the way; rank 0 commits the run."""
        if self.rank == 0:
            write_origin(self.job)  # now, so that checkpoints of a run that is not finished can be used, too
        logged = Metrics(self.job.folder, self.step, trackers(self.job)) if self.rank == 0 else None
        try:
            self._run(reporter, logged)
        except BaseException:
            if logged is not None:
                logged.abandon()  # the last lines show what led to the error
            raise

    def _run(self, reporter: Reporter, logged: Metrics | None) -> None:
        settings, started = self.settings, time.monotonic() - self.seconds
        requests = Requests(reporter, self.rank, self.world)
        batches = self.loader.made(self.parts, self.step, settings.batch_size, self.rank, self.world)
        window, unread = Window(self.outputs, started=time.monotonic()), None
        self._report(reporter, "; ".join(self.notes))
        while self.step < settings.steps:
            before = time.monotonic()
            reporter.tell("waits for data")
            _, parts = next(batches)
            window.pace.waited += time.monotonic() - before
            reporter.tell(f"at step {self.step + 1}")
            self.train_step(parts, window)
            self.saver.check()
            done, asked = self.step == settings.steps, requests.take()
            stops = asked is Asked.STOP and not done
            saves = self.step % settings.checkpoint_every == 0 or done or asked is not Asked.NOTHING
            # Who stops has no time to validate.
            validates = bool(self.job.val_shards) and (self.step % settings.validate_every == 0 or done) and not stops
            # A window is read while the device is busy with the step after it, for which nothing waits then.
            if unread is not None:
                self._look(unread, logged, reporter)
                if unread.ended is None:  # when its last step ended on the device, the next one began
                    window.started = time.monotonic()
                unread = None
            # Before each checkpoint at once: none holds a loss that is not finite, and a run that resumes from it has
            # the same windows, so the same log lines.
            logs = self.step % settings.log_every == 0
            if saves or (logs and validates):  # validation waits for the device anyway
                self._look(window, logged, reporter)
                window = Window(self.outputs, started=time.monotonic())
            elif logs:
                unread, window = window, Window(self.outputs, started=time.monotonic())
                if self.model.device.type == "cpu":
                    unread.ended = window.started
            paused = time.monotonic()
            if validates:
                reporter.tell("validates")
                values = self.validate()
                if logged is not None:
                    logged.log(self.step, "val", values)
                    logged.flush(wait=False)
            self.seconds = time.monotonic() - started
            if saves:
                if logged is not None:
                    logged.flush()  # before the checkpoint: a run that resumes from it reads the lines up to its step
                self.save()
            if stops:
                self._stop(batches, requests)
            # Validation and saving are no part of tokens/s.
            window.started += time.monotonic() - paused
        batches.close()
        requests.close()
        self.saver.wait()
        self._save_models()
        if logged is not None:
            logged.close()
            self._commit(logged.last("train") | logged.last("val", "val_"))
        if self.world > 1:
            dist.barrier()

    def _predicted(self, step: int) -> int:
        """How many modalities the mixtures of a step ask for."""
        steps = self.settings.steps
        during = step / steps, (step + 1) / steps
        return len(predicted_modalities(self.loader.masking, self.job.datasets, during))

    def _stop(self, batches: Generator[Any], requests: Requests) -> None:
        """Raise `Stopped` when the checkpoint of this step is complete."""
        batches.close()
        requests.close()
        self.saver.wait()
        raise Stopped(f"stopped at step {self.step}, which is saved")

    def train_step(self, parts: Parts, window: Window) -> None:
        """One optimizer step on this rank's part of a batch, which `self.parts` has made."""
        settings = self.settings
        places = [self.model.config.index(name) for name in self.outputs]
        counts = torch.tensor([[group.counts[i] for i in places] for group in parts.groups], dtype=torch.float32)
        counts = counts.to(self.model.device, non_blocking=True)
        predicted = self._predicted(self.step)
        weights = target_weights(counts, self._reduce(counts.sum(0)), settings.loss, predicted)
        self.parallel.train()
        self.weights.optimizer.zero_grad(set_to_none=True)
        self.parallel.begin(parts.rows)
        loss, sums = torch.zeros((), device=counts.device), torch.zeros(len(places), device=counts.device)
        for i, (part, group, unpadding) in enumerate(zip(parts.batches, parts.groups, parts.unpaddings, strict=True)):
            with self.parallel.micro_batch(last=i == len(parts.batches) - 1):
                with window.pace.forward(self.model.device.type):
                    losses = self.parallel.losses(part.to(self.model.device), group, unpadding)
                part_loss = (losses * weights[i]).sum()
                # DDP and FSDP average gradients over the workers, and the loss is a sum over them.
                (part_loss * self.world).backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
            sums += losses.detach() * counts[i]
        if self.weights.learning is not None:
            self.weights.learning.mask(self.step)
        norm = whole(self._norm(settings.clip_norm).detach())
        lr = cosine_lr(
            self.step, peak=self.peak_lr, minimum=settings.min_lr, warmup=settings.warmup_steps, steps=settings.steps
        )
        self.saver.stager.wait()
        self.weights.step(lr, norm, self.step)
        self.step += 1
        targets = [sum(group.counts[i] for group in parts.groups) for i in places]
        window.entries.append(Entry(self.step, loss, sums, targets, norm, parts.keys, parts.lengths))
        window.step, window.lr = self.step, lr

    def _norm(self, most: float | None) -> Tensor:
        """The norm of the gradient, which is scaled to at most `most`."""
        norm = self.parallel.norm(self.weights.parameters)
        if most is not None:
            nn.utils.clip_grads_with_norm_(self.weights.parameters, most, norm)
        return norm

    def _look(self, window: Window, logged: Metrics | None, reporter: Reporter) -> None:
        """Read the losses of a window and log them. FloatingPointError says what to do if they are not finite."""
        try:
            skipped = self._skip(window) if self.settings.nonfinite == "skip" else []
            values = self._close(window) | {"lr": window.lr} if window.entries else {}
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; {self._advice()}") from None
        if logged is None:
            return
        for line in skipped:
            logged.skipped(line)
        if values:
            logged.log(window.step, "train", values)
            notes = [f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s"]
            notes += pace.said(values)
            notes += [f"{len(self.skipped)} steps skipped"] * bool(self.skipped)
            troubles = [cache.trouble for cache in self.loader.caches if cache.trouble]
            self.notes += [trouble for trouble in troubles if trouble not in self.notes]
            self._report(reporter, ", ".join(notes + troubles), values)

    def _skip(self, window: Window) -> list[dict[str, Any]]:
        """Lines of the log for the steps of a window that are skipped. FloatingPointError if they are too many."""
        lines = window.take_skipped(self._gather)
        self.skipped += [line["step"] for line in lines]
        for line in lines if self.rank == 0 else ():
            logger.warning(
                "skipped step %d: its gradient is not finite (%s)", line["step"], ", ".join(line["modalities"])
            )
        last = self.skipped[-MAX_SKIPPED:]
        if lines and len(last) == MAX_SKIPPED and last[-1] - last[0] == MAX_SKIPPED - 1:
            raise FloatingPointError(
                f"the norm of the gradient is not finite at step {last[-1]}, as at the {MAX_SKIPPED - 1} before it "
                f"(modalities: {', '.join(lines[-1]['modalities'])}; samples: {', '.join(lines[-1]['samples'])}, ...)"
            )
        return lines

    def _advice(self) -> str:
        """What the user can do about a loss or gradient that is not finite."""
        skip = "set train.nonfinite=skip to go on without such steps; or " if self.settings.nonfinite == "stop" else ""
        another = "lower train.base_lr, or set train.clip_norm, which makes another run"
        if checkpoint.complete(self.checkpoints):
            another += f" (train.init={self.checkpoints} begins it with the newest weights)"
        return skip + another

    def _close(self, window: Window) -> dict[str, float]:
        """The values of a window's log line. FloatingPointError: see `Window.close`."""
        values, predicted = window.close(self._reduce)
        seconds, settings = (window.ended or time.monotonic()) - window.started, self.settings
        # Tokens are counted by budget, padding included, as in the papers.
        samples = len(window.entries) * settings.batch_size
        values["tokens_per_second"] = samples * settings.tokens_per_sample / seconds
        values |= window.pace.shares(seconds, self.rank, self.world, self._reduce)
        cuda = self.model.device.type == "cuda"
        peak = settings.peak_flops or (peak_flops(torch.cuda.get_device_name(self.model.device)) if cuda else None)
        if peak:
            lengths = Lengths(*self._reduce(torch.tensor(window.lengths, dtype=torch.float64)).tolist())
            flops = step_flops(self.model.config, samples, *settings.budgets, predicted)
            values["mfu"] = flops / seconds / (peak * self.world)
            values["useful_mfu"] = useful_flops(self.model.config, lengths, predicted) / seconds / (peak * self.world)
        return values

    def _reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, on the tensor's device."""
        if self.world == 1:
            return tensor
        summed = tensor.to(self.model.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(tensor.device)

    def _gather(self, value: Any) -> list[Any]:
        """A value of every rank, in their order."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean cross-entropy of each modality, nats a target, on the first validation samples with fixed masks.

        The samples and their masks are the same for any number of workers and any batch size.
        """
        self.parallel.train(False)
        self.parallel.make_whole(self.weights.tensors())
        loader = self._loader(self.job.val_shards, VALIDATION_SEED, 1, training=False)
        sums, totals = torch.zeros(2, len(self.outputs), dtype=torch.float64)
        with self._weights(self.averages):
            for batch in self._validation_batches(loader):
                groups = group_targets(batch, len(self.model.config.modalities))
                counts = torch.tensor([groups.counts[self.model.config.index(name)] for name in self.outputs])
                sums += self.parallel.losses(batch, groups).double().cpu() * counts
                totals += counts
        values = by_modality(self.outputs, self._reduce(sums), self._reduce(totals))
        return {"loss": sum(values.values()) / max(len(values), 1)} | values

    def _validation_batches(self, loader: TokenLoader) -> Iterator[PackedBatch]:
        """This rank's part of the validation samples, in as many micro-batches on each rank; those beyond the last
        sample have no targets."""
        samples = min(self.settings.validation_samples, loader.epoch_size)
        # The same number of calls on every rank: with FSDP each of them gathers parameters from all.
        size = self.settings.batch_size // self.settings.accumulate
        batches = loader.batches(0, size, self.rank, self.world)
        for step in range(-(-samples // size)):
            _, batch = next(batches)
            positions = rank_positions(step * size, size, self.rank, self.world)
            batch.target_valid = np.asarray(batch.target_valid) & (positions < samples)[:, None]
            yield batch
        batches.close()

    @property
    def averages(self) -> bool:
        """Whether validation and generation use the average of the weights."""
        return bool(self.settings.ema) and self.settings.use_ema

    @contextmanager
    def _weights(self, averaged: bool) -> Iterator[None]:
        """The model with its average, or as it is trained."""
        with self.weights.averaged() if averaged else nullcontext():
            yield
        self.parallel.discard_gathered()

    def save(self) -> None:
        """Begin a checkpoint; training goes on while it is written."""
        state = {"model": self.model.config.to_dict(), "averaged": self.averages}
        state |= {"seconds": self.seconds, "skipped": self.skipped, "ramped": self.weights.ramped}
        state |= {"tokenizers": self.model.tokenizers} if self.model.tokenizers else {}
        state |= {"new": self.new} if isinstance(self.settings.begins_with, Extend) else {}
        self.parallel.make_whole(tensors := self.weights.tensors())
        self.saver.save(self.step, tensors, state)

    def _save_models(self) -> None:
        """Write RUN/model, which generation uses; with an average also the other weights, RUN/last or RUN/ema."""
        self.parallel.make_whole(self.weights.tensors())
        models = {MODEL: self.averages}
        if self.settings.ema:
            models |= {"last": False} if self.averages else {"ema": True}
        for name, averaged in models.items():
            with self._weights(averaged):
                save_model(self.model, storage.join(self.job.folder, name), write=self.rank == 0)

    def _report(self, reporter: Reporter, notes: str, values: Mapping[str, float] = NOTHING) -> None:
        if self.rank == 0:
            total = self.settings.steps
            reporter.post(stage="train", done=self.step, total=total, unit="steps", notes=notes, values=values)

    def _commit(self, last: dict[str, float]) -> None:
        """Write the run's record: from now on the run is complete."""
        root, name = self.job.root, self.settings.name
        parameters = sum(p.numel() for p in self.weights.parameters)
        record = ledger.Record(
            output=f"runs/{name}",
            shard=self.job.fingerprint,
            fingerprint=self.job.fingerprint,
            source=ledger.Source(0, "", ""),
            rows=self.job.rows,
            nulls=0,
            rejects=[],
            bytes=0,
            sha256="",
            seconds=round(self.seconds, 3),
            identity={"metrics": last, "parameters": parameters, "steps": self.step}
            | ({"notes": self.notes} if self.notes else {}),
        )
        storage.put(ledger.record_url(root, record.output, record.shard), ledger.dumps(record))
