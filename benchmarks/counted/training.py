"""A training step of the recipes in recipes/train/, on tensors without data ("meta"), in float32.

What is counted is the trainer's step on one GPU's share of the recipe's batch, under the recipe's own masks.

- FLOPs: of matrix products and attention, over those that the step needs (train/flops.py). More are padding, zeros that
  fill up widths, logits that are computed again, and with activation checkpointing whole blocks.
- padded: share of the tokens that encoder blocks compute which are padding.
- unaligned: share of the products' FLOPs of which a matrix has rows that are no multiples of 8 numbers.
- kept a logit: bytes of logits that are saved for the backward pass, over the number of logits.
- kept a token: kB of all else that a forward pass leaves in memory, over the tokens of the batch, padding included.
- sent: bytes of raw inputs that go to the device, over those of the rows that inputs show.
- masks: operations on booleans in a forward pass.
- waits: operations that wait for the device, in the whole step.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from circumstances import ROOT
from fourmill_tests.counted.fused import fused
from fourmill_tests.counted.lengths import formulas
from fourmill_tests.counted.operations import Operations
from torch.utils.flop_counter import FlopCounterMode

from fourmill import recipe as recipes
from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.batch import PackedBatch
from fourmill.model.checkpointing import Checkpointing
from fourmill.model.fourm import FourM
from fourmill.model.prepare import TargetGroups
from fourmill.recipe import Recipe
from fourmill.tokenize.text.wordpiece import NUM_SENTINELS
from fourmill.train.flops import Lengths, useful_flops
from fourmill.train.masking.masking import ModalityTokens, mask_batch
from fourmill.train.memory import Live
from fourmill.train.pretrain.job import TrainJob, configured, masking_config, predicted_modalities
from fourmill.train.pretrain.parts import parts_of

TITLE = "A training step: one GPU's samples of a recipe of recipes/train"
TEXT_LENGTH = 24  # tokens of a caption, as in CC12M
GPUS = {"4m7_b": 64, "4m21_b": 64}  # as the recipes say in their comments; 128 of all others


class Kept:
    """Bytes of logits that are saved for the backward pass, each tensor once."""

    def __init__(self, model: FourM, groups: TargetGroups) -> None:
        self.logits = 0
        specs = zip(groups.counts, model.config.modalities, strict=True)
        self._shapes = {(count, spec.vocab_size) for count, spec in specs if spec.is_target}
        self._known = {id(p): p for p in model.parameters()}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if id(x) not in self._known and not (x._base is not None and id(x._base) in self._known):
            self._known[id(x)] = x  # kept, so that no other tensor gets its id
            if x.shape in self._shapes:
                self.logits += x.numel() * x.element_size()
        return x


def load(name: str) -> Recipe:
    """A recipe of recipes/train, with a root and samples that are not there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(f"include: [{ROOT / 'recipes/train' / name}.yaml]\nroot: out\nsamples: a.tar\n")
        return recipes.load(path)


def job_of(recipe: Recipe) -> TrainJob:
    """The training run of a recipe, without shards."""
    values = {"root": "", "fingerprint": "", "seed": 0, "address": None, "modules": (), "recipe": {}}
    return TrainJob(
        **values, settings=recipe.train, specs=tuple(recipe.specs()), shards=(), val_shards=(),
        first_sentinel=5, num_sentinels=NUM_SENTINELS,
    )  # fmt: skip


