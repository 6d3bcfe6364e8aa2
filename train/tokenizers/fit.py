"""Fitting the tokenizers: the work of Ray Train workers, from cached examples to ROOT/tokenizers/NAME/ and its record.

One job fits everything that is missing, so that workers start and read the shards only once. Batches are a pure
function of (seed, step), checkpoints are complete or absent: a fit that was killed ends with the same weights as one
that was not.
"""

from __future__ import annotations

import logging
import re
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...infra import scratch, storage
from ...infra.fingerprint import fingerprint
from ...modalities import COCO_CLASSES, TEXT, TOKENIZERS, Form, class_names, import_modules
from ...pipelines.fit_data import FitData, weights_of
from ...pipelines.removal import seen
from ...tokenize import class_lists
from ...tokenize.settings import warm_starts
from .. import checkpoint, workers
from ..board import Stopped
from ..metrics import Metrics
from ..requests import Asked, Requests
from . import commits
from .commits import commit
from .examples import Board, Rows, Weighted, batches, collect, resized, side
from .job import FitJob
from .window import Window

if TYPE_CHECKING:
    from .vq import VQTrainer

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

LOG_EVERY = 10
SPECIAL_WORDS = 4_300  # of the text vocabulary, rounded up


def run(job: FitJob, resources: workers.Resources, address: str | None) -> None:
    """Fit everything in the job under Ray Train.

    Raises:
        ValueError: more workers than shards are to share batches, or the workers do not fit on the cluster.
        RuntimeError: the workers failed for good; the text is the cause.
    """
    if is_brought(job):  # copied: that needs no workers, and no samples
        try:
            fit_all(job, 0, 1, "cpu", _Unwatched())
        except ValueError as error:
            raise RuntimeError(str(error)) from error
        return
    shards = len(job.train.tasks)
    if job.share == "batches" and resources.most > shards:
        raise ValueError(
            f"fit.workers: {resources.most} workers share batches, but there are only {shards} training shards, and "
            "each reads its own; lower fit.workers or set fit.share: tokenizers"
        )
    for name in job.tokenizers:
        # Deaths of an earlier run do not count: what killed its workers may be mended.
        job.train.read_notes(notes_of(job, [name])).clear()
    workers.run(work, {"job": job}, resources, "fit", address, job.root, job.train.tasks[0].url)


def is_brought(job: FitJob) -> bool:
    """Whether all are finished tokenizers that come from elsewhere."""
    return all(one is None or one.weights is not None for one in (job.text, *job.tokenizers.values()))


class _Unwatched:
    """A board that nobody looks at."""

    def post(self, *, stage: str, done: float, total: float, unit: str, notes: str = "") -> None:
        pass


def work(config: dict[str, Any]) -> None:
    """One worker's part. Public for tests: without Ray Train it is rank 0 of 1."""
    import torch
    from ray import train

    context = train.get_context()
    torch.set_num_threads(config["threads"])
    device = str(train.torch.get_device())
    import_modules(config["job"].train.job.modules)  # tokenizers of the user's own
    fit_all(config["job"], context.get_world_rank(), context.get_world_size(), device, config["reporter"])


def fit_all(job: FitJob, rank: int, world: int, device: str, board: Board) -> None:
    """A rank's part of a job.

    Raises:
        ValueError: some tokenizers cannot be fitted: "NAME: reason; NAME: reason", see `reasons`. The others are,
            unless several ranks share batches: then the first failure ends the job, as the other ranks would wait.
    """
    import torch

    failures = _Failures()
    if rank == 0 and job.text is not None:
        failures.attempt([TEXT], lambda: _bring_text(job) if job.text and job.text.weights else fit_text(job, board))
    if job.share == "tokenizers":
        # Each of this worker's tokenizers is a job of its own: nothing may be averaged with the other workers'.
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        names = list(job.tokenizers)[rank::world]
        job, rank, world = replace(job, tokenizers={name: job.tokenizers[name] for name in names}), 0, 1
    # Ranks that share batches wait for each other's gradients: one that skipped a tokenizer would block the rest.
    failures.at_once = world > 1
    for name, settings in job.tokenizers.items():
        if settings.weights is not None and rank == 0:
            failures.attempt([name], partial(_bring, job, name))
    for group in groups(job):
        notes = notes_of(job, group)
        cache = failures.attempt(group, partial(fill, job, group, rank, world, device, board, notes=notes))
        if cache is None:
            continue
        for name in group:
            failures.attempt([name], partial(_fit_cached, job, name, cache, rank, world, device, board))
    failures.raise_all()


