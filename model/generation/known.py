"""What is known of a batch while it is generated: conditions and finished targets, as encoder inputs.

Legend: B samples, n tokens of a modality, L tokens of a grid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...modalities import Kind, ModalitySpec
from ..config import FourMConfig
from ..patches import patch_side, patchify, picture_shape


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
        for name, given in config.by_own_name(conditions).items():
            spec = config.spec(name)
            if name not in config.inputs:
                raise ValueError(f"{name} is no input of the model; it reads {', '.join(config.inputs)}")
            if isinstance(given, str) or len(given) != num_samples:
                got = "a text" if isinstance(given, str) else f"{len(given)} samples"
                raise ValueError(f"{name}: got {got}, expected {num_samples} samples as in the other conditions")
            if spec.kind is Kind.GRID:
                known.add_grid(spec, given)
            elif spec.kind is Kind.SEQUENCE:
                known.add_sequences(spec, given)
            else:
                known.add_values(spec, given)
        return known

    def add_grid(self, spec: ModalitySpec, given: Any) -> None:
        """Ids (B, L); -1 where a token is not known."""
        expected = (self.num_samples, spec.max_tokens)
        ids = _ids(spec, given, -1, f"whole numbers of shape {expected}")
        if ids.shape != expected:
            raise ValueError(f"{spec.name}: got ids of shape {ids.shape}, expected {expected}")
        tokens = torch.from_numpy(ids).to(self.device)
        self.tokens[spec.name] = Tokens(tokens.clamp(min=0), _raster(tokens), tokens >= 0)

    def add_sequences(self, spec: ModalitySpec, given: Sequence[Sequence[int] | None]) -> None:
        """One list of ids for each sample, end of sequence included; None or [] where nothing is known.

        Longer ones than the modality's `max_tokens` are cut to it, as in training; -1 after the last id is padding.
        """
        expected = (
            "a list of ids for each sample, or None; make ids of a text by "
            "fourmill.tokenize.text.wordpiece.WordPiece.load(...).encode(text, max_tokens)"
        )
        rows = [_ids(spec, [] if row is None else row, -1, expected) for row in given]
        if wrong := [row.shape for row in rows if row.ndim != 1]:
            raise ValueError(f"{spec.name}: got ids of shape {wrong[0]} in a sample, expected {expected}")
        if any((row[: (row >= 0).sum()] < 0).any() for row in rows):
            raise ValueError(f"{spec.name}: got -1 before other ids, expected it after the last one only, as padding")
        rows = [row[row >= 0][: spec.max_tokens] for row in rows]
        ids = np.zeros((self.num_samples, max([1, *map(len, rows)])), np.int64)
        valid = np.zeros(ids.shape, bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)], valid[i, : len(row)] = row, True
        tokens = torch.from_numpy(ids).to(self.device)
        self.tokens[spec.name] = Tokens(tokens, _raster(tokens), torch.from_numpy(valid).to(self.device))

    def add_values(self, spec: ModalitySpec, given: Sequence[Any]) -> None:
        """Pixels or embeddings: for each sample an array (n, D); None where there is none.

        Pixels are a picture (3, H, W) or all of its patches: all uint8, or all floats that are normalized already.
        """
        pixels = spec.kind is Kind.PIXELS
        rows = [None if row is None else to_numpy(spec.name, row) for row in given]
        rows = [_patches(spec, row) if pixels and row is not None else row for row in rows]
        there = [row for row in rows if row is not None]
        for row in there:
            fits = row.ndim == 2 and row.shape[1] == spec.input_dim
            if not fits or (len(row) != spec.max_tokens if pixels else len(row) > spec.max_tokens):
                shape = f"{spec.max_tokens}, {spec.input_dim}"
                expected = f"({shape}), or a picture {picture_shape(spec)}" if pixels else f"(at most {shape})"
                raise ValueError(f"{spec.name}: got values of shape {row.shape} in a sample, expected {expected}")
        dtype = _dtype_of(spec, there)
        longest = max([1, *map(len, there)])
        values = np.zeros((self.num_samples, longest, spec.input_dim), dtype)
        valid = np.zeros((self.num_samples, longest), bool)
        for i, value in enumerate(rows):
            if value is not None:
                values[i, : len(value)], valid[i, : len(value)] = value, True
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
            # One batch for all passes, so that one forward pass serves them all.
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
        # What training shows of a modality that is masked whole: one token, and only where there was some.
        if kind in (Kind.SEQUENCE, Kind.EMBEDDING):
            valid[:, 0] = tokens.valid[:, 0]
        if kind is Kind.SEQUENCE:
            ids[:, 0] = special.sentinel(1)
        return Tokens(ids, tokens.pos, valid)

    def inputs(self, extra: Mapping[str, Tokens]) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Arguments of `FourM.encode`: what is known and `extra`, side by side."""
        parts = [(self.config.index(name), t) for name, t in (self.tokens | dict(extra)).items() if t.ids.shape[1]]
        # One invalid column if nothing is known: attention over no keys at all is undefined.
        if not parts:
            nothing = torch.zeros((self.num_samples, 1), dtype=torch.int64, device=self.device)
            parts = [(0, Tokens(nothing, nothing, nothing.bool()))]
        mod = torch.cat([torch.full_like(t.ids, index) for index, t in parts], dim=1)
        ids, pos, valid = (torch.cat([getattr(t, x) for _, t in parts], dim=1) for x in ("ids", "pos", "valid"))
        return ids, mod, pos, valid, self.values


