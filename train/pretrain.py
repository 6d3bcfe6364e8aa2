"""Training 4M: the work of Ray Train workers, from columns to checkpoints.

Decisions:
- Which sample stands in which batch, its crop and its masks are functions of (seed, position): a run that was killed
  goes on with the batches that an uninterrupted run would have seen, with the weights and moments it had.
- Nothing in a step waits for the device; losses are looked at every `log_every` steps and before each checkpoint, and
  that is when a loss or gradient that is not finite is found and named (step, modality, samples). No checkpoint has it.
- Validation uses the same masks every time, and counts each modality's loss over its targets.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .. import recipe as recipes
from ..infra import ledger, storage
from ..modalities import Kind, ModalitySpec
from ..model import checkpoint as model_files
from ..model.batch import PackedBatch
from ..model.config import FourMConfig
from ..model.fourm import FourM, FourMOutput
from . import checkpoint, workers
from .groups import Shard
from .loader import LoaderOptions, TokenLoader
from .masking import MaskingConfig, Mixture
from .metrics import Metrics
from .schedule import cosine_lr
from .spans import Keep

MODEL_FILES = (model_files.WEIGHTS, model_files.CONFIG)
VALIDATION_SEED = 1_000_003  # masks of validation never depend on the run's seed


@dataclass(frozen=True)
class TrainJob:
    """A training run. `fingerprint` is of everything its weights depend on; it names the run's folder.

    shards, val_shards: (name, rows) of the columns in ROOT/tokens.
    num_sentinels, first_sentinel: of the text tokenizer ([S_1] is the first that spans use).
    """

    recipe: recipes.Recipe
    fingerprint: str
    specs: tuple[ModalitySpec, ...]
    shards: tuple[Shard, ...]
    val_shards: tuple[Shard, ...]
    first_sentinel: int
    num_sentinels: int

    @property
    def folder(self) -> str:
        return run_folder(self.recipe, self.fingerprint)


def run_folder(recipe: recipes.Recipe, fingerprint: str) -> str:
    """ROOT/runs/NAME/FINGERPRINT: runs with other settings stand beside each other."""
    return storage.join(recipe.root, "runs", recipe.train.name, fingerprint)


def masking_config(job: TrainJob) -> MaskingConfig:
    """The recipe's masking with one alpha for each modality."""
    train = job.recipe.train

    def span(tokens: int | tuple[int, int]) -> tuple[int, int]:
        return (tokens, tokens) if isinstance(tokens, int) else tokens

    def alphas(alpha: float | dict[str, float], specs: list[ModalitySpec]) -> dict[str, float]:
        return {s.name: alpha.get(s.name, 0.0) if isinstance(alpha, dict) else alpha for s in specs}

    everything, targets = list(job.specs), [spec for spec in job.specs if spec.is_target]
    texts = [spec.name for spec in job.specs if spec.kind in (Kind.SEQUENCE, Kind.EMBEDDING)]
    mixtures = []
    for m in train.mixtures:
        keep = {n: m.keep.get(n, "random") if isinstance(m.keep, dict) else m.keep for n in texts}
        keeps = {name: Keep(rule) for name, rule in keep.items()}
        mixtures.append(Mixture(alphas(m.input_alpha, everything), alphas(m.target_alpha, targets), m.weight, keeps))
    return MaskingConfig(
        span(train.input_tokens),
        span(train.target_tokens),
        tuple(mixtures),
        redistribute=train.redistribute,
        first_sentinel=job.first_sentinel,
        num_sentinels=job.num_sentinels,
    )


def model_config(job: TrainJob) -> FourMConfig:
    sizes = job.recipe.train.model
    return FourMConfig(
        job.specs,
        dim=sizes.dim,
        encoder_depth=sizes.encoder_depth,
        decoder_depth=sizes.decoder_depth,
        num_heads=sizes.heads,
        mlp_ratio=sizes.mlp_ratio,
        qk_norm=sizes.qk_norm,
    )


