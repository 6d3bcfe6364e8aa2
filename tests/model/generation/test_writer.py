"""Text in room of a fixed shape, as a GPU writes it: the same ids, one graph for all tokens, and few waits."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fourmill_tests.counted import texts
from fourmill_tests.counted.operations import Operations

from fourmill.model.generation import generate as generation
from fourmill.model.generation.generate import Step, generate
from fourmill.model.generation.known import Known, SpecialIds
from fourmill.model.generation.writer import LOOK, Decoder, as_graph

MOST = json.loads(Path(__file__).parents[3].joinpath("benchmarks/counts.json").read_text())["generation"]
launches_of = partial(texts.launches_of, look=LOOK)
SPECIAL = SpecialIds(num_sentinels=6)
TEXT = Step("caption", "autoregressive", top_p=0.95, max_tokens=40)


@pytest.mark.parametrize(
    ("step", "begun"),
    [
        (TEXT, None),
        (replace(TEXT, temperature=0.0, guidance=2.5), None),
        (replace(TEXT, ends_above=0.03), None),
        (TEXT, {"caption": [[7, 8], [9], [10, 11, 12]]}),
    ],
)
def test_ids_are_those_of_a_cpu(monkeypatch: pytest.MonkeyPatch, step: Step, begun: dict[str, Any] | None) -> None:
    """Whose cache grows, and which looks for an end after each token; in float64, so that no two tokens tie."""
    one = texts.model().double()
    made = partial(generate, one, {}, [step], seed=3, sample_ids=range(3), special=SPECIAL, begun=begun)
    growing = made()
    monkeypatch.setattr(generation, "write", partial(generation.write, fixed=True))
    assert made() == growing
    assert len({len(text) for text in growing["caption"]}) > 1 or step.temperature == 0


def test_all_tokens_are_one_graph() -> None:
    """None is compiled again over 256 tokens, whatever is asked of the draws."""
    step = replace(TEXT, guidance=2.0, top_k=5, ends_above=0.5, max_tokens=0)
    assert texts.graphs_of(texts.text(texts.model(1), step), texts.TOKENS) <= MOST["graphs"] == 1


def test_the_host_waits_once_in_16_tokens() -> None:
    one = texts.text(texts.model(1), replace(TEXT, ends_above=0.5, max_tokens=0))
    # And once more for whether all logits were finite.
    assert texts.waits_of(one, LOOK) + 1 <= MOST["waits a token"] * texts.TOKENS
    assert int(one.decoder.place) == texts.TOKENS


def test_a_token_is_one_launch() -> None:
    """Once it is recorded; of the first 16 each operation is one."""
    step = replace(TEXT, max_tokens=0)
    kernels, launches = (count(texts.text(texts.model(1), step)) for count in (texts.kernels_of, launches_of))
    assert kernels > 50
    waits = texts.TOKENS / LOOK  # each of which computes what is read
    assert launches * texts.TOKENS == pytest.approx(LOOK * kernels + texts.TOKENS - LOOK + 2 * waits, abs=waits)
    layer = texts.kernels_of(texts.text(texts.model(2), step)) - kernels
    of_a_token = kernels + 11 * layer  # of 12 layers
    assert of_a_token <= MOST["kernels a token"]
    assert (LOOK * of_a_token + texts.TOKENS) / texts.TOKENS <= MOST["launches a token"]


@torch.inference_mode()
def test_values_are_what_kernels_of_a_gpu_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each vector in one piece: for others attention would be plain products in float32, at each layer and token. On a
    device that is no CPU, without data."""
    strides, attend = [], F.scaled_dot_product_attention

    def attending(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **masks: Any) -> torch.Tensor:
        strides.append(v.stride(-1))
        return attend(q, k, v, **masks)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attending)
    one = texts.model(2).to("meta")
    known = Known.of(one.config, {"tok_rgb": np.zeros((3, 9), np.int64)}, torch.device("meta"), 3)
    context = generation._encode(one, known, {})
    decoder = Decoder(one, TEXT, context, 8, fixed=True)
    for _ in range(2):
        decoder.next(torch.zeros(3, 1, dtype=torch.int64, device="meta"))
    places = torch.zeros(3, 9, dtype=torch.int64, device="meta")
    generation._grid_logits(one, context, Step("tok_rgb", "maskgit", steps=4), places)
    encoder, of_a_pass = 1, 2 * 2  # each layer of the decoder attends to itself and to the context
    assert strides == [1] * (encoder + 3 * of_a_pass)


def test_writing_stops_soon_after_all_texts_have_ended() -> None:
    one = texts.text(texts.model(), TEXT, tokens=64)
    one.ended[:] = True
    with torch.inference_mode():
        raw = one.write(LOOK)[0]
    assert raw.shape == (2, 1 + LOOK) and (raw[:, 1:] == texts.ENDLESS.pad).all()


def test_a_token_that_cannot_be_captured_is_written_without(caplog: pytest.LogCaptureFixture) -> None:
    """This machine has no CUDA: the step is what is called, and a line of the log says why."""
    if torch.cuda.is_available():
        pytest.skip("a capture would not fail")
    steps = []
    with caplog.at_level(logging.WARNING):
        step = as_graph(lambda: steps.append(1), torch.device("cuda"))
    step()
    assert steps == [1] and "without a CUDA graph" in caplog.text
    assert as_graph(step, torch.device("cpu")) is step


@pytest.mark.parametrize("scheme", ["maskgit", "roar"])
def test_no_step_of_a_grid_waits(scheme: Any) -> None:
    """But for the look of a CPU at its masks, and the last one at whether logits were finite."""
    one = texts.model()
    with Operations() as operations:
        generate(one, {}, [Step("tok_rgb", scheme, steps=4)], seed=0, sample_ids=range(2), special=SPECIAL)
    assert set(operations.waits) <= {"is_nonzero", "_local_scalar_dense"} and sum(operations.waits.values()) <= 4 + 1