class _Failures:
    """Why tokenizers could not be fitted: errors that would come again, collected while the others are fitted.

    at_once: raise the first one at once.
    """

    def __init__(self) -> None:
        self.at_once, self._reasons = False, dict[str, str]()

    def attempt(self, names: Collection[str], work: Callable[[], Result]) -> Result | None:
        """What `work`, of these tokenizers, returns; None if it failed."""
        try:
            return work()
        except workers.FINAL as error:
            traceback.print_exc()  # the whole of it, for the worker's log
            self._reasons |= dict.fromkeys(names, str(error))
            if self.at_once:
                self.raise_all()
            return None

    def raise_all(self) -> None:
        if self._reasons:
            raise ValueError("; ".join(f"{name}: {reason}" for name, reason in self._reasons.items()))


def reasons(failure: str, names: Collection[str]) -> dict[str, str]:
    """The text of a fit's failure, or of several workers' together, by tokenizer; {} if it names none of them."""
    # Ray Train puts the name of the exception in front, and joins the texts of several workers by "; ".
    parts = re.split(rf"(?:^|; )(?:\w+Error: )?({'|'.join(map(re.escape, names))}): ", failure)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _bring(job: FitJob, name: str) -> None:
    from . import adopt

    start = time.monotonic()
    with scratch.folder() as folder:
        facts = adopt.bring(name, job.tokenizers[name], job.image_size, folder, job.classes)
        commit(job, name, folder, facts, 0, start)


def _bring_text(job: FitJob) -> None:
    from . import adopt

    assert job.text is not None
    start = time.monotonic()
    with scratch.folder() as folder:
        commit(job, TEXT, folder, adopt.bring_text(job.text, folder), 0, start)


def _fit_cached(
    job: FitJob, name: str, cache: Mapping[str, Rows], rank: int, world: int, device: str, board: Board
) -> None:
    if name not in cache:
        label = TOKENIZERS[name].label
        raise ValueError(f"no training sample has the label {label}; see the rejects in the ledger")
    fit_one(job, name, cache[name], rank, world, device, board)