def run(job: TrainJob) -> None:
    """Train under Ray Train. RuntimeError with the cause if the workers fail for good."""
    train = job.recipe.train
    resources = workers.Resources(train.workers, train.cpus, train.gpus)
    workers.run(work, {"job": job}, resources, "train", job.recipe.engine.address)


def work(config: dict[str, Any]) -> None:
    """One worker's part."""
    from ray import train

    context = train.get_context()
    torch.set_num_threads(config["threads"])
    job = config["job"]
    torch.manual_seed(job.recipe.seed)
    model = FourM(model_config(job))
    prepared = train.torch.prepare_model(model)
    trainer = Trainer(job, model, prepared, context.get_world_rank(), context.get_world_size())
    trainer.run(config["reporter"])


@dataclass
class _Window:
    """Losses since the last log line, on the device: one tensor a step, and what is needed to name a bad one.

    waited, started: seconds spent waiting for data, and the clock at the start; pauses move the start.
    """

    losses: list[torch.Tensor] = field(default_factory=list)
    norms: list[torch.Tensor] = field(default_factory=list)
    by_modality: list[torch.Tensor] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    keys: list[list[str]] = field(default_factory=list)
    waited: float = 0.0
    started: float = field(default_factory=time.monotonic)


class Trainer:
    """One rank of a run: its model, optimiser, loader and log.

    Args:
        prepared: the model as it is called, which DDP may have wrapped.
    """

    def __init__(self, job: TrainJob, model: FourM, prepared: nn.Module, rank: int, world: int) -> None:
        self.job, self.model, self.prepared, self.rank, self.world = job, model, prepared, rank, world
        settings = job.recipe.train
        if settings.batch_size % world:
            raise ValueError(f"train.batch_size: {settings.batch_size} does not divide among {world} workers")
        self.peak_lr = settings.base_lr * settings.batch_size / 256
        groups = model.parameter_groups(settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=self.peak_lr, betas=settings.betas, fused=True)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.step = 0
        self.seconds = 0.0
        self.checkpoints = storage.join(job.folder, "checkpoints")
        self._resume()
        self.loader = self._loader(job.shards, job.recipe.seed, settings.repeat)
        self.outputs = model.config.outputs

    def _loader(self, shards: tuple[Shard, ...], seed: int, repeat: int) -> TokenLoader:
        tokens = storage.join(self.job.recipe.root, "tokens")
        options = LoaderOptions(repeat=repeat)
        return TokenLoader(tokens, shards, self.job.specs, masking_config(self.job), seed, options)

    def _resume(self) -> None:
        found = checkpoint.newest(self.checkpoints)
        if found is None:
            return
        with storage.local_folder(found.url, MODEL_FILES) as folder:
            saved = model_files.load(folder)
        mine, theirs = self.model.config.to_dict(), saved.config.to_dict()
        if other := [name for name in mine if mine[name] != theirs[name]]:
            # Tables of several modalities may have the same sizes: the weights could be loaded, into the wrong ones.
            raise ValueError(
                f"{found.url}: this checkpoint is of a model with other {', '.join(other)} than the recipe's "
                "(the order of the modalities counts); move the folder away, or set another train.name"
            )
        self.model.load_state_dict(saved.state_dict())
        state = checkpoint.unpack(found.read("trainer.pt"), str(self.model.device))
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def run(self, reporter: workers.Reporter) -> None:
        """Train to the last step, with validation, checkpoints and log lines on the way; rank 0 commits the run."""
        settings = self.job.recipe.train
        metrics = Metrics(self.job.folder, self.step) if self.rank == 0 else None
        started = time.monotonic() - self.seconds
        batches = self.loader.batches(self.step, settings.batch_size, self.rank, self.world)
        window = _Window()
        self._report(reporter, "")
        while self.step < settings.steps:
            before = time.monotonic()
            _, batch = next(batches)
            window.waited += time.monotonic() - before
            lr, norm = self.train_step(batch, window)
            done = self.step == settings.steps
            saves = self.step % settings.checkpoint_every == 0 or done
            # Looked at before it is saved; and a run that goes on from here has the same windows, so the same lines.
            if self.step % settings.log_every == 0 or saves:
                values = self._close(window) | {"lr": lr, "gradient_norm": float(norm)}
                if metrics is not None:
                    metrics.log(self.step, "train", values)
                    self._report(reporter, f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s")
                window = _Window()
            paused = time.monotonic()
            if self.job.val_shards and (self.step % settings.validate_every == 0 or done):
                values = self.validate()
                if metrics is not None:
                    metrics.log(self.step, "val", values)
                    metrics.flush()
            self.seconds = time.monotonic() - started
            if metrics is not None and saves:
                metrics.flush()  # the lines first: whoever goes on from the checkpoint needs them
                self.save()
            window.started += time.monotonic() - paused
        batches.close()  # type: ignore[attr-defined]
        if metrics is not None:
            metrics.close()
            self._commit(metrics.last("train") | metrics.last("val", "val_"))
        if self.world > 1:
            dist.barrier()

    def train_step(self, batch: PackedBatch, window: _Window) -> tuple[float, torch.Tensor]:
        """One optimiser step. Returns its learning rate and the norm of the gradient, on the device."""
        settings = self.job.recipe.train
        lr = cosine_lr(
            self.step, peak=self.peak_lr, minimum=settings.min_lr, warmup=settings.warmup_steps, steps=settings.steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.prepared.train()
        output: FourMOutput = self.prepared(batch)
        self.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm or math.inf)
        self.optimizer.step()
        self.step += 1
        window.losses.append(output.loss.detach())
        window.norms.append(norm.detach())
        window.by_modality.append(torch.stack([output.losses[name].detach() for name in self.outputs]))
        window.counts.append([output.counts[name] for name in self.outputs])
        window.keys.append(batch.keys)
        return lr, norm

    def _close(self, window: _Window) -> dict[str, float]:
        """The means of a window, over all ranks. FloatingPointError if a loss or a gradient's norm is not finite."""
        losses = torch.stack(window.losses).cpu()
        by_modality = torch.stack(window.by_modality).double().cpu()
        self._check("loss", losses, by_modality, window)
        counts = torch.tensor(window.counts, dtype=torch.float64)
        sums, totals = self._reduce((by_modality * counts).sum(0), counts.sum(0))
        seconds = time.monotonic() - window.started
        settings = self.job.recipe.train
        tokens = sum(n if isinstance(n, int) else n[1] for n in (settings.input_tokens, settings.target_tokens))
        (mean,) = self._reduce(losses.double().mean() / self.world)
        # Gradients are shared: after the sums above a rank whose own loss was bad has said so, and better.
        self._check("norm of the gradient", torch.stack(window.norms).cpu(), by_modality, window)
        values = {"loss": mean.item()}
        values |= self._by_name(sums, totals)
        # Tokens are counted by budget, padding included, as in the papers.
        values["tokens_per_second"] = len(losses) * settings.batch_size * tokens / seconds
        values["data_wait_share"] = window.waited / seconds
        return values

    def _check(self, what: str, values: torch.Tensor, by_modality: torch.Tensor, window: _Window) -> None:
        """FloatingPointError with step, modalities and samples of the first value of a window that is not finite."""
        finite = torch.isfinite(values)
        if finite.all():
            return
        at = int((~finite).nonzero()[0])
        bad = [n for n, v in zip(self.outputs, by_modality[at].tolist(), strict=True) if not math.isfinite(v)]
        raise FloatingPointError(
            f"the {what} is {values[at].item()} at step {self.step - len(values) + at + 1} "
            f"(modalities: {', '.join(bad) or 'all'}; samples: {', '.join(window.keys[at][:8])}, ...); "
            "lower train.base_lr, or set train.clip_norm"
        )

    def _reduce(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        if self.world > 1:
            tensors = tuple(tensor.to(self.model.device) for tensor in tensors)
            for tensor in tensors:
                dist.all_reduce(tensor)
        return [tensor.cpu() for tensor in tensors]

    def _by_name(self, sums: torch.Tensor, totals: torch.Tensor) -> dict[str, float]:
        pairs = zip(self.outputs, sums.tolist(), totals.tolist(), strict=True)
        return {f"loss/{name}": loss / total for name, loss, total in pairs if total}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean cross-entropy of each modality, nats a target, on the first validation samples with fixed masks."""
        settings = self.job.recipe.train
        self.model.eval()
        loader = self._loader(self.job.val_shards, VALIDATION_SEED, 1)
        batch_size = self.world * max(1, min(settings.batch_size, loader.epoch_size) // self.world)
        steps = max(1, min(settings.validation_samples, loader.epoch_size) // batch_size)
        sums = torch.zeros(len(self.outputs), dtype=torch.float64)
        totals = torch.zeros_like(sums)
        batches = loader.batches(0, batch_size, self.rank, self.world)
        for _, batch in itertools.islice(batches, steps):
            output = self.model(batch)
            counts = torch.tensor([output.counts[name] for name in self.outputs], dtype=torch.float64)
            sums += torch.stack([output.losses[name] for name in self.outputs]).double().cpu() * counts
            totals += counts
        batches.close()  # type: ignore[attr-defined]
        by_name = self._by_name(*self._reduce(sums, totals))
        return {"loss": sum(by_name.values()) / len(self.outputs)} | by_name

    def save(self) -> None:
        """A checkpoint: the model in its own format, and what the optimiser knows."""
        files = {}
        with tempfile.TemporaryDirectory() as scratch:
            model_files.save(self.model, scratch)
            files = {name: Path(scratch, name).read_bytes() for name in MODEL_FILES}
        state = {"optimizer": self.optimizer.state_dict(), "step": self.step, "seconds": self.seconds}
        files["trainer.pt"] = checkpoint.pack(state)
        checkpoint.save(self.checkpoints, self.step, files, keep=self.job.recipe.train.keep_checkpoints)

    def _report(self, reporter: workers.Reporter, notes: str) -> None:
        if self.rank == 0:
            steps = self.job.recipe.train.steps
            reporter.post(stage="train", done=self.step, total=steps, unit="steps", notes=notes)

    def _commit(self, last: dict[str, float]) -> None:
        """The run's record: from now on the run is complete."""
        root, name = self.job.recipe.root, self.job.recipe.train.name
        storage.put(storage.join(self.job.folder, "recipe.yaml"), recipes.dump(self.job.recipe).encode())
        record = ledger.Record(
            output=f"runs/{name}",
            shard=self.job.fingerprint,
            fingerprint=self.job.fingerprint,
            source=ledger.Source(0, "", ""),
            rows=sum(shard.rows for shard in self.job.shards),
            nulls=0,
            rejects=[],
            bytes=0,
            sha256="",
            seconds=round(self.seconds, 3),
            identity={"metrics": last, "parameters": sum(p.numel() for p in self.parameters), "steps": self.step},
        )
        storage.put(ledger.record_url(root, record.output, record.shard), ledger.dumps(record))


def load_model(folder: str, device: str = "cpu") -> FourM:
    """The model of a run's newest complete checkpoint. FileNotFoundError if there is none."""
    found = checkpoint.newest(storage.join(folder, "checkpoints"))
    if found is None:
        raise FileNotFoundError(f"there is no complete checkpoint below {folder}; run `fourmill train` first")
    with storage.local_folder(found.url, MODEL_FILES) as local:
        return model_files.load(local, device)
