"""What a training step asks of a GPU, counted on tensors without data: exact, in seconds, on any machine.

    python benchmarks/counts.py [--sizes B L XL] [--batch 64] [--checkpointing]

4M-7, 128 inputs and 128 targets, the model's own forward and backward on the "meta" device, in float32: no kernel runs,
so that nothing here is a time. Columns, some with the most that they may be (benchmarks/counts.json, held by a test):

- FLOPs: of matrix products and attention, over those that a step needs (train/flops.py). More are zeros that fill up
  widths, logits that are computed again, and with --checkpointing whole blocks.
- unaligned: share of the products' FLOPs of which a matrix has rows that are no multiples of 8 numbers.
- kept a logit: bytes of logits that are saved for the backward pass, over the number of logits.
- kept a token: kB that are saved of all else, over the tokens of the batch, padding included.
- sent: bytes of raw inputs that go to the device, over those of the pixels that inputs show.
- masks: operations on booleans in a forward pass.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from circumstances import ROOT, state
from torch.utils.flop_counter import FlopCounterMode
from train_step import BUDGET, random_batch, specs_of

from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.train.flops import step_flops
from fourmill.train.pretrain.parts import parts_of

sys.path.insert(0, str(ROOT / "tests/support"))
from fourmill_tests.counted.operations import Operations

MOST: dict[str, float] = json.loads(Path(__file__).with_suffix(".json").read_text())


class Kept:
    """Bytes that are saved for the backward pass, each storage once: logits, and all else but parameters."""

    def __init__(self, model: FourM) -> None:
        self.logits = self.rest = 0
        self.vocabularies = {s.vocab_size for s in model.config.modalities if s.is_target}
        self._known = {id(p) for p in model.parameters()}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if id(x) not in self._known and not (x._base is not None and id(x._base) in self._known):
            self._known.add(id(x))
            if x.ndim == 2 and x.shape[1] in self.vocabularies:
                self.logits += x.numel() * x.element_size()
            else:
                self.rest += x.numel() * x.element_size()
        return x


def counted(size: str, batch: int, checkpointing: bool) -> dict[str, float]:
    """The columns of one size."""
    specs = specs_of()
    host = random_batch(specs, batch, BUDGET, 0)
    with torch.device("meta"):
        model = FourM(FourMConfig.preset(size, specs)).train()
    model.activation_checkpointing = checkpointing
    parts = parts_of(model.config, 1, torch.device("cpu"))(host)
    groups, sent = parts.groups[0], parts.batches[0]
    kept, operations = Kept(model), Operations()
    with FlopCounterMode(display=False) as flops, operations:
        with torch.autograd.graph.saved_tensors_hooks(kept, lambda x: x):
            loss = model(sent, groups=groups).loss
        masks = operations.booleans
        loss.backward()
    predicted = {s.name: float(groups.counts[i]) for i, s in enumerate(specs) if s.is_target}
    logits = sum(predicted[s.name] * s.vocab_size for s in specs if s.is_target)
    pixels = next(i for i, s in enumerate(specs) if not s.is_target)
    shown = int((np.asarray(host.input_valid) & (np.asarray(host.input_mod) == pixels)).sum())
    raw = sum(np.asarray(values).nbytes for values in sent.values.values())
    return {
        "FLOPs": flops.get_total_flops() / step_flops(model.config, batch, BUDGET, BUDGET, predicted),
        "unaligned": operations.unaligned / operations.products,
        "kept a logit": kept.logits / logits,
        "kept a token": kept.rest / batch / (2 * BUDGET) / 1e3,
        "sent": raw / (shown * specs[pixels].input_dim),
        "masks": float(masks),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["B", "L", "XL"])
    parser.add_argument("--batch", type=int, default=64, help="samples of one GPU")
    parser.add_argument("--checkpointing", action="store_true", help="with train.activation_checkpointing")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    rows = {size: counted(size, args.batch, args.checkpointing) for size in args.sizes}
    names = list(next(iter(rows.values())))
    print(f"4M-7, {BUDGET}/{BUDGET}, {args.batch} samples\n")
    print(f"| size | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for size, row in rows.items():
        print(f"| {size} | {' | '.join(f'{row[name]:.3g}' for name in names)} |")
    above = [f"{size}: {name}" for size, row in rows.items() for name, most in MOST.items() if row[name] > most]
    print(f"\nabove benchmarks/counts.json: {', '.join(above) or 'nothing'}")


if __name__ == "__main__":
    main()
