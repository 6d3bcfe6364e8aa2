"""What is known of a batch while it is generated: conditions and finished targets, as encoder inputs.

Legend: B samples, n tokens of a modality, L tokens of a grid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..modalities import Kind, ModalitySpec
from .config import FourMConfig
from .positions import position_rows


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the WordPiece vocabulary that generation must know; those of the published vocabulary.

    Sentinel k, [S_k], is `first_sentinel + k`. Spans are numbered from 1.
    """

    pad: int = 0
    unk: int = 1
    sos: int = 2
    eos: int = 3
    first_sentinel: int = 4
    num_sentinels: int = 200

    def sentinel(self, k: int) -> int:
        return self.first_sentinel + k

    def is_marker(self, token: int) -> bool:
        """Whether a token carries no text: padding, start, end, sentinels."""
        return token in (self.pad, self.sos, self.eos) or 0 <= token - self.first_sentinel < self.num_sentinels


PUBLISHED_IDS = SpecialIds()


@dataclass(frozen=True)
class Tokens:
    """Tokens of one modality: `ids` and `pos`, int64 (B, n), and `valid`, bool (B, n)."""

    ids: Tensor
    pos: Tensor
    valid: Tensor

    @classmethod
    def everywhere(cls, ids: Tensor, pos: Tensor) -> Tokens:
        return cls(ids, pos, torch.ones_like(ids, dtype=torch.bool))

    def repeat(self, times: int) -> Tokens:
        return Tokens(self.ids.repeat(times, 1), self.pos.repeat(times, 1), self.valid.repeat(times, 1))


