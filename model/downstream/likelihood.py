"""How likely the true tokens of a modality are, given others: one forward pass, in which all of them are asked at once.

Every token of the target is a query, and none of them is an input. Nothing is drawn.

Legend: B samples, L tokens of a grid, M queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...modalities import Kind, ModalitySpec
from ..config import FourMConfig
from ..fourm import Context, FourM, decoder_mask
from ..generation.known import PUBLISHED_IDS, Known, SpecialIds, Tokens

ROWS = 1024  # logits that are in memory at a time: of 30,000 words they are 0.25 GB


class Reader:
    """What a model reads of a batch, for any number of targets.

    Args:
        known: of the batch; `Known.of` packs conditions.
    """

    def __init__(self, model: FourM, known: Known, special: SpecialIds = PUBLISHED_IDS) -> None:
        self.model, self.known, self.special = model, known, special
        self._context: Context | None = None

    @torch.inference_mode()
    def nats(self, target: str, true: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Negative log-likelihood of the true tokens of a target that is not among what is known.

        Args:
            target: an output of the model.
            true: ids of each sample: grids (B, L), sequences B lists with their end of sequence, which counts.

        Returns:
            float64 (B,), nats of all tokens of a sample, and int64 (B,), how many they are.
        """
        spec = self.model.config.spec(target)
        text = spec.kind is Kind.SEQUENCE
        asked = _text_queries(spec, true, self.special) if text else _grid_queries(true)
        ids, queries, valid = (torch.from_numpy(part).to(self.model.device) for part in asked)
        mod = torch.full_like(queries, self.model.config.index(target))
        pos = torch.arange(queries.shape[1], device=queries.device).expand_as(queries)
        context = self._text_context(target) if text else self._grid_context()
        x = self.model.embed_queries(queries, mod, pos, valid)
        y = self.model.decode(x, context, _mask(self.model.config, mod, pos, valid, text))
        lost = torch.zeros(ids.shape, dtype=torch.float64, device=ids.device)
        lost[valid] = self._lost(y[valid], target, ids[valid])
        return lost.sum(1).cpu().numpy(), valid.sum(1).cpu().numpy()

    def _lost(self, y: Tensor, target: str, ids: Tensor) -> Tensor:
        """Cross-entropy of each query, float64 (V,), of decoder outputs (V, D)."""
        head = self.model.head(target)
        parts = [slice(start, start + ROWS) for start in range(0, len(ids), ROWS)]
        lost = [F.cross_entropy(F.linear(y[part], head).double(), ids[part], reduction="none") for part in parts]
        return torch.cat([y.new_zeros(0, dtype=torch.float64), *lost])

    def _grid_context(self) -> Context:
        # A grid of which nothing is known leaves no trace in the input: all grids share one pass of the encoder.
        if self._context is None:
            self._context = self.model.encode(*self.known.inputs({}))
        return self._context

    def _text_context(self, target: str) -> Context:
        if target not in self.model.config.inputs:
            return self._grid_context()
        # As in generation: the text is one masked span, whose sentinel the model sees.
        start = torch.full((self.known.num_samples, 1), self.special.sentinel(1), device=self.model.device)
        return self.model.encode(*self.known.inputs({target: Tokens.everywhere(start, torch.zeros_like(start))}))


def _grid_queries(true: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True ids, what the decoder reads, and which are valid, (B, L) each."""
    ids = np.asarray(true, np.int64)
    return ids, np.full_like(ids, -1), np.ones(ids.shape, bool)


def _text_queries(
    spec: ModalitySpec, true: Sequence[Sequence[int]], special: SpecialIds
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of texts, (B, M): each token is predicted from those before it, the first from the sentinel."""
    rows = [list(row)[: spec.max_tokens] for row in true]
    ids, queries = (np.zeros((len(rows), max([1, *map(len, rows)])), np.int64) for _ in range(2))
    valid = np.zeros(ids.shape, bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], valid[i, : len(row)] = row, True
        queries[i, : len(row)] = [special.sentinel(1), *row[:-1]][: len(row)]
    return ids, queries, valid


def _mask(config: FourMConfig, mod: Tensor, pos: Tensor, valid: Tensor, text: bool) -> Tensor:
    """Which query sees which: those of a text the ones up to them, those of a grid all."""
    return decoder_mask(config, mod, pos + 1 if text else torch.full_like(pos, mod.shape[1]), valid)