def random_batch(job: TrainJob, samples: int, seed: int = 0) -> PackedBatch:
    """Random tokens under the recipe's masks; texts have TEXT_LENGTH tokens, and nothing is missing."""
    rng = np.random.default_rng(seed)
    tokens, values = {}, {}
    for spec in job.specs:
        texts = spec.kind is Kind.SEQUENCE
        lengths = np.full(samples, min(TEXT_LENGTH, spec.max_tokens) if texts else spec.max_tokens)
        shape = (int(lengths.sum()),) if texts else (samples, spec.max_tokens)
        ids = rng.integers(min(300, spec.vocab_size // 2), spec.vocab_size, shape) if spec.vocab_size else None
        tokens[spec.name] = ModalityTokens(lengths, ids)
        if ids is None:  # one more row of vectors: the zeros of masked ones
            rows = spec.max_tokens + (spec.kind is Kind.EMBEDDING)
            values[spec.name] = np.zeros((samples, rows, spec.input_dim), _raw_type(spec))
    batch = mask_batch(list(job.specs), masking_config(job), tokens, rng)
    batch.values = values
    return batch


def _raw_type(spec: ModalitySpec) -> type:
    return np.uint8 if spec.kind is Kind.PIXELS else np.float16


def raw(job: TrainJob, depth: int, batch: PackedBatch, checkpointing: Checkpointing) -> Counter[str]:
    """Sums over a step of a model with so many blocks in encoder and decoder."""
    config = configured(job.specs, job.settings.model)
    asked = predicted_modalities(masking_config(job), (), (0.0, 1.0))
    parts = parts_of(config, 1, torch.device("cpu"), job.settings.unpads("cuda"), None, asked)(batch)
    (unpadding,) = parts.unpaddings
    if unpadding is not None:  # a GPU attends without padding, in the precision of the recipes
        unpadding = replace(unpadding, fused=True)
    with torch.device("meta"):
        model = FourM(replace(config, encoder_depth=depth, decoder_depth=depth)).train()
    model.checkpoint_blocks(checkpointing)
    sent, kept, operations, live = parts.batches[0], Kept(model, parts.groups[0]), Operations(), Live()
    flops = FlopCounterMode(display=False, custom_mapping=formulas(unpadding))
    with fused(), flops, operations:
        with live, torch.autograd.graph.saved_tensors_hooks(kept, lambda x: x):
            loss = model(sent, groups=parts.groups[0], unpadding=unpadding).loss
        masks, rest = operations.booleans, live.bytes - kept.logits
        loss.backward()
    return Counter(
        flops=flops.get_total_flops(), products=operations.products, unaligned=operations.unaligned,
        logits=kept.logits, rest=rest, sent=sum(np.asarray(values).nbytes for values in sent.values.values()),
        masks=masks, waits=operations.waits.total(),
        tokens=depth * (batch.input_valid.size if unpadding is None else len(unpadding.places)),
    )  # fmt: skip


def counted(name: str, samples: int | None = None, checkpointing: Checkpointing | None = None) -> dict[str, float]:
    """The columns of a recipe; its own samples and `activation_checkpointing` unless given."""
    recipe = load(name)
    job, train = job_of(recipe), recipe.train
    samples = samples or train.batch_size // GPUS.get(name, 128)
    checkpointing = train.activation_checkpointing if checkpointing is None else checkpointing
    batch, config = random_batch(job, samples), configured(job.specs, train.model)
    # Blocks are alike: what a second one of each side adds, each further one adds.
    assert config.encoder_depth == config.decoder_depth
    one, two = (raw(job, depth, batch, checkpointing) for depth in (1, 2))
    total = {key: one[key] + (two[key] - one[key]) * (config.encoder_depth - 1) for key in one}
    valid, mods = np.asarray(batch.target_valid), np.asarray(batch.target_mod)
    predicted = {s.name: float((valid & (mods == i)).sum()) for i, s in enumerate(job.specs) if s.is_target}
    logits = sum(predicted[s.name] * s.vocab_size for s in job.specs if s.is_target)
    return {
        "FLOPs": total["flops"] / useful_flops(config, Lengths.of(batch), predicted),
        "padded": 1 - config.encoder_depth * int(np.asarray(batch.input_valid).sum()) / total["tokens"],
        "unaligned": total["unaligned"] / total["products"],
        "kept a logit": total["logits"] / logits,
        "kept a token": total["rest"] / samples / train.tokens_per_sample / 1e3,
        "sent": total["sent"] / max(1, _shown_bytes(job, batch)),
        "masks": float(total["masks"]),
        "waits": float(total["waits"]),
    }


def _shown_bytes(job: TrainJob, batch: PackedBatch) -> int:
    """Of the rows of raw inputs that inputs show."""
    mods, valid, total = np.asarray(batch.input_mod), np.asarray(batch.input_valid), 0
    for i, spec in enumerate(job.specs):
        if spec.name in batch.values:
            total += int((valid & (mods == i)).sum()) * spec.input_dim * np.dtype(_raw_type(spec)).itemsize
    return total


NAMES = ("4m7_b", "4m7_l", "4m7_xl", "4m21_b", "4m21_xl", "4m7_t2i", "4m7_t2i_xl", "4m7_sr")
ROWS = {name: partial(counted, name) for name in NAMES} | {
    "4m7_xl, not checkpointed": partial(counted, "4m7_xl", None, False)
}
