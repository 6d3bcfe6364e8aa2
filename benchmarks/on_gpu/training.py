"""The trainer's own step at B and XL, by the recipes' settings, on batches of its own loader from a store with pixels;
beside the step written the obvious way (eager_step.py).

- useful MFU: FLOPs that a step needs, without padding (train/flops.py), over the peak of the data sheet.
- waiting: share of the time in which the step waited for the loader.
- counted GiB: what train/memory.py says that such a step takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import torch
from counted.training import job_of, load
from eager_step import dense, eager_loss
from gpu import Part, Place
from loader import specs_of, write_store

from fourmill.model.fourm import FourM
from fourmill.train import memory
from fourmill.train.data.groups import ShardRows
from fourmill.train.flops import Lengths, peak_flops, useful_flops
from fourmill.train.pretrain.job import TrainJob, model_config
from fourmill.train.pretrain.trainer import Trainer
from fourmill.train.pretrain.window import Window

ORDER = 1
GIB = 2**30
MOST = {"B": 256, "XL": 64}  # samples of a step; fewer where these do not fit
STEPS = {"B": 20, "XL": 8}
IDLE = 4  # steps that do not count: blocks are compiled in the first


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_of(device: str) -> float | None:
    return peak_flops(torch.cuda.get_device_name()) if device == "cuda" else None


def job(size: str, place: Place) -> TrainJob:
    """The recipe's run on one device, on a store of random tokens and noise."""
    rows = 32 if place.tiny else 2_048
    shards = tuple(ShardRows(f"{i:05d}", rows) for i in range(2))
    (place.folder / "tokens").mkdir()
    write_store(place.folder / "tokens", list(shards))
    recipe = load(f"4m7_{size.lower()}")
    small = {"dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2} if place.tiny else {}
    settings = recipe.train.model_copy(
        update={
            "model": recipe.train.model.model_copy(update=small), "parallel": "ddp", "workers": 1, "accumulate": 1,
            "batch_size": 2, "loader": recipe.train.loader.model_copy(update={"lanes": 1}),
        }
    )  # fmt: skip
    found = replace(
        job_of(recipe), root=str(place.folder), settings=settings, specs=tuple(specs_of(pixels=True)), shards=shards
    )
    samples = 2 if place.tiny else _fitting(found, size)
    return replace(found, settings=settings.model_copy(update={"batch_size": samples}))


def _fitting(found: TrainJob, size: str) -> int:
    """The largest power of two of samples, at most MOST, that this device has room for."""
    room = memory.ROOM * torch.cuda.mem_get_info()[1]
    most = min(MOST[size], memory.of_training(model_config(found), found.settings).fits(room))
    if not most:
        raise ValueError(f"4M-{size} does not fit on this GPU")
    return 1 << (most.bit_length() - 1)


def trainer(found: TrainJob, device: str) -> Trainer:
    torch.manual_seed(0)
    with torch.device(device):
        model = FourM(model_config(found))
    return Trainer(found, model)


def step(size: str, place: Place) -> dict[str, Any]:
    """Seconds of the trainer's step, and what follows from them."""
    cv2.setNumThreads(1)
    torch.set_float32_matmul_precision("high")
    found = job(size, place)
    one, settings = trainer(found, place.device), found.settings
    steps, idle = (1, 1) if place.tiny else (STEPS[size], IDLE)
    with _batches(one) as batches:
        window = _run(one, batches, idle)
        wait(place.device)
        begin = time.perf_counter()
        window = _run(one, batches, steps)
        wait(place.device)
        seconds = (time.perf_counter() - begin) / steps
    counts = zip(*(entry.counts for entry in window.entries), strict=True)
    predicted = {name: sum(of_steps) / steps for name, of_steps in zip(one.outputs, counts, strict=True)}
    lengths = Lengths(*(value / steps for value in window.lengths))
    flops = useful_flops(one.model.config, lengths, predicted)
    figures = {
        "samples": settings.batch_size, "ms a step": 1e3 * seconds, "samples/s": settings.batch_size / seconds,
        "tokens/s": settings.batch_size * settings.tokens_per_sample / seconds,
        "TFLOP/s": flops / seconds / 1e12, "waiting": window.pace.waited / seconds / steps,
    }  # fmt: skip
    if peak := peak_of(place.device):
        figures["useful MFU"] = flops / seconds / peak
        counted = memory.of_training(model_config(found), settings).bytes(settings.batch_size)
        figures |= {"peak GiB": torch.cuda.max_memory_allocated() / GIB, "counted GiB": counted / GIB}
    return figures


@contextmanager
def _batches(one: Trainer) -> Iterator[Any]:
    """As the trainer takes them."""
    batches = one.loader.made(one.parts, one.step, one.settings.batch_size)
    try:
        yield batches
    finally:
        batches.close()


def _run(one: Trainer, batches: Any, steps: int) -> Window:
    """So many steps, whose losses nobody reads."""
    window = Window(one.outputs, started=time.monotonic())
    for _ in range(steps):
        before = time.monotonic()
        _, parts = next(batches)
        window.pace.waited += time.monotonic() - before
        one.train_step(parts, window)
    return window


def eager(size: str, place: Place) -> dict[str, Any]:
    """The step written the obvious way, on one batch that is on the device already, with the same weights."""
    torch.set_float32_matmul_precision("high")
    found = job(size, place)
    one = trainer(found, place.device)
    loader = one.loader.batches(0, found.settings.batch_size)
    batch = next(loader)[1]
    loader.close()
    moved = {m: {k: v.to(place.device) for k, v in d.items()} for m, d in dense(one.model, batch).items()}
    loss_of, optimizer = eager_loss(one.model, found.settings.budgets[0]), one.weights.optimizer
    narrow, times = place.device == "cuda", []
    for _ in range(2 if place.tiny else 8):
        wait(place.device)
        begin = time.perf_counter()
        with torch.autocast(place.device, torch.bfloat16, enabled=narrow):
            loss = loss_of(moved)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        wait(place.device)
        times.append(time.perf_counter() - begin)
    figures = {"samples": found.settings.batch_size, "ms a step": 1e3 * min(times)}
    return figures | ({"peak GiB": torch.cuda.max_memory_allocated() / GIB} if narrow else {})


def loading(place: Place) -> dict[str, Any]:
    """Samples/s of the loader alone, pixels decoded, ready for the device."""
    cv2.setNumThreads(1)
    found = job("B", place)
    one = trainer(replace(found, settings=found.settings.model_copy(update={"model": _toy(found)})), place.device)
    samples, seconds = 0, 0.05 if place.tiny else 5.0
    with _batches(one) as batches:
        next(batches)
        begin = time.perf_counter()
        while (spent := time.perf_counter() - begin) < seconds:
            samples += len(next(batches)[1].keys)
    return {"samples/s": samples / spent}


def _toy(found: TrainJob) -> Any:
    return found.settings.model.model_copy(update={"dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2})


PARTS = [
    Part("step-B", partial(step, "B"), 75),
    Part("eager-step-B", partial(eager, "B"), 30),
    Part("loader", loading, 20),
    Part("step-XL", partial(step, "XL"), 80),
]
