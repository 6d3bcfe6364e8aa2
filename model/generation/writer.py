"""Text, one token at a time. On a GPU a token is one graph of kernels, launched whole; on a CPU one pass of operations.

Legend: B samples, P passes of guidance times B, L tokens at most, V vocabulary.

Decisions:
- On a GPU all shapes are fixed: caches have room for L tokens from the start, and the place of the token is a number on
  the device. So one token is the same operations as the next, which a CUDA graph records once and replays; launching
  some 500 kernels would take ten times as long as running them. A CPU launches nothing, and reads no more of the cache
  than is written.
- A look at whether all texts have ended waits for the device: on a GPU one in 16 tokens. What is written after an end
  costs less, and is no part of a text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ..blocks import DecoderBlock, FixedPast, Past, Visible
from ..cpu.attention import in_reading_order
from ..cpu.linear import linear
from ..fourm import Context, FourM
from .chain import Step
from .known import SpecialIds
from .sampling import end_or_go_on, guide, sample

logger = logging.getLogger(__name__)
LOOK = 16  # tokens between two looks, and before a graph is recorded: many texts are shorter


class Decoder:
    """The decoder on one causal sequence, with cached keys and values of its layers and of the context.

    Args:
        most: tokens, L.
        fixed: whether shapes are the same for every token.
    """

    def __init__(self, model: FourM, step: Step, context: Context, most: int, fixed: bool = False) -> None:
        self.model, self.step = model, step
        self.inputs = Visible.of(context.mask, context.tokens, empty=True)
        self.blocks = [block for block in model.decoder if isinstance(block, DecoderBlock)]
        self.context = [in_reading_order(*block.context_keys_values(context.tokens)) for block in self.blocks]
        self.place = torch.zeros(1, dtype=torch.int64, device=context.tokens.device)  # of the next token
        self.places = torch.arange(most, device=context.tokens.device) if fixed else None
        self.past = [FixedPast(most, self.place, *like) if fixed else Past(most) for like in self.context]

    def next(self, token: Tensor) -> Tensor:
        """Logits (B, 1, V) after one more token (B, 1), which all passes of guidance read."""
        ids = token.repeat(1 + len(self.step.scales), 1)
        mod = torch.full_like(ids, self.model.config.index(self.step.target))
        x = self.model.embed_queries(ids, mod, self.place.expand_as(ids), torch.ones_like(ids, dtype=torch.bool))
        before = None if self.places is None else Visible.of((self.places <= self.place)[None, None, None], x)
        for i, block in enumerate(self.blocks):
            x = block.step(x, self.past[i], self.context[i], before, self.inputs)
        self.place += 1
        return guide(linear(self.model.decoder_norm(x), self.model.head(self.step.target)), self.step.scales)


class Text:
    """The texts that are being written, and all that a token changes, on the device.

    Args:
        uniforms: float32 (B, L), a random number for each token.
        start: int64 (B, 1), the first sentinel.
    """

    def __init__(self, decoder: Decoder, uniforms: Tensor, start: Tensor, special: SpecialIds) -> None:
        self.decoder, self.step, self.uniforms, self.special = decoder, decoder.step, uniforms, special
        self.raw = torch.cat([start, torch.full_like(uniforms, special.pad, dtype=torch.int64)], dim=1)
        self.ended = torch.zeros_like(start, dtype=torch.bool)
        self.probability = torch.zeros_like(uniforms)  # that each token had
        self.finite = torch.ones((), dtype=torch.bool, device=start.device)
        ends = sorted({end for end in (special.eos, special.sentinel(2)) if end >= 0})
        self.ends = torch.tensor(ends, dtype=torch.int64, device=start.device)

    def next(self) -> None:
        """Write one more token of each text. Nothing here waits for the device, or depends on the token's number."""
        place, step = self.decoder.place.clone(), self.step
        logits = self.decoder.next(self.raw.index_select(1, place))
        self.finite &= logits.isfinite().all()
        if step.ends_above is not None:
            logits = end_or_go_on(logits, self.ends, step.ends_above)
        uniforms = self.uniforms.index_select(1, place)
        drawn, probability = sample(logits, uniforms, step.temperature, step.top_k, step.top_p)
        self.probability.index_copy_(1, place, probability)
        drawn = torch.where(self.ended, self.special.pad, drawn)
        self.raw.index_copy_(1, place + 1, drawn)
        self.ended |= (drawn == self.special.eos) | (drawn == self.special.sentinel(2))

    def write(self, look: int) -> tuple[Tensor, Tensor]:
        """All tokens: raw ids (B, 1 + written), padding after a sample's end; and their probabilities (B, written)."""
        write, length = self.next, self.uniforms.shape[1]
        for i in range(length):
            if i == LOOK:
                write = as_graph(self.next, self.raw.device)
            write()
            if i % look == look - 1 and i + 1 < length and bool(self.ended.all()):
                return self.raw[:, : i + 2], self.probability[:, : i + 1]
        return self.raw, self.probability


def write(
    model: FourM, step: Step, context: Context, uniforms: Tensor, start: Tensor, special: SpecialIds,
    fixed: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Raw ids, int64 (B, 1 + written); the probability that each was drawn with, float32 (B, written), see `sample`;
    whether all logits were finite, a scalar.

    Args:
        context: what the encoder read in each pass of guidance, P rows.
        uniforms, start: see `Text`.
        fixed: whether shapes are fixed; None: but on a CPU.
    """
    fixed = start.device.type != "cpu" if fixed is None else fixed
    text = Text(Decoder(model, step, context, uniforms.shape[1], fixed), uniforms, start, special)
    return *text.write(LOOK if fixed else 1), text.finite


def as_graph(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A step without arguments and results as one CUDA graph; the step itself where there can be none.

    Args:
        step: it has run before, so that its memory and libraries are there.
    """
    if device.type != "cuda":
        return step
    stream = None
    try:
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream()
            graph = torch.cuda.CUDAGraph()
            # Threads that decode or write beside this one may go on.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                step()
    except RuntimeError as error:
        # Of a capture nothing has run: the step goes on as it is, where it was.
        logger.warning("text is written without a CUDA graph: %s", error)
        if stream is not None:
            torch.cuda.set_stream(stream)
        return step
    return graph.replay
