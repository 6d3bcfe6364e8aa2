"""What a text asks of a GPU, of 256 tokens, by a decoder of one layer: others are the same operations again.

- graphs: that a compiler makes of all its tokens; one CUDA graph can record what is one.
- waits a token: of the host for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from fourmill_tests.counted import texts

from fourmill.model.generation.generate import Step
from fourmill.model.generation.writer import LOOK

TITLE = "Text"


def counted(**settings: Any) -> Mapping[str, float]:
    """The columns of one way to write."""
    model, step = texts.model(1), Step("caption", "autoregressive", **settings)
    graphs = texts.graphs_of(texts.text(model, step), texts.TOKENS)
    # One wait more, for whether all logits were finite.
    waits = texts.waits_of(texts.text(model, step), LOOK) + 1
    return {"graphs": graphs, "waits a token": waits / texts.TOKENS}


ROWS = {
    "text": partial(counted, top_p=0.9),
    "text, guided": partial(counted, guidance=2.0, top_k=50, ends_above=0.5),
}
