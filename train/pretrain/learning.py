"""What of an extended model learns, and when (`train.extend`).

Rows of the tables of new modalities learn from the first step, all that the trained model knew after `alone` steps.
What only the trained model knows never does: no batch asks for it, and weight decay alone would change it.

What does not learn has no gradient, so that clipping looks at the others; moments stay 0 and nothing decays, so that
not a bit of it changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from ...model.fourm import FourM

_PROJECTIONS = "projections.layers."


class Learning:
    """Shares of parameters that learn.

    Args:
        model: its parameters may be shards already.
        new: modalities that begin with fresh tables. idle: those that the run does not have.
        alone: steps in which only the new ones learn.
        weight_decay: of the optimizer, which this does in its place.
    """

    def __init__(
        self, model: FourM, new: Collection[str], idle: Collection[str], alone: int, weight_decay: float
    ) -> None:
        self.alone, self._weight_decay = alone, weight_decay
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._no_decay = model.no_decay_names()
        self._phases = [
            {name: _like(share, self._named[name]) for name, share in shares.items()}
            for shares in (_shares(model, new, rest=0.0), _shares(model, set(_names(model)) - set(idle), rest=1.0))
        ]

    def _at(self, step: int) -> Mapping[str, Tensor]:
        return self._phases[0 if step < self.alone else 1]

    @torch.no_grad()
    def mask(self, step: int) -> None:
        """Take the gradients of what does not learn in a step away, before they are measured and clipped."""
        for name, share in self._at(step).items():
            grad = self._named[name].grad
            if grad is not None:
                _local(grad).mul_(share)

    @torch.no_grad()
    def decay(self, step: int, lr: float, kept: Tensor) -> None:
        """Decay what learns, as AdamW does before its step.

        Args:
            kept: 0 if the step changes nothing, else 1, on the device.
        """
        phase = self._at(step)
        for name, p in self._named.items():
            if name not in self._no_decay:
                local = _local(p)
                local.mul_(1 - lr * self._weight_decay * kept.to(local.dtype) * phase.get(name, 1.0))


def _names(model: FourM) -> list[str]:
    return [spec.name for spec in model.config.modalities]


def _shares(model: FourM, learn: Collection[str], rest: float) -> dict[str, Tensor]:
    """For each parameter of which not all learns 1 where it does, of a shape that broadcasts to its own: of tables the
    rows of `learn`, all of their projections, and `rest` of all that belongs to no modality."""
    shares: dict[str, Tensor] = {}
    by_name = dict(model.named_parameters())
    tables = dict(_tables(model))
    for name, p in by_name.items():
        if name in tables:
            rows = torch.zeros(len(p), *[1] * (p.ndim - 1), device=p.device)
            for modality, where in tables[name].items():
                rows[where] = float(modality in learn)
            shares[name] = rows
        elif name.startswith(_PROJECTIONS):
            modality = name.removeprefix(_PROJECTIONS).rpartition(".")[0]
            shares[name] = torch.tensor(float(modality in learn), device=p.device)
        else:
            shares[name] = torch.tensor(rest, device=p.device)
    return {name: share for name, share in shares.items() if not bool(share.all())}


def _tables(model: FourM) -> Iterator[tuple[str, dict[str, slice]]]:
    """Parameters whose rows belong to modalities, and which do."""
    modalities = {name: slice(i, i + 1) for i, name in enumerate(_names(model))}
    yield "modality_table", modalities
    yield "decoder_modality_table", modalities
    for side in ("encoder_embeddings", "decoder_embeddings"):
        embeddings = getattr(model, side)
        for name, _, _, modalities in embeddings.tables():
            yield f"{side}.{name}", modalities
        yield f"{side}.learned_positions", embeddings.learned_rows
    yield "heads", model.decoder_embeddings.token_rows


def _local(tensor: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(share: Tensor, p: Tensor) -> Tensor:
    """The part of a share that belongs to this worker's part of a parameter."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(p, DTensor) or share.ndim == 0:
        return share
    return distribute_tensor(share, p.device_mesh, p.placements).to_local()
