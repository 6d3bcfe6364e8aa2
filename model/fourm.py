"""4M: the encoder-decoder transformer over packed tokens of many modalities (4M section 3, 4M-21 section 3).

Legend: B samples, N input budget (after the encoder: plus registers), M target budget, D width, V valid targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batch import PackedBatch
from .blocks import DecoderBlock, EncoderBlock, Visible, compute_dtype, layer_norm
from .checkpointing import Checkpointing, checkpointed
from .config import ByName, FourMConfig
from .cross_entropy import head_cross_entropy
from .embeddings import Embeddings, Projections
from .initialize import fill_layers, fill_table, xavier
from .prepare import TargetGroups, check_batch, group_targets, to_tensors
from .unpadding import Sequences, Unpadding

Weighting = Literal["modality", "token", "ml4m_token"]


@dataclass(frozen=True)
class Context:
    """What the decoder reads: `tokens` (B, N, D) and `mask` (B, 1, 1, N), True = valid; None if all are. With an
    `unpadding` the tokens are (1, T, D)."""

    tokens: Tensor
    mask: Tensor | None
    unpadding: Unpadding | None = None


@dataclass(frozen=True)
class FourMOutput:
    """Losses of a batch, and its logits on demand.

    loss: scalar, weighted over modalities as asked.
    losses: modality name -> scalar mean cross-entropy of its targets; 0 where the batch has none. Published names
        will do, too.
    counts: modality name -> number of valid targets, likewise.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    counts: dict[str, int]
    _logits: Callable[[str], Tensor]

    def logits(self, modality: str) -> Tensor:
        """(targets of the modality, vocabulary), in batch-major order; its published name will do. KeyError for a
        modality that the model does not predict."""
        return self._logits(modality)


