"""What the processes of a test with several ranks do; in a module of its own, which they import."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from functools import partialmethod
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fourmill.model.fourm import FourM
from fourmill.train import checkpoint, parallel
from fourmill.train.pretrain.window import Window

from . import training
from .counted.operations import counting
from .processes import forked

SHARDED: dict[str, Any] = {
    "parallel": "fsdp", "accumulate": 2, "clip_norm": 0.5, "ema": 0.5, "activation_checkpointing": True,
}  # fmt: skip


def spawn(work: Callable[..., None], world: int, folder: Path) -> None:
    """`work(rank, world, folder)`, a function of a module, on each rank of a gloo group."""
    script = f"from fourmill_tests import ranks; from {work.__module__} import {work.__name__} as work; ranks.run(work)"
    files = [folder / f"said-{world}-{rank}" for rank in range(world)]
    processes = []
    for rank, file in enumerate(files):
        with file.open("wb") as said:
            arguments = ["-c", script, str(rank), str(world), str(folder)]
            processes.append(forked.start(arguments, os.environ, said.fileno(), said.fileno()))
    going = {os.pidfd_open(process.pid): rank for rank, process in enumerate(processes)}
    failed = None
    while going:
        for ended in connection.wait(list(going)):  # the others would wait for one that has failed
            assert isinstance(ended, int)
            os.close(ended)
            rank = going.pop(ended)
            if processes[rank].wait() and failed is None:
                failed = rank
                for other in going:
                    signal.pidfd_send_signal(other, signal.SIGKILL)
    assert failed is None, files[failed].read_text()


def run(work: Callable[..., None]) -> None:
    """What one rank does: see `spawn`."""
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
    try:
        work(rank, world, Path(folder))
    finally:
        dist.destroy_process_group()


SKIPPING: dict[str, Any] = {"nonfinite": "skip", "ema": 0.5, "log_every": 3, "steps": 3}


def _unseen(folder: str) -> checkpoint.Checkpoint:
    raise AssertionError("only the first rank may look for checkpoints")


def trains(rank: int, world: int, folder: Path) -> None:
    """A run with DDP; one with FSDP that dies; and one that one process began, with FSDP to its end."""
    if rank:  # an attempt that died may still be writing: if each rank looked, each could find another checkpoint
        checkpoint.newest = _unseen
    training.train(training.job(folder / "ddp"), rank, world)
    exchanges(folder / "ddp", rank, world)
    # Of tables in two parts a side: each modality's rows have 128 bytes.
    whole, parallel.UNIT_BYTES = parallel.UNIT_BYTES, 96 * 128
    training.train_until(training.job(folder / "shrinks", **SHARDED), 5, rank, world)
    made = training.train(training.job(folder / "grows", **SHARDED), rank, world)
    assert [len(part.rows) for part in made.model.encoder_embeddings.parts] == [96, 600]
    parallel.UNIT_BYTES = whole
    for mode in ("ddp", "fsdp"):
        skips(folder / f"skips-{mode}", mode, rank, world)
    compiles(folder / "compiles", rank, world)


def exchanges(folder: Path, rank: int, world: int) -> None:
    """Rows of a worker's own have bit for bit the gradient that DDP would give all of them; then all rows are its."""
    made = training.trainer(training.job(folder), rank, world)
    batches = made.loader.made(made.parts, 5, 8, rank, world)
    parts, table = next(batches)[1], made.model.encoder_embeddings.tokens
    batches.close()
    made.model(parts.batches[0], groups=parts.groups[0]).loss.backward()
    touched = made.parallel.touched
    assert table.grad is not None and parts.rows is not None and touched is not None
    assert parts.rows.numel() < 0.2 * len(table)
    expected, before = table.grad / world, table.detach().clone()
    dist.all_reduce(expected)
    touched.pull(parts.rows)
    touched.push()
    mine = table.grad.any(1)
    assert torch.equal(table.grad[mine], expected[mine]) and 0 < mine.sum() < expected.any(1).sum()
    with torch.no_grad():
        table.add_(table.grad)
    touched.make_whole([table])
    assert torch.equal(table, before + expected)


COMPILED: dict[str, Any] = {
    "parallel": "fsdp", "compile": True, "steps": 20, "unpad": True, "input_tokens": [3, 24],
    "activation_checkpointing": "selective",
}  # fmt: skip


def compiles(folder: Path, rank: int, world: int) -> None:
    """Twenty steps with FSDP and compiled blocks, checkpointed, without padding, with validations between;
    graphs{rank}.json has how many graphs were made until the first step, the first validation, and the end."""
    graphs: list[int] = []

    compiled = FourM.compile_blocks
    FourM.compile_blocks = partialmethod(compiled, backend=counting(graphs), fullgraph=True)  # type: ignore[assignment]
    try:
        made = training.trainer(training.job(folder, **COMPILED), rank, world)
    finally:
        FourM.compile_blocks = compiled  # type: ignore[method-assign]
    batches, counts = made.loader.made(made.parts, 0, 8, rank, world), []
    for step in range(20):
        made.train_step(next(batches)[1], Window(made.outputs))
        counts.append(len(graphs))
        if step % 8 == 3:
            made.validate()
            counts.append(len(graphs))
    batches.close()
    (folder / f"graphs{rank}.json").write_text(json.dumps(sorted(set(counts))))


def skips(folder: Path, mode: str, rank: int, world: int) -> None:
    """A run in which the last rank's captions have no finite loss at step 2; both ranks must leave that step out."""
    made = training.trainer(training.job(folder, parallel=mode, **SKIPPING), rank, world)
    losses = made.parallel.losses

    def damaged(*args: Any) -> torch.Tensor:
        bad = [math.nan if name == "caption" else 1.0 for name in made.outputs]
        return losses(*args) * torch.tensor(bad) if made.step == 1 and rank == world - 1 else losses(*args)

    made.parallel.losses = damaged  # type: ignore[method-assign]
    reporter: Any = training.Silent()
    made.run(reporter)
    assert made.skipped == [2]
