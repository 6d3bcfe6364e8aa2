"""The encoder of a 4M model as a ViT: pictures and token grids in, features out, for fine-tuning (4M-21, section 4.2).

Everything is visible and dense: no masks and no gathers. The weights are copies of those of `FourM`.

Legend: B samples, L tokens of a modality, N tokens of all of them (after the class token and registers), D width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...modalities import Kind, ModalitySpec
from ..blocks import EncoderBlock
from ..config import ByName
from ..fourm import FourM
from ..initialize import STD
from ..published.names import patch_size


@dataclass(frozen=True)
class Features:
    """What the encoder says of a batch.

    tokens: (B, N, D), of all modalities, after the last norm.
    first: tokens before those of the modalities: the class token, then registers.
    grids: modality -> its place in `tokens` and the rows and columns of its grid.
    """

    tokens: Tensor
    first: int
    grids: dict[str, tuple[slice, int, int]]

    def mean(self) -> Tensor:
        """(B, D): the mean of the modalities' tokens."""
        return self.tokens[:, self.first :].mean(dim=1)

    def map(self, modality: str) -> Tensor:
        """(B, D, rows, columns) of one modality; KeyError if the batch has none of it."""
        place, rows, columns = self.grids[modality]
        return self.tokens[:, place].transpose(1, 2).reshape(len(self.tokens), -1, rows, columns)


