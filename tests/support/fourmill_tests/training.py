"""Training runs on columns of random tokens, with no shard, specialist or tokenizer behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from fourmill import recipe as recipes
from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.fourm import FourM
from fourmill.recipe import Recipe
from fourmill.tokenize.store import ColumnSpec, encode_column
from fourmill.train.data.groups import ShardRows
from fourmill.train.pretrain import initial
from fourmill.train.pretrain.job import TrainJob
from fourmill.train.pretrain.trainer import Trainer

SPECS = (
    ModalitySpec("rgb", Kind.PIXELS, 0, 4, input_dim=48),
    ModalitySpec("tok_rgb", Kind.GRID, 64, 16),
    ModalitySpec("tok_dinov2_global", Kind.GRID, 32, 4, learned_positions=True),
    ModalitySpec("caption", Kind.SEQUENCE, 600, 12),
)
TINY: dict[str, Any] = {
    "model": {"dim": 32, "encoder_depth": 2, "decoder_depth": 1, "heads": 2},
    "input_tokens": 12, "target_tokens": 10, "batch_size": 8, "steps": 6, "warmup_steps": 2, "base_lr": 0.05,
    "log_every": 1, "validate_every": 3, "validation_samples": 8, "checkpoint_every": 2,
}  # fmt: skip


class Silent:
    """In place of the board of workers. Not that of data.py: what that needs takes each rank seconds to import."""

    def tell(self, at: str) -> None:
        pass

    def post(self, **message: Any) -> None:
        pass


def write_columns(
    root: Path | str, name: str, rows: int, seed: int = 0, specs: Sequence[ModalitySpec] = SPECS, tokenizer: str = ""
) -> ShardRows:
    """Columns of a shard in root/tokens; keys are "NAME-ROW"."""
    rng = np.random.default_rng(seed)
    keys = [f"{name}-{row}" for row in range(rows)]
    for spec in specs:
        side = 8 if spec.kind is Kind.PIXELS else spec.max_tokens
        column = ColumnSpec(spec.name, spec.kind, 1, side, spec.vocab_size, tokenizer=tokenizer)
        path = Path(root, "tokens", spec.name, f"{name}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_column(column, keys, [_row(spec, rng) for _ in keys]))
    return ShardRows(name, rows)


def _row(spec: ModalitySpec, rng: np.random.Generator) -> Any:
    if spec.kind is Kind.PIXELS:
        return [cv2.imencode(".png", rng.integers(0, 256, (8, 8, 3), np.uint8))[1].tobytes()]
    if spec.kind is Kind.GRID:
        # Few of the codes, so that there is something to learn.
        return rng.integers(0, spec.vocab_size // 8, (1, spec.max_tokens)).astype(np.uint16)
    return [np.append(rng.integers(300, 310, rng.integers(1, spec.max_tokens)), 3).astype(np.uint16)]


def job(root: Path | str, *, rows: int = 32, **train: Any) -> TrainJob:
    """A run of its own in `root`, on columns that are always the same; they are written if there are none."""
    shards = [ShardRows("train", rows), ShardRows("val", 8)]
    if not Path(root, "tokens").exists():
        shards = [write_columns(root, "train", rows), write_columns(root, "val", 8, seed=1)]
    return job_of(recipe_of(root, **train), SPECS, (shards[0],), (shards[1],))


def recipe_of(root: Path | str, **train: Any) -> Recipe:
    """A recipe with the modalities of `SPECS`, and the sizes of `TINY` unless they are given."""
    names, settings = [spec.name for spec in SPECS], {**TINY, **train}
    return recipes.parse({"root": str(root), "samples": "a.tar", "modalities": names, "train": settings})


def job_of(
    recipe: Recipe,
    specs: tuple[ModalitySpec, ...],
    shards: tuple[ShardRows, ...] = (),
    val_shards: tuple[ShardRows, ...] = (),
) -> TrainJob:
    """The run of a recipe on shards that are given, without a root that says which there are."""
    return TrainJob(
        root=recipe.root,
        fingerprint="print",
        seed=recipe.seed,
        settings=recipe.train,
        address=None,
        modules=(),
        recipe=recipe.model_dump(mode="json"),
        specs=specs,
        shards=shards,
        val_shards=val_shards,
        first_sentinel=5,
        num_sentinels=200,
    )


def trainer(job: TrainJob, rank: int = 0, world: int = 1) -> Trainer:
    torch.manual_seed(job.seed)
    return Trainer(job, FourM(initial.config_of(job)), rank, world)


def train(job: TrainJob, rank: int = 0, world: int = 1) -> Trainer:
    """The whole run, in this process."""
    one = trainer(job, rank, world)
    reporter: Any = Silent()
    one.run(reporter)
    return one


class Died(BaseException):
    pass


def train_until(job: TrainJob, step: int, rank: int = 0, world: int = 1) -> None:
    """The run up to a step, where it dies; the checkpoint before is complete then."""
    one = trainer(job, rank, world)
    take = one.train_step

    def dying(*args: Any) -> Any:
        if one.step == step:
            one.saver.wait()
            raise Died
        return take(*args)

    one.train_step = dying  # type: ignore[method-assign]
    reporter: Any = Silent()
    try:
        one.run(reporter)
    except Died:
        return
    raise AssertionError(f"the run ended before step {step}")
