"""Four small models that label rendered scenes: trained on truth, saved as hub folders, measured.

    python benchmarks/labellers.py --out pipelines/demo/models [--only semseg det] [--simple 2000] [--medium 4000]
        [--held-out 400] [--effort 1] [--seed 0] [--cache DIR] [--processes 2]

They learn from scenes of a split of their own (`draw.LABELLERS`), which no shard of `fourmill scenes` holds, whatever
its seed; they are measured on others of that split. Measures are of the labels that fourmill's own specialists write
with the saved folders: see labelling/measures.py. The speed is theirs too, with preprocessing, in images a second of
CPU time of one core. The same options on the same machine give the same models.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from circumstances import state
from labelling.measures import labelled, measures
from labelling.models import LABELLERS, SIDE, Labeller
from labelling.scenes import Arrays, Asked, rows, scenes

WARM_UP = 100  # steps
SAID = 200  # steps between two lines of progress


def train(labeller: Labeller, scenes: Arrays, steps: int, seed: int, folder: Path) -> tuple[Any, Any]:
    """A trained model and its image processor.

    Images are mirrored half the time. The learning rate rises linearly, then falls along a cosine to nothing.
    """
    torch.manual_seed(seed)
    (model, processor), helper = labeller.make(folder), labeller.helper()
    learnt = [*model.parameters(), *helper.parameters()]
    groups = [  # biases and scales do not decay
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": labeller.decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, labeller.rate, betas=(0.9, 0.98))
    rng = np.random.default_rng(seed)
    count, begin, running = len(scenes["rgb"]), time.perf_counter(), 0.0
    order = np.concatenate([rng.permutation(count) for _ in range(-(-steps * labeller.batch // count))])
    model.train()
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = labeller.rate * rate
        batch = rows(scenes, order[step * labeller.batch : (step + 1) * labeller.batch])
        if rng.random() < 0.5:
            batch = mirrored(batch)
        loss = labeller.loss(model, seen(processor, batch["rgb"]), batch, helper)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running += float(loss.detach())
        if (step + 1) % SAID == 0:
            said = f"{step + 1} of {steps} steps, loss {running / SAID:.4f}, {time.perf_counter() - begin:.0f} s"
            print(said, file=sys.stderr, flush=True)
            running = 0.0
    return model.eval(), processor


def seen(processor: Any, images: np.ndarray) -> torch.Tensor:
    """float32 (B, 3, H, W): what the processor makes of uint8 images (B, H, W, 3) of the network's own size."""
    return processor(images=list(images), input_data_format="channels_last", return_tensors="pt")["pixel_values"]


def mirrored(batch: Arrays) -> Arrays:
    """Scenes as a mirror shows them: left and right swap."""
    swapped = {name: np.ascontiguousarray(batch[name][:, :, ::-1]) for name in ("rgb", "depth", "normal", "semseg")}
    swapped["normal"][..., 0] *= -1
    boxes = batch["boxes"].copy()
    there = boxes[..., 4] >= 0
    boxes[there, 0], boxes[there, 2] = 1 - batch["boxes"][there, 2], 1 - batch["boxes"][there, 0]
    return swapped | {"boxes": boxes}


def save(model: Any, processor: Any, folder: Path) -> None:
    """A folder as on the hub, in half precision: specialists load it at the precision that they run at."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the four models' folders")
    parser.add_argument("--only", nargs="+", choices=list(LABELLERS), default=list(LABELLERS))
    parser.add_argument("--simple", type=int, default=2000, help="training scenes of few things")
    parser.add_argument("--medium", type=int, default=4000, help="training scenes of more things")
    parser.add_argument("--held-out", type=int, default=400, help="other scenes, on which the models are measured")
    parser.add_argument("--effort", type=float, default=1.0, help="factor on the number of training steps")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fourmill-labellers")
    parser.add_argument("--processes", type=int, default=2, help="that render")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    state(__file__, arguments)
    learnt, held_out = (
        scenes(Asked(args.seed * 2 + n, counts, SIDE), args.cache, args.processes)
        for n, counts in enumerate(({"simple": args.simple, "medium": args.medium}, {"medium": args.held_out}))
    )
    print("| label | model | parameters | MB | training, s of CPU | images/s | measures |")
    print("|---|---|---|---|---|---|---|")
    for label in args.only:
        labeller, begin = LABELLERS[label], time.process_time()
        model, processor = train(labeller, learnt, max(1, round(labeller.steps * args.effort)), args.seed, args.out)
        seconds, folder = time.process_time() - begin, args.out / label
        save(model, processor, folder)
        labels, speed = labelled(label, folder, held_out["rgb"])
        found = ", ".join(f"{name} {value:.3f}" for name, value in measures(label, labels, held_out).items())
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        sizes = f"{model.num_parameters():,} | {size:.2f} | {seconds:.0f} | {speed:.0f}"
        print(f"| {label} | {type(model).__name__} | {sizes} | {found} |", flush=True)


if __name__ == "__main__":
    main()