class Encoder(nn.Module):
    """A 4M encoder over some of its grid and pixel modalities.

    Args:
        model: whose weights are copied.
        modalities: that the encoder will be given, by either name; the first is the main one.
        drop_path: rate of stochastic depth of the last block.
        class_token: whether to add a class token, which starts as noise.

    Raises:
        ValueError: the model does not read a modality, or it is no grid and no pixels.
    """

    def __init__(
        self, model: FourM, modalities: Sequence[str] = ("rgb",), drop_path: float = 0.0, class_token: bool = False
    ) -> None:
        super().__init__()
        self.config = model.config
        self.specs = {spec.name: spec for spec in (grid_spec(model, name) for name in modalities)}
        self.dim, self.drop_path = model.config.dim, drop_path
        self.projections = copy.deepcopy(model.projections)
        # Projections of modalities that are not given would be parameters without a gradient.
        for name in set(self.projections.layers) - set(self.specs):
            del self.projections.layers[name], self.projections.kinds[name]
        self.tokens = nn.ParameterDict()
        self.positions = nn.ParameterDict()
        self.modality = nn.ParameterDict()
        for name, spec in self.specs.items():
            table = model.encoder_embeddings
            # No dots in parameter names; positions are fixed, as they were, unless the model learned them.
            key = _key(name)
            positions = table.position_rows_of(name).detach().clone()
            self.positions[key] = nn.Parameter(positions, requires_grad=spec.learned_positions)
            self.modality[key] = nn.Parameter(model.modality_table[model.config.index(name)].detach().clone())
            if spec.kind is Kind.GRID:
                self.tokens[key] = nn.Parameter(table.token_table(name).detach().clone())
        self.class_token = nn.Parameter(torch.randn(1, self.dim) * STD) if class_token else None
        self.register_tokens = copy.deepcopy(model.register_tokens)
        self.blocks = copy.deepcopy(model.encoder)
        self.norm = copy.deepcopy(model.encoder_norm)

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """Features of a batch.

        Args:
            inputs: each of the encoder's modalities, or some. Pixels: uint8 (B, 3, H, W), or floats that are normalized
                already; H and W are multiples of the patch. Or patches (B, tokens, D) as the loader cuts them, such as
                those of a sensor's bands. Grids: ids (B, rows, columns), or (B, tokens) as columns have them: of a
                series and of numbers they are no grid.

        Raises:
            ValueError: no modality, one that the encoder was not made for, or another shape or type of one.
        """
        inputs = self.config.by_own_name(inputs)
        unknown = sorted(set(inputs) - set(self.specs))
        if unknown or not inputs:
            raise ValueError(f"got inputs {', '.join(unknown) or 'none'}, expected some of {', '.join(self.specs)}")
        first = [p for p in (self.class_token, self.register_tokens) if p is not None]
        size = len(next(iter(inputs.values())))
        parts = [p.expand(size, -1, -1) for p in first]
        start = count = sum(len(p) for p in first)
        grids: dict[str, tuple[slice, int, int]] = ByName(self.config)
        for name, value in inputs.items():
            embedded, rows, columns = self._embed(name, value)
            parts.append(embedded)
            grids[name] = (slice(start, start + rows * columns), rows, columns)
            start += rows * columns
        return Features(self.norm(self._run(torch.cat(parts, dim=1))), count, grids)

    def _embed(self, name: str, value: Tensor) -> tuple[Tensor, int, int]:
        spec, key = self.specs[name], _key(name)
        if spec.kind is Kind.PIXELS and value.ndim == 3:
            if value.shape[1:] != (spec.max_tokens, spec.input_dim):
                raise ValueError(
                    f"{name}: got {tuple(value.shape)}, expected patches (B, {spec.max_tokens}, {spec.input_dim})"
                )
            rows, columns = spec.grid
            x = self._projected(name, value)
        elif spec.kind is Kind.PIXELS:
            patch = patch_size(spec)
            if value.ndim != 4 or value.shape[1] != 3 or value.shape[2] % patch or value.shape[3] % patch:
                raise ValueError(f"{name}: got {tuple(value.shape)}, expected (B, 3, H, W), multiples of {patch} px")
            rows, columns = value.shape[2] // patch, value.shape[3] // patch
            patches = value.reshape(len(value), -1, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
            x = self._projected(name, patches.flatten(3).flatten(1, 2))
        else:
            if value.ndim == 2 and value.shape[1] == spec.max_tokens:
                rows = 1 if spec.learned_positions else spec.grid[0]
                value = value.reshape(len(value), rows, -1)
            if value.ndim != 3:
                raise ValueError(f"{name}: got {tuple(value.shape)}, expected ids (B, rows, columns)")
            rows, columns = value.shape[1:]
            x = F.embedding(value.flatten(1).long(), self.tokens[key])
        return x + self._position(key, spec, rows, columns) + self.modality[key], rows, columns

    def _projected(self, name: str, patches: Tensor) -> Tensor:
        """Patches (B, L, D) as tokens (B, L, width)."""
        layer = self.projections.layers[name]
        assert isinstance(layer, nn.Linear)
        return layer(self.projections.normalize_pixels(patches).to(layer.weight.dtype))

    def _position(self, key: str, spec: ModalitySpec, rows: int, columns: int) -> Tensor:
        """(rows * columns, D), resized if the grid has another size than the table."""
        table: Tensor = self.positions[key]
        if spec.learned_positions and rows * columns != len(table):
            raise ValueError(f"{spec.name}: got {rows * columns} tokens, expected {len(table)}")
        if spec.learned_positions or (rows, columns) == spec.grid:
            return table
        # Bicubic, as apple/ml-4m does.
        grid = table.T.reshape(1, -1, *spec.grid)
        resized = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
        return resized[0].flatten(1).T

    def _run(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            assert isinstance(block, EncoderBlock)
            # Rises linearly from 0 at the first block (Huang et al. 2016).
            rate = self.drop_path * i / max(len(self.blocks) - 1, 1) if self.training else 0.0
            x = x + drop_path(block.attn(block.norm1(x), None), rate)
            x = x + drop_path(block.mlp(block.norm2(x)), rate)
        return x


def drop_path(x: Tensor, rate: float) -> Tensor:
    """x (B, ...) with the rows of some samples set to 0, the others scaled so that the expectation stays."""
    if rate == 0:
        return x
    kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= rate
    return x * kept / (1 - rate)


def add_lora(encoder: Encoder, rank: int, alpha: int | None = None) -> None:
    """Freeze an encoder and give each linear layer of its blocks a low-rank correction (Hu et al. 2022), in place.

    Args:
        alpha: scale of the corrections times rank; as large as the rank if None.

    Raises:
        ValueError: peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError("LoRA needs peft: pip install 'fourmill[transfer]', or leave lora_rank at 0") from error
    layers = [name for name, module in encoder.blocks.named_modules() if isinstance(module, nn.Linear)]
    targets = sorted({name.rsplit(".", 1)[-1] for name in layers})
    # In place, not as a wrapper: names of the encoder's weights stay, and `parameter_groups` finds the blocks.
    config = peft.LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=targets)
    encoder.requires_grad_(False)
    peft.inject_adapter_in_model(config, encoder.blocks)


def parameter_groups(
    encoder: Encoder, head: nn.Module, lr: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for an optimizer with a learning rate for each layer (Clark et al. 2020; BEiT).

    The head learns at `lr`, the last block at lr * layer_decay, ..., the embeddings at lr * layer_decay^(blocks + 1).
    Norms, biases and other vectors do not decay. Frozen parameters are in no group.
    """
    depth = len(encoder.blocks)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    named = [("encoder." + n, p) for n, p in encoder.named_parameters()]
    for name, parameter in [*named, *(("head." + n, p) for n, p in head.named_parameters())]:
        if parameter.requires_grad:
            groups.setdefault((_layer(name, depth), parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * layer_decay ** (depth + 1 - layer),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (layer, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _layer(name: str, depth: int) -> int:
    # 0 are the embeddings, 1 to depth the blocks, depth + 1 the last norm and the head.
    if name.startswith("encoder.blocks."):
        return int(name.split(".")[2]) + 1
    return depth + 1 if name.startswith(("head.", "encoder.norm.")) else 0


def _key(name: str) -> str:
    return name.replace(".", "_")


def grid_spec(model: FourM, name: str) -> ModalitySpec:
    """A modality that an encoder can be given, by either name. ValueError if the model does not read it so."""
    spec = model.config.spec(name)
    if spec.name not in model.config.inputs or spec.kind not in (Kind.PIXELS, Kind.GRID):
        fitting = [n for n in model.config.inputs if model.config.spec(n).kind in (Kind.PIXELS, Kind.GRID)]
        raise ValueError(f"{name}: the encoder cannot read it, expected one of {', '.join(fitting)}")
    return spec
