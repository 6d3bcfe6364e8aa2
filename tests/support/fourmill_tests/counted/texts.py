"""What writing a text asks of a device, counted token by token."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import torch

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.generation import writer
from fourmill.model.generation.generate import Step
from fourmill.model.generation.known import Known, SpecialIds
from fourmill.model.generation.writer import Decoder, Text

from .operations import Operations, counting

TOKENS = 256
SPECS = (ModalitySpec("tok_rgb", Kind.GRID, 30, 9), ModalitySpec("caption", Kind.SEQUENCE, 40, TOKENS))
ENDLESS = SpecialIds(eos=-1, first_sentinel=-9, num_sentinels=0)  # no text ends before its last token


def model(depth: int = 2) -> FourM:
    """A narrow model that writes captions of 256 tokens."""
    torch.manual_seed(0)
    config = FourMConfig(SPECS, dim=32, encoder_depth=1, decoder_depth=depth, num_heads=2)
    return FourM(config).eval()


def text(one: FourM, step: Step, samples: int = 2, tokens: int = TOKENS) -> Text:
    """Texts as a GPU writes them: in room of a fixed shape."""
    known = step.passes(Known.of(one.config, {}, torch.device("cpu"), samples), ENDLESS)
    random = torch.Generator().manual_seed(0)
    uniforms, start = torch.rand(samples, tokens, generator=random), torch.zeros(samples, 1, dtype=torch.int64)
    decoder = Decoder(one, step, one.encode(*known.inputs({})), tokens, fixed=True)
    return Text(decoder, uniforms, start, ENDLESS)


@torch.inference_mode()
def graphs_of(one: Text, tokens: int) -> int:
    """Graphs that a compiler makes of so many tokens: one if they are all the same operations."""
    graphs: list[int] = []
    torch._dynamo.reset()
    compiled = torch.compile(one.next, backend=counting(graphs), fullgraph=True)
    for _ in range(tokens):
        compiled()
    return len(graphs)


@torch.inference_mode()
def waits_of(one: Text, look: int) -> int:
    """How often the host waits while all tokens are written."""
    with Operations() as operations:
        one.write(look)
    return sum(operations.waits.values())


@torch.inference_mode()
def kernels_of(one: Text) -> int:
    """Operations of a token that compute something: what a GPU runs, views left out."""
    one.next()
    with Operations() as operations:
        one.next()
    return operations.kernels


@torch.inference_mode()
def launches_of(one: Text, look: int) -> float:
    """How often the host launches something for a token, where a graph is one launch."""

    def graph(step: Callable[[], None], _: torch.device) -> Callable[[], None]:
        def replay() -> None:
            before = operations.kernels
            step()
            operations.kernels = before + 1

        return replay

    with patch.object(writer, "as_graph", graph), Operations() as operations:
        one.write(look)
    return operations.kernels / one.uniforms.shape[1]