def fit_text(job: FitJob, board: Board) -> None:
    """Fit the WordPiece vocabulary on the training captions and commit it."""
    from ...tokenize.text.wordpiece import WordPiece

    assert job.text is not None
    start = time.monotonic()
    captions = list(job.train.captions(job.text.captions)) if job.text.captions else []
    board.post(stage="fit text", done=0, total=len(captions), unit="captions")
    # A vocabulary with little room beyond the special words keeps fewer characters (each also as a continuation).
    classes = class_names(class_lists.BOXES, job.classes)
    special = SPECIAL_WORDS + max(0, len(classes) - len(COCO_CLASSES))
    alphabet = min(1_000, (job.text.vocab_size - special) // 3)
    wordpiece = WordPiece.fit(captions, vocab_size=job.text.vocab_size, max_alphabet=alphabet, classes=classes)
    with scratch.folder() as folder:
        wordpiece.save(folder)
        facts = {"sha256": wordpiece.fingerprint(), "vocab_size": wordpiece.vocab_size, "quality": {}}
        commit(job, TEXT, folder, {**facts, "shards": sorted(job.train.opened)}, len(captions), start)
    board.post(stage="fit text", done=len(captions), total=len(captions), unit="captions")


def groups(job: FitJob, fitted: bool = False) -> list[list[str]]:
    """Tokenizers whose crops are drawn alike share one pass over the shards. Those with weights need none to be
    fitted."""
    by_crops: dict[Any, list[str]] = {}
    for name, s in job.tokenizers.items():
        if s.weights is None or fitted:
            by_crops.setdefault((s.samples, s.validation_samples, s.crop_scale, s.hflip), []).append(name)
    return list(by_crops.values())


def notes_of(job: FitJob, group: list[str]) -> str:
    """Where the shards that a group's examples are being read from are noted."""
    return storage.join(job.root, "runs", f"fit-{group[0]}", job.prints[group[0]], "reading")


def fill(
    job: FitJob,
    group: list[str],
    rank: int,
    world: int,
    device: str,
    board: Board,
    few: bool = False,
    notes: str = "",
) -> dict[str, Rows]:
    """The examples of a group's tokenizers; without those for which there are none.

    Args:
        few: only those that quality is measured on; training ones for tokenizers that have no others.
        notes: URL of the folder where shards that kill their reader are noted; "" for none.
    """
    settings = job.tokenizers[group[0]]

    def rows(data: FitData, names: list[str], count: int, seed: int, what: str, shares: int) -> dict[str, np.ndarray]:
        sizes = {name: side(name, job.tokenizers[name], job.image_size) for name in names}
        source = data.examples(sizes, count, settings.crop_scale, settings.hflip, seed, device, notes)

        def report(done: int) -> None:
            # Only this rank's rows are known here; the other ranks are as far.
            if rank == 0:
                board.post(stage=f"fit {what}", done=done * shares, total=count * shares, unit="crops")

        return collect(source, count, report)

    count, names = settings.validation_samples, group
    val: dict[str, np.ndarray] = {}
    # Rank 0 measures alone, on all of them; with seed + 1, so that these are other crops if shards are the same.
    if job.val is not None and rank == 0:
        val = rows(job.val, names, count, job.seed + 1, "validation", 1)
    if few:
        names = [name for name in names if name not in val]
    most = count if few else -(-settings.samples // world)
    train = rows(job.train.part(rank, world), names, most, job.seed, "training", world) if names else {}
    opened = job.train.opened | (job.val.opened if job.val is not None else set())
    read = tuple(job.train.read_notes(notes).passed_over()) if notes else (), tuple(sorted(opened))
    cache = dict[str, Rows]()
    for name in group:
        if name in val and (few or name in train):
            cache[name] = Rows(train.get(name, val[name]), val[name], "val", *read, train.get(weights_of(name)))
        elif name in train:
            cache[name] = Rows(train[name], train[name][:count], "train", *read, train.get(weights_of(name)))
    return cache


def fit_one(job: FitJob, name: str, rows: Rows, rank: int, world: int, device: str, board: Board) -> None:
    """Fit one tokenizer from its newest checkpoint on, measure it, and commit it."""
    import torch

    from . import build, losses, on_cpus, tables
    from .vq import VQTrainer
    from .warm_start import cannot_warm_start, warm_start

    start, settings = time.monotonic(), job.tokenizers[name]
    batch = max(1, settings.batch_size // world)
    n_labels = class_lists.n_labels(name, job.classes)
    folder = run_folder(job, name)
    statistics = tables.frozen(name, rows.train, folder, rank, world)
    if TOKENIZERS[name].is_table:
        assert statistics is not None
        if rank == 0:
            seen.note(folder, rows.shards)
            table, measured = tables.fit(name, settings.codebook_size or 0, rows, statistics)
            commits.save(job, name, rows, table, measured, len(rows.train), start)
        return
    model = build.model(name, settings, job.image_size, rows.train.shape[1:], job.seed, n_labels, statistics)
    backbone = settings.perceptual_backbone if TOKENIZERS[name].form is Form.COLORS else None
    perceptual = losses.lpips(backbone, device) if backbone else None
    warm = warm_starts(name, settings)
    if warm and (why := cannot_warm_start(model.config)):
        # How wide features are is known only when their first rows are here.
        logger.warning("fit %s: no warm start: %s", name, why)
        warm = False
    if (computed := on_cpus.on(device, settings)) is not settings:
        logger.info("fit %s: computes in float32, since CPUs have no fast float16", name)
    trainer = VQTrainer(model.to(device), computed, job.seed, perceptual, warm_start if warm else None)
    checkpoints = storage.join(folder, "checkpoints")
    if (last := checkpoint.newest(checkpoints)) is not None:
        trainer.load_state_dict(checkpoint.unpack(last.read("state.pt"), device))
        logger.info("fit %s: continues from step %d of %d", name, trainer.steps_done, settings.total_steps)
    if rank == 0:
        seen.note(folder, rows.shards)
    metrics = Metrics(folder, trainer.steps_done) if rank == 0 else None
    steps = (rank, batch, trainer.steps_done, device, rows.weights)
    made = batches(name, settings, rows.train, job.image_size, job.seed, *steps)
    inputs = (one.to(name, device, statistics) for one in made)
    _train(name, trainer, inputs, metrics, checkpoints, Requests(board, rank, world), board)
    if metrics is not None:
        _finish(job, name, rows, trainer.result(), batch, metrics, start, world, perceptual)
    # The other ranks wait for the measuring, or the next tokenizer's first message would time out.
    if world > 1:
        torch.distributed.barrier()


def _train(
    name: str, trainer: VQTrainer, inputs: Iterable[Weighted], metrics: Metrics | None, checkpoints: str,
    requests: Requests, board: Board,
) -> None:  # fmt: skip
    """All steps that are left; `metrics` of rank 0, which writes the checkpoints."""
    settings, total = trainer.settings, trainer.settings.total_steps

    def look(window: Window) -> None:
        values = window.read()
        if metrics is not None and values and (window.step % LOG_EVERY == 0 or window.step == total):
            metrics.log(window.step, "train", values)
            notes = f"loss {values['loss']:.4f}, {values['codes_in_batch']:.0f} codes in a batch"
            board.post(stage=f"fit {name}", done=window.step, total=total, unit="steps", notes=notes)

    board.post(stage=f"fit {name}", done=trainer.steps_done, total=total, unit="steps")
    # A window is read while the device is busy with the step after it, for which nothing waits then.
    window, unread = Window(), Window()
    for x, weight in inputs:
        values, step = trainer.step(x, weight), trainer.steps_done
        window.add(step, values)
        look(unread)
        unread = Window()
        asked = requests.take()
        # The last one too: what fails while quality is measured must not cost the fit.
        saves = step % settings.checkpoint_every == 0 or step == total or asked is not Asked.NOTHING
        if saves:  # no checkpoint holds a loss that is not finite
            look(window)
            window = Window()
        elif step % LOG_EVERY == 0:
            unread, window = window, Window()
        if metrics is not None and saves:
            metrics.flush()  # before the checkpoint: a resumed fit goes on after its lines
            checkpoint.save(checkpoints, step, {"state.pt": checkpoint.pack(trainer.state_dict())}, keep=1)
        if asked is Asked.STOP and step < total:
            requests.close()
            if metrics is not None:
                metrics.abandon()
            raise Stopped(f"fit {name}: stopped at step {step}, which is saved")
    requests.close()


def run_folder(job: FitJob, name: str) -> str:
    """The folder of a fit's log and checkpoints, by its fingerprint and by the versions that make it.

    The last checkpoint is kept, and fingerprints hold no versions: in one folder `--update` would go on from the end of
    the older version's fit, and commit its tokenizer again.
    """
    made_by = job.versions.get(name)
    folder = job.prints[name] + (f"-{fingerprint(made_by)}" if made_by else "")
    return storage.join(job.root, "runs", f"fit-{name}", folder)


def saved_step(job: FitJob, name: str) -> int | None:
    """The step that a fit goes on from, None if it begins."""
    found = checkpoint.complete(storage.join(run_folder(job, name), "checkpoints"))
    return found[-1].step if found else None


def _finish(
    job: FitJob, name: str, rows: Rows, model: Any, batch: int, metrics: Metrics, start: float, world: int,
    perceptual: Any,
) -> None:  # fmt: skip
    """Measure a fitted tokenizer and commit it."""
    from .quality import quality

    settings = job.tokenizers[name]
    pieces = (rows.val[i : i + batch] for i in range(0, len(rows.val), batch))
    measured = quality(
        name, model, (resized(name, piece, job.image_size) for piece in pieces), settings.validation_steps, perceptual
    )
    metrics.log(settings.total_steps, rows.measured_on, measured)
    metrics.close()
    commits.save(job, name, rows, model.cpu(), measured, len(rows.train) * world, start)