@dataclass
class Known:
    """Tokens by modality, and the values of modalities without ids, (B, n, D)."""

    config: FourMConfig
    num_samples: int
    device: torch.device
    tokens: dict[str, Tokens] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, config: FourMConfig, conditions: Mapping[str, Any], device: torch.device, num_samples: int) -> Known:
        """Check and pack conditions; see `generate` for their forms. ValueError if they do not fit the model."""
        known = cls(config, num_samples, device)
        for name, given in conditions.items():
            spec = config.spec(name)
            if name not in config.inputs:
                raise ValueError(f"{name} is no input of the model; it reads {', '.join(config.inputs)}")
            if len(given) != num_samples:
                raise ValueError(f"{name}: got {len(given)} samples, expected {num_samples} as in the other conditions")
            if spec.kind is Kind.GRID:
                known.add_grid(spec, given)
            elif spec.kind is Kind.SEQUENCE:
                known.add_sequences(spec, given)
            else:
                known.add_values(spec, given)
        return known

    def add_grid(self, spec: ModalitySpec, given: Any) -> None:
        """Ids (B, L); -1 where a token is not known."""
        ids = torch.as_tensor(np.asarray(given).astype(np.int64), device=self.device)
        if ids.shape != (self.num_samples, spec.max_tokens):
            expected = (self.num_samples, spec.max_tokens)
            raise ValueError(f"{spec.name}: got ids of shape {tuple(ids.shape)}, expected {expected}")
        _check_ids(spec, ids, lowest=-1)
        self.tokens[spec.name] = Tokens(ids.clamp(min=0), _raster(ids), ids >= 0)

    def add_sequences(self, spec: ModalitySpec, given: Sequence[Iterable[int] | None]) -> None:
        """One list of ids for each sample, end of sequence included; None or [] where nothing is known."""
        rows = [[] if row is None else [int(token) for token in row] for row in given]
        longest = max(1, *map(len, rows))
        if longest > position_rows(spec):
            raise ValueError(f"{spec.name}: got {longest} tokens, expected at most {position_rows(spec)}; cut them")
        padded = [row + [-1] * (longest - len(row)) for row in rows]
        ids = torch.tensor(padded, dtype=torch.int64, device=self.device)
        _check_ids(spec, ids, lowest=-1)
        self.tokens[spec.name] = Tokens(ids.clamp(min=0), _raster(ids), ids >= 0)

    def add_values(self, spec: ModalitySpec, given: Sequence[Any]) -> None:
        """Pixels or embeddings: for each sample an array (n, D); None where there is none."""
        empty = np.zeros((0, spec.input_dim), np.float32)
        rows = [empty if row is None else np.asarray(row) for row in given]
        wrong = next((row.shape for row in rows if row.ndim != 2 or row.shape[1] != spec.input_dim), None)
        longest = max(1, *(len(row) for row in rows))
        if wrong is not None or longest > position_rows(spec):
            expected = f"(at most {position_rows(spec)}, {spec.input_dim}) for each sample"
            raise ValueError(
                f"{spec.name}: got values of shape {wrong or (longest, spec.input_dim)}, expected {expected}"
            )
        dtype = next((row.dtype for row in rows if len(row)), np.dtype(np.float32))
        values = np.zeros((self.num_samples, longest, spec.input_dim), dtype)
        valid = np.zeros((self.num_samples, longest), bool)
        for i, row in enumerate(rows):
            values[i, : len(row)], valid[i, : len(row)] = row, True
        self.values[spec.name] = torch.from_numpy(values).to(self.device)
        mask = torch.from_numpy(valid).to(self.device)
        self.tokens[spec.name] = Tokens(_raster(mask), _raster(mask), mask)

    def passes(self, dropped: Sequence[Collection[str]], special: SpecialIds) -> Known:
        """The batch once for each of `dropped`, one after the other, without the modalities that it names: guidance
        in one forward pass.

        What "without" means is what the model saw in training, and apple/ml-4m: no token of a grid or of pixels; of
        a sequence only its first sentinel (all of it is one masked span); of embeddings one vector of zeros.
        """
        several = Known(self.config, len(dropped) * self.num_samples, self.device)
        for name, tokens in self.tokens.items():
            blank = self._blank(name, special)
            parts = [blank if name in names else tokens for names in dropped]
            several.tokens[name] = Tokens(*(torch.cat([getattr(p, x) for p in parts]) for x in ("ids", "pos", "valid")))
        for name, values in self.values.items():
            keep = self.config.spec(name).kind is Kind.PIXELS
            rows = [values if keep or name not in names else torch.zeros_like(values) for names in dropped]
            several.values[name] = torch.cat(rows)
        return several

    def _blank(self, name: str, special: SpecialIds) -> Tokens:
        tokens, kind = self.tokens[name], self.config.spec(name).kind
        ids, valid = tokens.ids.clone(), torch.zeros_like(tokens.valid)
        if kind in (Kind.SEQUENCE, Kind.EMBEDDING):
            valid[:, 0] = tokens.valid[:, 0]
        if kind is Kind.SEQUENCE:
            ids[:, 0] = special.sentinel(1)
        return Tokens(ids, tokens.pos, valid)

    def inputs(self, extra: Mapping[str, Tokens]) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Arguments of `FourM.encode`: what is known and `extra`, side by side."""
        parts = [(self.config.index(name), t) for name, t in (self.tokens | dict(extra)).items() if t.ids.shape[1]]
        if not parts:  # one invalid column, so that nothing known is no special case for attention
            nothing = torch.zeros((self.num_samples, 1), dtype=torch.int64, device=self.device)
            parts = [(0, Tokens(nothing, nothing, nothing.bool()))]
        mod = torch.cat([torch.full_like(t.ids, index) for index, t in parts], dim=1)
        ids, pos, valid = (torch.cat([getattr(t, x) for _, t in parts], dim=1) for x in ("ids", "pos", "valid"))
        return ids, mod, pos, valid, self.values


def _raster(like: Tensor) -> Tensor:
    return torch.arange(like.shape[1], device=like.device).expand(like.shape)


def _check_ids(spec: ModalitySpec, ids: Tensor, lowest: int) -> None:
    if ids.numel() and (ids.min() < lowest or ids.max() >= spec.vocab_size):
        got = f"{int(ids.min())} to {int(ids.max())}"
        raise ValueError(f"{spec.name}: got ids {got}, expected 0 to {spec.vocab_size - 1}")
