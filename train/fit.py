"""Fitting the tokenizers: the work of Ray Train workers, from cached crops to ROOT/tokenizers/NAME/ and its record.

One job fits everything that is missing, so that workers start and read the shards only once. Batches are a pure
function of (seed, step), checkpoints are complete or absent: a fit that was killed ends with the same weights as one
that was not.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..infra import ledger, storage
from ..modalities import LABELS, MODALITIES, ModalitySpec
from ..recipe import GridTokenizer, TextTokenizer
from ..tokenize.codecs import TEXT_TOKENIZER
from . import checkpoint, workers
from .augment import color_jitter
from .metrics import Metrics

OUTPUT = "tokenizers"
LOG_EVERY = 10
SPECIAL_WORDS = 4_300  # of the text vocabulary, rounded up


class Data(Protocol):
    """What is fitted on; see pipelines/fit_data.py. `tasks` are its shards; `crops` gives at most `count` crops."""

    @property
    def tasks(self) -> Sequence[Any]: ...

    def captions(self, count: int) -> Iterator[str]: ...

    def crops(
        self, labels: tuple[str, ...], count: int, size: int, scale: float, hflip: float, seed: int, device: str = "cpu"
    ) -> Iterator[dict[str, np.ndarray]]: ...

    def part(self, rank: int, world: int) -> Data: ...


@dataclass(frozen=True)
class FitJob:
    """What is to be fitted. `prints` are the fingerprints of the settings, by tokenizer; `val` may be None."""

    root: str
    seed: int
    image_size: int
    text: TextTokenizer | None
    grids: dict[str, GridTokenizer]
    specs: dict[str, ModalitySpec]
    prints: dict[str, str]
    train: Data
    val: Data | None
    share: Literal["tokenizers", "batches"] = "tokenizers"


def run(job: FitJob, resources: workers.Resources, address: str | None) -> None:
    """Fit everything in the job under Ray Train.

    Raises:
        ValueError: more workers than shards are to share batches, or the workers do not fit on the cluster.
        RuntimeError: the workers failed for good; the text is the cause.
    """
    shards = len(job.train.tasks)
    if job.share == "batches" and resources.workers > shards:
        raise ValueError(
            f"fit.workers: {resources.workers} workers share batches, but there are only {shards} training shards, and "
            "each reads its own; lower fit.workers or set fit.share: tokenizers"
        )
    workers.run(work, {"job": job}, resources, "fit", address)


def work(config: dict[str, Any]) -> None:
    """One worker's part. Public for tests: without Ray Train it is rank 0 of 1."""
    import torch
    from ray import train

    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config["threads"])
    device = str(train.torch.get_device())
    job, reporter = config["job"], config["reporter"]
    if rank == 0 and job.text is not None:
        fit_text(job, reporter)
    if job.share == "tokenizers":
        # Each of this worker's tokenizers is a job of its own: nothing may be averaged with the other workers'.
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        names = list(job.grids)[rank::world]
        job, rank, world = replace(job, grids={name: job.grids[name] for name in names}), 0, 1
    for group in _groups(job):
        caches = _cache(job, group, rank, world, device, reporter)
        for name in group:
            fit_grid(job, name, caches, rank, world, device, reporter)