def _raster(like: Tensor) -> Tensor:
    return torch.arange(like.shape[1], device=like.device).expand(like.shape)


def to_numpy(name: str, given: Any) -> np.ndarray:
    """An array of the host, floats as NumPy has them; ValueError naming the modality if it has no shape."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = given.float() if given.dtype == torch.bfloat16 else given  # NumPy has no bfloat16
    try:
        return np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{name}: got lists that are no array, expected rows of one length: {error}") from None


def _patches(spec: ModalitySpec, row: np.ndarray) -> np.ndarray:
    """A picture (3, H, W) as patches (n, D); anything else as it is."""
    return patchify(row[None], patch_side(spec))[0] if row.shape == picture_shape(spec) else row


def _ids(spec: ModalitySpec, given: Any, lowest: int, expected: str) -> np.ndarray:
    """Ids as int64, of any shape."""
    ids = to_numpy(spec.name, given)
    if ids.size == 0:
        return ids.astype(np.int64)
    # Floats are refused even if they are whole: they are probabilities or logits more often than ids.
    if ids.dtype.kind not in "iu":
        got = repr(given) if isinstance(given, str) else f"values of the type {ids.dtype}"
        raise ValueError(f"{spec.name}: got {got}, expected {expected}")
    if ids.min() < lowest or ids.max() >= spec.vocab_size:
        got = f"{ids.min()} to {ids.max()}"
        raise ValueError(f"{spec.name}: got ids {got}, expected 0 to {spec.vocab_size - 1}")
    return ids.astype(np.int64)


def _dtype_of(spec: ModalitySpec, rows: Sequence[np.ndarray]) -> type[np.generic]:
    """What the values of all samples are kept as: uint8 pixels as they are, floats as float16 if all are, or float32.

    Pixels of both kinds, or integers of another type, would be taken for what they are not.
    """
    types = {row.dtype for row in rows}
    if spec.kind is Kind.PIXELS and types == {np.dtype(np.uint8)}:
        return np.uint8
    if any(t.kind != "f" for t in types):
        got = ", ".join(sorted(map(str, types)))
        pixels = "uint8 (0 to 255) in all samples, or floats that are normalized already"
        expected = pixels if spec.kind is Kind.PIXELS else "floats"
        raise ValueError(f"{spec.name}: got values of the type {got}, expected {expected}")
    return np.float16 if types == {np.dtype(np.float16)} else np.float32
