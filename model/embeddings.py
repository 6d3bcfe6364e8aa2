"""Token and position tables of all modalities of one side (encoder or decoder), concatenated.

Legend: B samples, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..modalities import Kind, ModalitySpec
from .config import FourMConfig
from .positions import position_rows, position_table

# ImageNet statistics: 4M normalizes the RGB pixels of its input so (apple/ml-4m, RGBTransform).
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)


class Rows(nn.Module):
    """Consecutive rows of a table, (rows, D), of which the first is row `begin`: FSDP gathers a module at a time."""

    def __init__(self, rows: Tensor, begin: int) -> None:
        super().__init__()
        self.rows, self.begin = nn.Parameter(rows), begin

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """x (B, N, D), replaced where these rows of the table (B, N) are here."""
        # x comes in, and with it a gradient: FSDP exchanges a module's when it has made those of what came in.
        at = rows - self.begin
        here = (at >= 0) & (at < len(self.rows))
        return torch.where(here.unsqueeze(-1), nn.functional.embedding(torch.where(here, at, 0), self.rows), x)


class Embeddings(nn.Module):
    """The tables of the modalities `names`; the others of the config have no rows here.

    Parameters: `tokens` (sum of vocabularies, D), or its `parts` (see `split`); `learned_positions` (rows, D) of
    modalities that learn them.
    Buffers: `positions` (1 + rows, D), the fixed tables after a row of zeros that stands for "no position".
    """

    positions: Tensor
    token_offset: Tensor
    position_offset: Tensor

    def __init__(self, config: FourMConfig, names: tuple[str, ...]) -> None:
        super().__init__()
        self.token_rows: dict[str, slice] = {}
        self.fixed_rows: dict[str, slice] = {}
        self.learned_rows: dict[str, slice] = {}
        specs = [config.spec(name) for name in names]
        vocabulary = _fill(self.token_rows, {s.name: s.vocab_size for s in specs if s.vocab_size}, start=0)
        fixed = {s.name: position_rows(s) for s in specs if not s.learned_positions}
        num_fixed = _fill(self.fixed_rows, fixed, start=1)
        learned = {s.name: position_rows(s) for s in specs if s.learned_positions}
        num_learned = _fill(self.learned_rows, learned, start=0)

        self.tokens = nn.Parameter(torch.empty(max(1, vocabulary), config.dim))  # gathers need a row, if no one's
        self.parts = nn.ModuleList()
        self.learned_positions = nn.Parameter(torch.empty(num_learned, config.dim)) if num_learned else None
        tables = [position_table(s, config.dim, config.grid_temperature) for s in specs if not s.learned_positions]
        self.register_buffer("positions", torch.cat([torch.zeros(1, config.dim), *tables]))
        token_offset = [self.token_rows.get(s.name, slice(0, 0)).start for s in config.modalities]
        position_offset = [self._position_offset(s, num_fixed) for s in config.modalities]
        self.register_buffer("token_offset", torch.tensor(token_offset), persistent=False)
        self.register_buffer("position_offset", torch.tensor(position_offset), persistent=False)

    def _position_offset(self, spec: ModalitySpec, num_fixed: int) -> int:
        if spec.name in self.learned_rows:
            return num_fixed + int(self.learned_rows[spec.name].start)
        return int(self.fixed_rows.get(spec.name, slice(0, 0)).start)

    def split(self, most: int) -> None:
        """Have `tokens` as `parts` of at most so many rows, or of one modality's, if it has more than `most` rows."""
        begins = [0]
        for rows in self.token_rows.values():
            if rows.stop - begins[-1] > most and rows.start > begins[-1]:
                begins.append(rows.start)
        if len(begins) > 1:
            table = self.tokens.detach()
            del self.tokens
            ends = [*begins[1:], len(table)]
            self.parts.extend(Rows(table[begin:end], begin) for begin, end in zip(begins, ends, strict=True))

    def tables(self) -> Iterator[tuple[str, Tensor, int, dict[str, slice]]]:
        """`tokens`, or each of its parts: name, rows, which row of `tokens` is its first, modality -> rows of it."""
        if not self.parts:
            yield "tokens", self.tokens, 0, self.token_rows
        for i, part in enumerate(self.parts):
            assert isinstance(part, Rows)
            begin, end = part.begin, part.begin + len(part.rows)
            mine = {
                name: slice(rows.start - begin, rows.stop - begin)
                for name, rows in self.token_rows.items()
                if begin <= rows.start and rows.stop <= end
            }
            yield f"parts.{i}.rows", part.rows, begin, mine

    def token_tables(self) -> dict[str, Tensor]:
        """The rows of each modality, (vocabulary, D), views that are made together: the gradient of a slice on its own
        would be as large as the whole table."""
        found: dict[str, Tensor] = {}
        for _, table, _, modalities in self.tables():
            sizes = [rows.stop - rows.start for rows in modalities.values()]
            found |= zip(modalities, torch.split(table, sizes), strict=True) if sizes else ()
        return found

    def token_table(self, name: str) -> Tensor:
        """The rows of one modality, (vocabulary, D), a view."""
        return self.tokens[self.token_rows[name]]

    def position_rows_of(self, name: str) -> Tensor:
        """The positions of one modality, (rows, D), a view of the parameter or buffer."""
        if name in self.learned_rows:
            assert self.learned_positions is not None
            return self.learned_positions[self.learned_rows[name]]
        return self.positions[self.fixed_rows[name]]

    def forward(
        self, ids: Tensor, mod: Tensor, pos: Tensor, valid: Tensor, has_id: Tensor, modality_table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of tokens (B, N): `embed_ids` and `embed_positions`, in one call, for which FSDP gathers the tables once."""
        emb = self.embed_positions(pos, mod, valid, modality_table)
        # FSDP may give tables in half precision; sums with them are not.
        x = emb if self.parts else self.embed_ids(ids, mod, has_id).to(emb.dtype)
        for part in self.parts:
            x = part(x, self._rows(ids, mod, has_id))
        return x, emb

    def embed_ids(self, ids: Tensor, mod: Tensor, has_id: Tensor) -> Tensor:
        """Token embeddings (B, N, D) of integer ids (B, N); an arbitrary row where `has_id` is False."""
        # One gather for all modalities. An id past its modality's rows would silently read its neighbour's, so that
        # `check_batch` refuses it on the host.
        return nn.functional.embedding(self._rows(ids, mod, has_id), self.tokens)

    def _rows(self, ids: Tensor, mod: Tensor, has_id: Tensor) -> Tensor:
        return torch.where(has_id, self.token_offset[mod] + ids, 0)

    def embed_positions(self, pos: Tensor, mod: Tensor, valid: Tensor, modality_table: Tensor) -> Tensor:
        """Position plus modality embeddings (B, N, D); zero where not valid, no position where pos is -1."""
        table = self.positions
        if self.learned_positions is not None:
            table = torch.cat([table, self.learned_positions.to(table.dtype)])
        # Row 0 is zeros: no position.
        rows = torch.where(valid & (pos >= 0), self.position_offset[mod] + pos, 0)
        emb = nn.functional.embedding(rows, table) + nn.functional.embedding(mod, modality_table)
        return emb * valid.unsqueeze(-1)


class Projections(nn.Module):
    """Linear projections of the modalities that have values instead of ids: pixels (no bias) and embeddings."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: FourMConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.kinds: dict[str, tuple[int, Kind]] = {}
        for i, spec in enumerate(config.modalities):
            if spec.name in config.inputs and not spec.is_target:
                # A bias for embeddings alone, as in the published checkpoints.
                self.layers[spec.name] = nn.Linear(spec.input_dim, config.dim, bias=spec.kind is Kind.EMBEDDING)
                self.kinds[spec.name] = (i, spec.kind)
        self.register_buffer("pixel_mean", torch.tensor(RGB_MEAN), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(RGB_STD), persistent=False)

    def fill_in(self, x: Tensor, ids: Tensor, mod: Tensor, values: dict[str, Tensor]) -> Tensor:
        """x (B, N, D) with the tokens of these modalities replaced by row `ids` of their projected values: of their
        sample's (B, L, D), or of those of the batch (R, D)."""
        for name, (index, kind) in self.kinds.items():
            if name not in values:
                continue
            raw = values[name]
            flat = self.normalize_pixels(raw) if kind is Kind.PIXELS else raw
            projected = self.layers[name](flat.to(x.dtype)).to(x.dtype)
            # Tokens of other modalities gather any row, and `where` drops it: no shape depends on them.
            rows = ids.long().clamp(0, raw.shape[-2] - 1)
            if raw.ndim == 2:
                shown = projected.index_select(0, rows.flatten()).view(*rows.shape, -1)
            else:
                shown = projected.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
            x = torch.where((mod == index).unsqueeze(-1), shown, x)
        return x

    def normalize_pixels(self, patches: Tensor) -> Tensor:
        """uint8 patches (B, L, 3 p^2), flattened as (ph pw c), to float32 with ImageNet statistics.

        Floats are taken as normalized already. ValueError for other integers, which are neither.
        """
        if patches.is_floating_point():
            return patches
        if patches.dtype != torch.uint8:
            raise ValueError(f"pixels: got {patches.dtype}, expected uint8 (0 to 255), or floats that are normalized")
        pixels = patches.view(*patches.shape[:-1], -1, 3).float() / 255
        return ((pixels - self.pixel_mean) / self.pixel_std).flatten(-2)


def _fill(rows: dict[str, slice], sizes: dict[str, int], start: int) -> int:
    """Lay blocks of `sizes` one after another from `start`; returns where the last one ends."""
    for name, size in sizes.items():
        rows[name] = slice(start, start + size)
        start += size
    return start