def fit_text(job: FitJob, reporter: workers.Reporter) -> None:
    """Fit the WordPiece vocabulary on the training captions and commit it."""
    from ..tokenize.wordpiece import WordPiece

    assert job.text is not None
    start = time.monotonic()
    captions = list(job.train.captions(job.text.captions))
    reporter.post(stage="fit text", done=0, total=len(captions), unit="captions")
    # A vocabulary with little room beyond the special words keeps fewer characters (each also as a continuation).
    alphabet = min(1_000, (job.text.vocab_size - SPECIAL_WORDS) // 3)
    wordpiece = WordPiece.fit(captions, vocab_size=job.text.vocab_size, max_alphabet=alphabet)
    with tempfile.TemporaryDirectory() as folder:
        wordpiece.save(folder)
        content = (wordpiece.fingerprint(), wordpiece.vocab_size)
        _commit(job, TEXT_TOKENIZER, folder, content, len(captions), start, {"quality": {}})
    reporter.post(stage="fit text", done=len(captions), total=len(captions), unit="captions")


def _groups(job: FitJob) -> list[list[str]]:
    """Grids whose crops are drawn alike share one pass over the shards and one cache."""
    groups: dict[Any, list[str]] = {}
    for name, s in job.grids.items():
        groups.setdefault((s.samples, s.validation_samples, s.crop_scale, s.hflip), []).append(name)
    return list(groups.values())


@dataclass(frozen=True)
class Cache:
    """Crops by label: uint8 (n, size, size) or (n, size, size, 3), memory-mapped from a file without a name.

    val: what quality is measured on, by rank 0 alone: `measured_on` says whether the crops are of validation shards,
    or some of `train`, since there are no others.
    """

    train: dict[str, np.ndarray]
    val: dict[str, np.ndarray]
    measured_on: Literal["val", "train"]


def _cache(job: FitJob, group: list[str], rank: int, world: int, device: str, reporter: workers.Reporter) -> Cache:
    settings = job.grids[group[0]]
    labels = tuple(dict.fromkeys(MODALITIES[name].label for name in group))

    def fill(data: Data, count: int, seed: int, what: str, shares: int) -> dict[str, np.ndarray]:
        source = data.crops(labels, count, job.image_size, settings.crop_scale, settings.hflip, seed, device)
        arrays: dict[str, np.ndarray] = {}
        n = 0
        for n, crops in enumerate(source, 1):
            for label, crop in crops.items():
                if label not in arrays:
                    with tempfile.TemporaryFile() as file:
                        # The file is sparse: room for crops that do not come costs nothing.
                        arrays[label] = np.memmap(file, np.uint8, "w+", shape=(count, *crop.shape))
                arrays[label][n - 1] = crop
            if rank == 0 and n % 64 == 0:
                reporter.post(stage=f"fit {what}", done=n * shares, total=count * shares, unit="crops")
        return {label: array[:n] for label, array in arrays.items()}

    train = fill(job.train.part(rank, world), -(-settings.samples // world), job.seed, "training", world)
    if not train:
        raise ValueError(
            f"fit: no training sample has all of the labels {', '.join(labels)}; see the rejects in the ledger"
        )
    count = settings.validation_samples
    val = fill(job.val, count, job.seed + 1, "validation", 1) if job.val is not None and rank == 0 else {}
    if val:
        return Cache(train, val, "val")
    return Cache(train, {label: array[:count] for label, array in train.items()}, "train")


def batch_indices(seed: int, step: int, batch: int, count: int) -> np.ndarray:
    """Which samples step `step` sees: epochs of fresh permutations, laid end to end. int64 (batch,)."""
    positions = np.arange(step * batch, (step + 1) * batch)
    indices = np.empty(batch, np.int64)
    for epoch in np.unique(positions // count):
        order = np.random.default_rng((seed, int(epoch))).permutation(count)
        mine = positions // count == epoch
        indices[mine] = order[positions[mine] % count]
    return indices


def fit_grid(
    job: FitJob, name: str, cache: Cache, rank: int, world: int, device: str, reporter: workers.Reporter
) -> None:
    """Fit one VQ-VAE from its newest checkpoint on, measure it, and commit it."""
    import torch

    from ..tokenize import vqvae
    from ..tokenize.pixels import preprocess
    from .vq import VQTrainer

    start = time.monotonic()
    settings, label = job.grids[name], MODALITIES[name].label
    train, val = cache.train[label], cache.val[label]
    batch = max(1, settings.batch_size // world)
    trainer = VQTrainer(_model(job, name).to(device), _fit_config(settings, batch))
    folder = storage.join(job.root, "runs", f"fit-{name}", job.prints[name])
    checkpoints = storage.join(folder, "checkpoints")
    found = checkpoint.newest(checkpoints)
    if found is not None:
        trainer.load_state_dict(checkpoint.unpack(found.read("state.pt"), device))
    metrics = Metrics(folder, trainer.steps_done) if rank == 0 else None
    if metrics is not None:
        reporter.post(stage=f"fit {name}", done=trainer.steps_done, total=settings.steps, unit="steps")
    while trainer.steps_done < settings.steps:
        indices = batch_indices(job.seed + rank, trainer.steps_done, batch, len(train))
        x = preprocess(name, train[indices]).to(device)
        if label == "rgb":
            x = color_jitter(x, settings.color_jitter, job.seed + rank, trainer.steps_done)
        values = trainer.step(x)
        step = trainer.steps_done
        if not math.isfinite(values["gradient_norm"]):  # before it is in a checkpoint
            raise FloatingPointError(
                f"fit {name}: the norm of the gradient is {values['gradient_norm']} at step {step}; lower "
                "tokenizers.grid.base_lr, or set tokenizers.grid.clip_norm"
            )
        if metrics is None:
            continue
        if step % LOG_EVERY == 0 or step == settings.steps:
            metrics.log(step, "train", values)
            notes = f"loss {values['loss']:.4f}, {values['codes_in_batch']:.0f} codes in a batch"
            reporter.post(stage=f"fit {name}", done=step, total=settings.steps, unit="steps", notes=notes)
        if step % settings.checkpoint_every == 0 and step < settings.steps:
            metrics.flush()  # the lines first: whoever goes on from the checkpoint needs them
            checkpoint.save(checkpoints, step, {"state.pt": checkpoint.pack(trainer.state_dict())}, keep=1)
    if metrics is not None:
        pieces = range(0, len(val), batch)
        batches = (preprocess(name, val[i : i + batch]).to(device) for i in pieces)
        quality = trainer.evaluate(batches, _measure(label))
        metrics.log(settings.steps, cache.measured_on, quality)
        metrics.close()
        with tempfile.TemporaryDirectory() as scratch:
            vqvae.save(trainer.result().cpu(), scratch, quality)
            content = (vqvae.fingerprint(scratch), job.specs[name].vocab_size)
            told = {"quality": quality, "measured_on": cache.measured_on}
            _commit(job, name, scratch, content, len(train) * world, start, told)
    if world > 1:
        torch.distributed.barrier()


def _measure(label: str) -> Literal["picture", "edges", "labels"]:
    """How a reconstruction of a label is judged, by what its pixels are."""
    measures: dict[str, Literal["picture", "edges", "labels"]] = {"edges": "edges", "classes": "labels"}
    return measures.get(LABELS[label].pixels, "picture")


def _model(job: FitJob, name: str) -> Any:
    from ..tokenize.vqvae import VQVAE, VQVAEConfig

    settings, spec, modality = job.grids[name], job.specs[name], MODALITIES[name]
    config = VQVAEConfig.small(
        settings.dim,
        settings.encoder_depth,
        settings.heads,
        settings.decoder_depth,
        image_size=job.image_size,
        n_channels=modality.channels,
        patch_size=job.image_size // spec.side,
        post_mlp=True,
        out_conv=settings.out_conv,
        codebook_size=spec.vocab_size,
        latent_dim=settings.latent_dim,
        norm_latents=settings.norm_latents,
        ema_decay=settings.ema_decay,
    )
    return VQVAE(config, seed=job.seed)


def _fit_config(settings: GridTokenizer, batch: int) -> Any:
    from .vq import VQFitConfig

    return VQFitConfig(
        steps=settings.steps,
        batch_size=batch,
        lr=settings.base_lr * settings.batch_size / 256,
        warmup=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        clip=settings.clip_norm,
        loss=settings.loss,
        gradient_weight=settings.gradient_weight,
        dead_code_coefficient=settings.dead_code_coefficient,
        average=settings.average,
        warm_start=settings.warm_start,
    )


def _commit(
    job: FitJob, name: str, folder: str, content: tuple[str, int], samples: int, start: float, told: dict[str, Any]
) -> None:
    """Put a tokenizer's files and then its record.

    As `ledger.commit` does for one file: of two jobs that put their files at the same time one wins the record, and if
    the other holds a different tokenizer it commits again, so that the record is never of the other one's files.

    Args:
        content: its fingerprint and the size of its vocabulary.
        told: what else its record says.

    Raises:
        OSError: other jobs keep committing other tokenizers.
    """
    files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    settings: TextTokenizer | GridTokenizer | None = job.text if name == TEXT_TOKENIZER else job.grids[name]
    assert settings is not None
    record = ledger.Record(
        output=OUTPUT,
        shard=name,
        fingerprint=job.prints[name],
        source=ledger.Source(0, "", ""),
        rows=samples,
        nulls=0,
        rejects=[],
        bytes=sum(map(len, files.values())),
        sha256=content[0],
        seconds=round(time.monotonic() - start, 3),
        identity={"settings": settings.model_dump(mode="json"), "vocab_size": content[1], **told},
    )
    url = ledger.record_url(job.root, OUTPUT, name)
    for _ in range(ledger.ATTEMPTS):
        storage.delete(url)
        for file, data in files.items():
            storage.put(storage.join(job.root, OUTPUT, name, file), data)
        if storage.put(url, ledger.dumps(record), if_absent=True):
            return
        other = ledger.read(job.root, OUTPUT, name)
        if other is not None and (other.fingerprint, other.sha256) == (record.fingerprint, record.sha256):
            return
    raise OSError(f"{url}: other jobs keep committing other tokenizers; do not fit two recipes on one root at a time")
