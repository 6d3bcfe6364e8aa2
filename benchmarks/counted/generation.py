"""What a text asks of a GPU, of 256 tokens, by a decoder of one layer: others are the same operations again. Kernels
and launches are those of 12.

- graphs: that a compiler makes of all its tokens; one CUDA graph can record what is one.
- waits a token: of the host for the device.
- kernels a token: what the device runs, as PyTorch's operations.
- launches a token: what the host launches, where a CUDA graph is one; the first 16 tokens have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from fourmill_tests.counted import texts

from fourmill.model.generation.generate import Step
from fourmill.model.generation.writer import LOOK

TITLE = "Text"
LAYERS = 12


def counted(**settings: Any) -> Mapping[str, float]:
    """The columns of one way to write."""
    model, step = texts.model(1), Step("caption", "autoregressive", **settings)
    graphs = texts.graphs_of(texts.text(model, step), texts.TOKENS)
    # One wait more, for whether all logits were finite.
    waits = texts.waits_of(texts.text(model, step), LOOK) + 1
    one, two = (texts.kernels_of(texts.text(texts.model(depth), step)) for depth in (1, 2))
    launches = {depth: texts.launches_of(texts.text(texts.model(depth), step), LOOK) for depth in (1, 2)}
    return {
        "graphs": graphs,
        "waits a token": waits / texts.TOKENS,
        "kernels a token": one + (two - one) * (LAYERS - 1),
        "launches a token": launches[1] + (launches[2] - launches[1]) * (LAYERS - 1),
    }


ROWS = {
    "text": partial(counted, top_p=0.9),
    "text, guided": partial(counted, guidance=2.0, top_k=50, ends_above=0.5),
}
