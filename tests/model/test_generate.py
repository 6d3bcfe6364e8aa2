"""Generation: parity with apple/ml-4m, and what must hold whatever the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fourmill.model import generate as generation
from fourmill.model import ml4m
from fourmill.model.fourm import FourM
from fourmill.model.generate import Step, generate
from fourmill.model.known import Known, SpecialIds, Tokens
from fourmill.model.ml4m_inputs import patchify

GOLDEN = Path(__file__).parents[1] / "golden" / "fm7_swiglu_nobias"
SPECIAL = SpecialIds(num_sentinels=6)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "generation.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def published() -> FourM:
    return ml4m.load(GOLDEN)


@pytest.mark.parametrize("guidance", ["1", "2.5"])
def test_greedy_grids_are_those_of_the_reference(
    reference: dict[str, np.ndarray], published: FourM, guidance: str
) -> None:
    chain = [Step(name, "roar", temperature=0, guidance=float(guidance)) for name in ("tok_depth", "tok_semseg")]
    result = generate(published, {"rgb": patchify(reference["input_rgb"], 16)}, chain, seed=0)
    for step in chain:
        assert np.array_equal(result[step.target], reference[f"roar1_greedy_cfg{guidance}/{step.target}@224"])


def test_logits_of_one_parallel_pass(reference: dict[str, np.ndarray], published: FourM) -> None:
    rgb = {"rgb": patchify(reference["input_rgb"], 16)}
    known = Known.of(published.config, rgb, torch.device("cpu"), 2)
    queries = torch.arange(196).expand(2, -1)
    none = Tokens.everywhere(queries[:, :0], queries[:, :0])
    logits = generation._grid_logits(published, known, Step("tok_depth", "roar"), none, queries)
    expected = reference["parallel_logits/tok_depth@224_first_sample_first32"]
    np.testing.assert_allclose(logits[0, :32].detach(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("target", ["caption", "det"])
@pytest.mark.parametrize("guidance", ["1", "2.5"])
def test_greedy_text_is_that_of_the_reference(
    reference: dict[str, np.ndarray], published: FourM, guidance: str, target: str
) -> None:
    expected = reference[f"ar_greedy_cfg{guidance}/{target}"]
    special = SpecialIds(eos=-1)  # the reference stops at the second sentinel only
    known = Known.of(published.config, {"rgb": patchify(reference["input_rgb"], 16)}, torch.device("cpu"), 2)
    step = Step(target, "autoregressive", temperature=0, guidance=float(guidance), max_tokens=expected.shape[1] - 1)
    known = known.with_unconditional(special) if step.guidance != 1 else known
    random = [np.random.default_rng(0)] * 2
    raw = generation._generate_text(published, known, step, random, special).numpy()
    for row, wanted in zip(raw, expected, strict=True):
        end = int(np.argmax(wanted == special.sentinel(2))) or len(wanted)
        assert row[:end].tolist() == wanted[:end].tolist()
