"""The training step written without packing, for comparison: see tests/support/fourmill_tests/eager.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fourmill.modalities import Kind
from fourmill.model.batch import PackedBatch
from fourmill.model.fourm import FourM
from fourmill.model.published import ml4m

ModDict = dict[str, dict[str, torch.Tensor]]


def dense(model: FourM, batch: PackedBatch) -> ModDict:
    """The packed batch as apple/ml-4m's mod_dict: every token of every modality, and masks (True = ignore)."""
    samples, result = batch.num_samples, {}
    for m, spec in enumerate(model.config.modalities):
        text = spec.kind is Kind.SEQUENCE
        length = 2 * (spec.max_tokens + 1) if text else spec.max_tokens
        ids = np.zeros((samples, length), np.int64)
        shown, masked = np.ones((samples, length), bool), np.ones((samples, length), bool)
        ends = np.zeros((samples, length), np.int64)
        for row in range(samples):
            places = batch.input_valid[row] & (batch.input_mod[row] == m)
            at = batch.input_pos[row][places]
            ids[row, at], shown[row, at] = batch.input_ids[row][places], False
            places = batch.target_valid[row] & (batch.target_mod[row] == m)
            at = batch.target_pos[row][places] + (len(at) if text else 0)
            if text and places.any():
                at = np.append(at, at[-1] + 1)
                ids[row, at] = np.append(batch.query_ids[row][places], batch.target_ids[row][places][-1])
                ends[row, at] = 1
            elif places.any():
                ids[row, at] = batch.target_ids[row][places]
                ends[row, at[0]] = len(at)
            masked[row, at] = False
        tensor = torch.from_numpy(ids)
        if spec.kind is Kind.PIXELS:
            patches = torch.from_numpy(np.asarray(batch.values[spec.name]))
            side = spec.side * 16
            pixels = model.projections.normalize_pixels(patches.to(model.device)).cpu()
            tensor = pixels.view(samples, spec.side, spec.side, 16, 16, 3).permute(0, 5, 1, 3, 2, 4)
            tensor = tensor.reshape(samples, 3, side, side)
        result[ml4m.published_name(spec)] = {
            "tensor": tensor, "input_mask": torch.from_numpy(shown), "target_mask": torch.from_numpy(masked),
            "decoder_attention_mask": torch.from_numpy(ends),
        }  # fmt: skip
    return result


def eager_loss(model: FourM, budget: int) -> Callable[[ModDict], torch.Tensor]:
    """The 'mod' loss of the eager model, whose tensors are the parameters of `model`."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from fourmill_tests.eager import EagerFourM

    config = ml4m.configuration(model.config) | {"decoder_causal_mask": False, "decoder_sep_mask": True}
    kinds = {Kind.PIXELS: "pixels", Kind.GRID: "tokens", Kind.SEQUENCE: "sequence"}
    specs = {ml4m.published_name(s): s for s in model.config.modalities}

    def loss(mod_dict: ModDict) -> torch.Tensor:
        # Views of the parameters, taken at each step: gradients flow to the model's own.
        tensors = ml4m.state_dict(model)
        eager = EagerFourM(
            tensors, config, {n: kinds[s.kind] for n, s in specs.items()}, {n: s.max_tokens for n, s in specs.items()}
        )
        losses = eager.losses(mod_dict, (budget, budget), list(mod_dict))
        return torch.stack(list(losses.values())).mean()

    return loss
