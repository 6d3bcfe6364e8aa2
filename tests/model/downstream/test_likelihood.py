"""How likely true tokens are, against the training loss of the same tokens and against words asked one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fourmill.model.batch import PackedBatch
from fourmill.model.config import FourMConfig
from fourmill.model.downstream.likelihood import Reader
from fourmill.model.fourm import FourM
from fourmill.model.generation import generate as generation
from fourmill.model.generation.generate import Step
from fourmill.model.generation.known import Known, SpecialIds, Tokens
from fourmill.model.generation.writer import Decoder

SPECIAL = SpecialIds(num_sentinels=6)
RNG = np.random.default_rng(0)
TEXTS = [[11, 12, 13, 3], [14, 3], [15, 16, 17, 18, 19, 3]]
GRID = RNG.integers(0, 30, (3, 9))


@pytest.fixture
def exact(model: FourM) -> FourM:
    return model.double()


def reader(model: FourM, given: Mapping[str, Any], samples: int = 3) -> Reader:
    return Reader(model, Known.of(model.config, given, model.device, samples), SPECIAL)


def packed(config: FourMConfig, given: np.ndarray, true: np.ndarray) -> PackedBatch:
    """All tokens of tok_rgb as inputs, and all of tok_dinov2_global as targets."""
    source, target = config.index("tok_rgb"), config.index("tok_dinov2_global")
    (b, n), m = given.shape, true.shape[1]

    def of(value: int, length: int) -> np.ndarray:
        return np.full((b, length), value, np.int32)

    def places(length: int) -> np.ndarray:
        return np.tile(np.arange(length, dtype=np.int32), (b, 1))

    return PackedBatch(
        input_ids=given.astype(np.int32), input_mod=of(source, n), input_pos=places(n), input_valid=of(1, n) > 0,
        target_ids=true.astype(np.int32), query_ids=of(-1, m), target_mod=of(target, m), target_pos=places(m),
        target_end=of(m, m), target_valid=of(1, m) > 0,
    )  # fmt: skip


def test_a_grid_is_as_likely_as_training_says(exact: FourM) -> None:
    true = RNG.integers(0, 20, (3, 4))
    nats, tokens = reader(exact, {"tok_rgb": GRID}).nats("tok_dinov2_global", true)
    assert tokens.tolist() == [4, 4, 4]
    for i in range(3):
        loss = exact(packed(exact.config, GRID[i : i + 1], true[i : i + 1])).losses["tok_dinov2_global"]
        assert nats[i] / 4 == pytest.approx(loss.item(), rel=1e-6)  # the training loss is of float32


@pytest.mark.parametrize("given", [{"tok_rgb": GRID}, {}])
def test_a_text_is_as_likely_as_word_by_word(exact: FourM, given: dict[str, Any]) -> None:
    asked = reader(exact, given)
    nats, tokens = asked.nats("caption", TEXTS)
    assert tokens.tolist() == [4, 2, 6]
    start = torch.full((3, 1), SPECIAL.sentinel(1))
    own = {"caption": Tokens.everywhere(start, torch.zeros_like(start))}
    with torch.inference_mode():
        context = exact.encode(*asked.known.inputs(own))
        writer = Decoder(exact, Step("caption", "autoregressive"), context, 6)
        read, lost = start, np.zeros(3)
        for i in range(6):
            scores = writer.next(read)[:, 0].log_softmax(-1)
            words = [text[i] if i < len(text) else 0 for text in TEXTS]
            lost += [-float(scores[row, word]) * (i < len(TEXTS[row])) for row, word in enumerate(words)]
            read = torch.tensor(words)[:, None]
    assert nats == pytest.approx(lost, rel=1e-6)  # generation draws from float32


def test_no_true_token_is_seen_before_it_is_asked(exact: FourM) -> None:
    """A later word changes no earlier one; a grid's tokens change nothing but their own probability."""
    asked = reader(exact, {"tok_rgb": GRID})
    alike, _ = asked.nats("caption", [[11, 12, 13, 3]] * 3)
    parts = [asked.nats("caption", [text] * 3)[0] for text in ([11], [11, 12], [11, 12, 13], [11, 12, 13, 3])]
    assert (np.diff(np.stack(parts), axis=0) > 0).all() and parts[-1] == pytest.approx(alike)
    grid = RNG.integers(0, 20, (3, 4))
    other = grid.copy()
    other[:, 0] = (other[:, 0] + 1) % 20
    context = exact.encode(*asked.known.inputs({}))
    logits = generation._grid_logits(
        exact, context, Step("tok_dinov2_global", "roar"), torch.arange(4).expand(3, -1)
    ).log_softmax(-1)
    for ids in (grid, other):
        expected = -logits.gather(2, torch.from_numpy(ids)[..., None]).sum((1, 2)).detach().numpy()
        assert asked.nats("tok_dinov2_global", ids)[0] == pytest.approx(expected, rel=1e-6)


def test_a_batch_changes_nothing(exact: FourM) -> None:
    together, _ = reader(exact, {"tok_rgb": GRID}).nats("caption", TEXTS)
    alone = [reader(exact, {"tok_rgb": GRID[i : i + 1]}, 1).nats("caption", TEXTS[i : i + 1])[0][0] for i in range(3)]
    assert together == pytest.approx(alone, rel=1e-9)
    # Longer texts than the table are cut, as the model cuts them.
    assert reader(exact, {}).nats("caption", [[9] * 40] * 3)[1].tolist() == [12] * 3