class FourM(nn.Module):
    """The 4M transformer. Parameters are initialized as MAE's (see initialize.py).

    Attributes:
        tokenizers: fingerprints of the tokenizers whose ids it has learned, by name; {} if nobody knows.
    """

    def __init__(self, config: FourMConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizers: dict[str, str] = {}
        dim = config.dim
        # The tables of all modalities of a side are one parameter: one gather for a batch, and no parameter without a
        # gradient, which distributed training would wait for.
        self.encoder_embeddings = Embeddings(config, config.inputs)
        self.projections = Projections(config)
        self.decoder_embeddings = Embeddings(config, config.outputs)
        self.modality_table = nn.Parameter(torch.empty(len(config.modalities), dim))
        shared = config.share_modality_embeddings
        self.decoder_modality_table = None if shared else nn.Parameter(torch.empty(len(config.modalities), dim))
        self.mask_token = nn.Parameter(torch.empty(1, dim))
        registers = config.num_register_tokens
        self.register_tokens = nn.Parameter(torch.empty(registers, dim)) if registers else None
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_depth))
        self.encoder_norm = layer_norm(dim, config)
        self.decoder_proj_context = nn.Linear(dim, dim)
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.decoder_depth))
        self.decoder_norm = layer_norm(dim, config)
        rows = self.decoder_embeddings.tokens.shape
        self.heads = None if config.tied_heads else nn.Parameter(torch.empty(rows))
        input_has_id = torch.tensor([spec.is_target for spec in config.modalities])
        self.register_buffer("input_has_id", input_has_id, persistent=False)
        self._initialize()

    input_has_id: Tensor

    def _initialize(self) -> None:
        """Fill all parameters."""
        fill_layers(self)
        for table in (
            self.encoder_embeddings.tokens,
            self.encoder_embeddings.learned_positions,
            self.decoder_embeddings.tokens,
            self.decoder_embeddings.learned_positions,
            self.modality_table,
            self.decoder_modality_table,
            self.mask_token,
            self.register_tokens,
        ):
            if table is not None:
                fill_table(table)
        # Last: a head that is tied to the decoder's token embeddings has a head's values.
        for name in self.config.outputs:
            xavier(self.head(name))

    @property
    def device(self) -> torch.device:
        return self.mask_token.device

    def forward(
        self,
        batch: PackedBatch,
        weighting: Weighting = "modality",
        groups: TargetGroups | None = None,
        unpadding: Unpadding | None = None,
    ) -> FourMOutput:
        """Losses of a packed batch.

        Args:
            batch: NumPy arrays, which are checked, grouped and moved here; or tensors on the model's device.
            weighting: "modality" is the mean over the model's output modalities (or `batch.outputs`) of each one's
                mean, absent ones counting as 0 (the training loss of 4M; apple/ml-4m 'mod'); "token" is the mean over
                all targets;
                "ml4m_token" is apple/ml-4m's 'token', which weights modalities by targets times vocabulary size.
            groups: of `group_targets`; without it a batch of tensors costs one wait for the device.
            unpadding: of the batch, for an encoder that computes no padding.

        Raises:
            ValueError: a NumPy batch holds an id, position or modality that the model does not have.
        """
        # On the host, before the batch is moved: a look at tensors on a GPU would wait for it.
        if isinstance(batch.target_mod, np.ndarray):
            check_batch(self.config, batch)
        if groups is None:
            groups = group_targets(batch, len(self.config.modalities))
        tensors, values = to_tensors(batch, self.device)
        mod, pos, valid = (tensors[f"target_{part}"] for part in ("mod", "pos", "valid"))
        ids, input_mod, input_pos, input_valid = (tensors[f"input_{part}"] for part in ("ids", "mod", "pos", "valid"))
        if unpadding is not None:
            unpadding = unpadding.to(self.device)
        context = self.encode(ids, input_mod, input_pos, input_valid, values, unpadding)
        queries = self.embed_queries(tensors["query_ids"], mod, pos, valid)
        # Built once; all blocks share it.
        among = unpadding.among_queries if unpadding is not None and self._fuses(unpadding, queries) else None
        mask = decoder_mask(self.config, mod, tensors["target_end"], valid) if among is None else None
        y = self.decode(queries, context, mask, among)
        return self._output(y, tensors["target_ids"], groups.to(self.device), weighting, batch.outputs)

    def embed_inputs(
        self, ids: Tensor, mod: Tensor, pos: Tensor, valid: Tensor, values: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Encoder inputs (B, N, D), and their position plus modality embeddings alone; registers come first."""
        x, emb = self.encoder_embeddings(ids, mod, pos, valid, valid & self.input_has_id[mod], self.modality_table)
        x = self.projections.fill_in(x, ids, mod, values) * valid.unsqueeze(-1) + emb
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(x.shape[0], -1, -1)
            x = torch.cat([registers.to(x.dtype), x], dim=1)
            emb = F.pad(emb, (0, 0, registers.shape[1], 0))
        return x, emb

    def encode(
        self,
        ids: Tensor,
        mod: Tensor,
        pos: Tensor,
        valid: Tensor,
        values: dict[str, Tensor],
        unpadding: Unpadding | None = None,
    ) -> Context:
        """Inputs, each (B, N) as in `PackedBatch`, to what the decoder reads. Valid ones need not come first."""
        x, emb = self.embed_inputs(ids, mod, pos, valid, values)
        mask = F.pad(valid, (x.shape[1] - valid.shape[1], 0), value=True)[:, None, None, :]
        if unpadding is not None:
            x, emb = unpadding.without_padding(x), unpadding.without_padding(emb)
        x = self.encode_embedded(x, mask, unpadding)
        return Context(self.decoder_proj_context(x) + emb, mask, unpadding)

    def encode_embedded(self, x: Tensor, mask: Tensor, unpadding: Unpadding | None = None) -> Tensor:
        """Encoder blocks and norm on embedded inputs x (B, N, D), or (1, T, D) without padding, mask (B, 1, 1, N): the
        features of transfers."""
        # A sample without inputs attends to its padding: of an empty row kernels make NaN. The decoder reads none.
        among = unpadding.among_inputs if unpadding is not None and self._fuses(unpadding, x) else None
        visible = Visible.of(mask | ~mask.any(dim=-1, keepdim=True), x, unpadding=unpadding, sequences=among)
        for block in self.encoder:
            x = block(x, visible)
        return self.encoder_norm(x)

    def _fuses(self, unpadding: Unpadding, x: Tensor) -> bool:
        """Whether blocks that read x attend without padding."""
        return unpadding.fuses(x.device, compute_dtype(x), self.config.dim // self.config.num_heads)

    def embed_queries(self, ids: Tensor, mod: Tensor, pos: Tensor, valid: Tensor) -> Tensor:
        """Decoder inputs (B, M, D); id -1 is the mask token."""
        table = self.modality_table if self.decoder_modality_table is None else self.decoder_modality_table
        x, emb = self.decoder_embeddings(ids, mod, pos, valid, valid & (ids >= 0), table)
        x = torch.where((ids >= 0).unsqueeze(-1), x, self.mask_token.to(x.dtype))
        return x * valid.unsqueeze(-1) + emb

    def decode(self, queries: Tensor, context: Context, mask: Tensor | None, among: Sequences | None = None) -> Tensor:
        """Normalized decoder outputs (B, M, D); mask (B, 1, M, M) or None if every query sees all, or those `among`
        which it is."""
        seen = Visible.of(mask, queries) if among is None else Visible(None, sequences=among)
        unpadding = context.unpadding
        inputs = unpadding.of_inputs if unpadding is not None and self._fuses(unpadding, queries) else None
        read = Visible.of(context.mask, queries, empty=True, unpadding=unpadding, sequences=inputs)
        for block in self.decoder:
            queries = block(queries, context.tokens, seen, read)
        return self.decoder_norm(queries)

    def head(self, modality: str) -> Tensor:
        """The output weights of a modality, (vocabulary, D), a view."""
        table = self.decoder_embeddings.tokens if self.heads is None else self.heads
        return table[self.decoder_embeddings.token_rows[self.config.spec(modality).name]]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: matrices and tables decay, norms and biases do not (apple/ml-4m)."""
        no_decay = self.no_decay_names()
        # The tables of modalities and the mask token are matrices too: they decay, as in apple/ml-4m.
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        return [
            {"params": [p for name, p in named if name not in no_decay], "weight_decay": weight_decay},
            {"params": [p for name, p in named if name in no_decay], "weight_decay": 0.0},
        ]

    def no_decay_names(self) -> set[str]:
        """Names of the parameters without weight decay: weights and biases of norms, biases of layers."""
        return {name for name, p in self.named_parameters() if p.ndim < 2}

    def checkpoint_blocks(self, how: Checkpointing) -> None:
        """Have blocks compute again in the backward pass what `how` says, once and for all; before `compile_blocks`."""
        for block in (*self.encoder, *self.decoder):
            block.forward = checkpointed(block.forward, how)

    def compile_blocks(self, **options: Any) -> None:
        """torch.compile each block in place; blocks of a side share one graph, and names of weights stay."""
        for block in (*self.encoder, *self.decoder):
            # Its forward alone, not the call: FSDP gathers and drops parameters around that, outside the graph.
            block.forward = _of_any_size(torch.compile(block.forward, **options))

    def _output(
        self, y: Tensor, target_ids: Tensor, groups: TargetGroups, weighting: Weighting, offered: Sequence[str]
    ) -> FourMOutput:
        """Losses of decoder outputs y (B, M, D); `offered` are the outputs of the mean over modalities, all if none."""
        outputs = self.config.outputs
        sizes = list(groups.counts)
        # In the dtype of products: it is what the backward pass keeps of a target.
        dtype = compute_dtype(y)
        hidden = torch.split(y.flatten(0, 1).index_select(0, groups.index).to(dtype), sizes)
        targets = torch.split(target_ids.flatten().long().index_select(0, groups.index), sizes)
        place: dict[str, int] = ByName(self.config, {name: self.config.index(name) for name in outputs})
        counts: dict[str, int] = ByName(self.config, {name: groups.counts[i] for name, i in place.items()})

        vocabulary = {name: self.config.spec(name).vocab_size for name in outputs}
        if self.heads is None:
            heads = self.decoder_embeddings.token_tables()
        else:  # one split, as there
            heads = dict(zip(outputs, torch.split(self.heads, list(vocabulary.values())), strict=True))

        def logits(modality: str) -> Tensor:
            return F.linear(hidden[place[modality]], heads[self.config.spec(modality).name])

        losses: dict[str, Tensor] = ByName(self.config)
        for name, i in place.items():
            # No targets: a zero that still hangs on the graph, so that backward always works.
            losses[name] = head_cross_entropy(hidden[i], heads[name], targets[i]) if counts[name] else y.sum() * 0.0
        loss = weigh({name: losses[name] for name in offered or outputs}, counts, vocabulary, weighting)
        return FourMOutput(loss, losses, counts, logits)


def _of_any_size(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The forward of a block, whose graph is for any number of tokens without padding."""

    def call(*args: Tensor | Visible | None) -> Tensor:
        tensors = [x for x in args if isinstance(x, Tensor)]
        for visible in args:
            if isinstance(visible, Visible) and visible.unpadding is not None:
                visible.unpadding.of_any_size(*tensors)
        return forward(*args)

    return call


def weigh(
    losses: dict[str, Tensor], counts: dict[str, int], vocabulary: dict[str, int], weighting: Weighting
) -> Tensor:
    """One scalar of the modalities' mean losses; see `FourM.forward` for the weightings."""
    if weighting == "modality":
        weights = dict.fromkeys(losses, 1.0)
    elif weighting == "token":
        weights = {name: float(counts[name]) for name in losses}
    elif weighting == "ml4m_token":
        weights = {name: float(counts[name] * vocabulary[name]) for name in losses}
    else:
        raise ValueError(f"weighting: got {weighting!r}, expected 'modality', 'token' or 'ml4m_token'")
    total = sum(weights.values()) or 1.0
    return torch.stack([losses[name] * (weights[name] / total) for name in losses]).sum()


def decoder_mask(config: FourMConfig, mod: Tensor, end: Tensor, valid: Tensor) -> Tensor:
    """Which query may see which: bool (B, 1, M, M) of target_mod, target_end, target_valid, each (B, M).

    A query sees the keys before its `target_end` (with `decoder_causal`: up to itself), and with
    `decoder_separate` only its own modality's. Every query sees itself, so that no row is empty.
    """
    place = torch.arange(mod.shape[1], device=mod.device)
    own = place[:, None] == place[None, :]
    mask = (place[:, None] >= place[None, :])[None] if config.decoder_causal else place < end[:, :, None]
    if config.decoder_separate:
        mask = mask & (mod[:, :, None] == mod[:, None, :])
    return ((mask & valid[:, None, :]) | own)[:, None]
