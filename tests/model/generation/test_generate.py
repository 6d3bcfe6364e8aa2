"""Generation: parity with apple/ml-4m, and what must hold whatever the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import FourMConfig
from fourmill.model.downstream.likelihood import Reader
from fourmill.model.fourm import Context, FourM
from fourmill.model.generation import generate as generation
from fourmill.model.generation.generate import Step, generate
from fourmill.model.generation.known import Known, SpecialIds, Tokens
from fourmill.model.generation.writer import Decoder
from fourmill.model.published import ml4m
from fourmill.model.published.inputs import patchify

GOLDEN = Path(__file__).parents[2] / "golden" / "fm7_swiglu_nobias"
SPECIAL = SpecialIds(num_sentinels=6)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "generation.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def published() -> FourM:
    """In float64, so that no two tokens are as likely as each other but for rounding."""
    return ml4m.load(GOLDEN).double()


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
    context = published.encode(*known.inputs({}))
    logits = generation._grid_logits(published, context, Step("tok_depth", "roar"), queries)
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
    known = step.passes(known, special)
    random = [np.random.default_rng(0)] * 2
    raw = generation._generate_text(published, known, step, random, special)[0].numpy()
    for row, wanted in zip(raw, expected, strict=True):
        end = int(np.argmax(wanted == special.sentinel(2))) or len(wanted)
        assert row[:end].tolist() == wanted[:end].tolist()


TEXT = Step("caption", "autoregressive", temperature=1.0, top_p=0.95)
GRIDS = [
    Step("tok_rgb", "maskgit", steps=3, temperature=2.0, temperature_schedule="onex:0.5", guidance=2.0),
    Step("tok_rgb", "roar", steps=4, temperature=1.0, top_k=10),
    Step("tok_rgb", "roar", steps=4, guidance=3.0),
    Step("tok_rgb", "roar", steps=3, guidance={"rgb": 2.0, "t5_caption": -0.5}),
]


def conditions(n: int) -> dict:
    rng = np.random.default_rng(7)
    return {
        "rgb": rng.integers(0, 256, (n, 9, 12)).astype(np.uint8),
        "t5_caption": [rng.standard_normal((1 + i % 4, 6)).astype(np.float32) for i in range(n)],
        "tok_dinov2_global": rng.integers(0, 20, (n, 4)),
    }


def rows(given: dict, chosen: list[int]) -> dict:
    return {name: [values[i] for i in chosen] for name, values in given.items()}


@pytest.mark.parametrize("grid", GRIDS)
def test_a_sample_depends_on_seed_and_itself_alone(model: FourM, grid: Step) -> None:
    model, chain = model.double(), [replace(TEXT, guidance=grid.guidance), grid]
    whole = generate(model, conditions(4), chain, seed=3, special=SPECIAL)
    some = generate(model, rows(conditions(4), [2, 0]), chain, seed=3, sample_ids=[2, 0], special=SPECIAL)
    assert some["caption"] == [whole["caption"][2], whole["caption"][0]]
    assert np.array_equal(some["tok_rgb"], whole["tok_rgb"][[2, 0]])
    other = generate(model, conditions(4), chain, seed=4, special=SPECIAL)
    assert not np.array_equal(other["tok_rgb"], whole["tok_rgb"])


@pytest.mark.parametrize("grid", GRIDS)
def test_grids_are_filled_once_in_range(model: FourM, grid: Step) -> None:
    """Every position is written, and by what the model says there: the tokens of a step are drawn, not left at 0."""
    result = generate(model, conditions(3), [grid], seed=0, special=SPECIAL)["tok_rgb"]
    assert result.shape == (3, 9) and result.dtype == np.uint16 and result.max() < 30
    asked: list[torch.Tensor] = []
    steps = list(grid.counts(9))
    original, inputs, done = generation._grid_logits, Known.inputs, []

    def spy(model: FourM, context: Context, step: Step, queries: torch.Tensor) -> torch.Tensor:
        both = torch.cat([done[-1].pos[: len(queries)], queries], dim=1)
        assert all(len(set(row)) == len(row) <= 9 for row in both.tolist()), "a position is both done and asked for"
        asked.append(queries)
        return original(model, context, step, queries)

    def read(known: Known, extra: Mapping[str, Tokens]) -> tuple:
        done.append(extra["tok_rgb"])
        return inputs(known, extra)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "_grid_logits", spy)
        patch.setattr(Known, "inputs", read)
        generate(model, conditions(3), [grid], seed=0, special=SPECIAL)
    assert len(asked) == sum(n > 0 for n in steps)
    if grid.scheme == "roar":
        every = torch.cat(asked, dim=1).sort(dim=1).values
        assert torch.equal(every, torch.arange(9).expand(3, -1))
        assert len({tuple(torch.cat(asked, dim=1)[i].tolist()) for i in range(3)}) > 1, "samples share their order"


def test_cached_text_is_the_text_of_full_passes(model: FourM) -> None:
    """Greedy decoding with a cache against decoding the whole text again at each token, with the model's own masks."""
    special = SpecialIds(eos=-1, first_sentinel=0, num_sentinels=0)
    model, step = model.double(), replace(TEXT, temperature=0, max_tokens=8)
    known = Known.of(model.config, conditions(2), torch.device("cpu"), 2)
    raw = generation._generate_text(model, known, step, [np.random.default_rng(0)] * 2, special)[0]
    index = model.config.index("caption")
    start = Tokens.everywhere(torch.ones(2, 1, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64))
    context = model.encode(*known.inputs({"caption": start}))
    for length in range(1, raw.shape[1]):
        ids = raw[:, :length]
        mod, pos = torch.full_like(ids, index), torch.arange(length).expand(2, -1)
        x = model.embed_queries(ids, mod, pos, torch.ones_like(ids, dtype=torch.bool))
        causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        logits = model.decode(x, context, causal)[:, -1] @ model.head("caption").T
        going = ~(ids[:, 1:] == special.sentinel(2)).any(1)
        assert torch.equal(logits.argmax(-1)[going], raw[going, length])
    assert raw.shape[1] > 4


def test_finished_targets_condition_the_next_step(model: FourM) -> None:
    first = Step("tok_dinov2_global", "roar", steps=2)
    second = Step("tok_rgb", "roar", temperature=0)
    rgb = {"rgb": conditions(3)["rgb"]}
    chained = generate(model, rgb, [first, second], seed=1)
    given = generate(model, rgb | {"tok_dinov2_global": chained["tok_dinov2_global"]}, [second], seed=1)
    assert np.array_equal(chained["tok_rgb"], given["tok_rgb"])
    text = generate(model, rgb, [TEXT, second], seed=1, special=SPECIAL)
    whole = [[*ids, SPECIAL.eos] for ids in text["caption"]]
    given = generate(model, rgb | {"caption": whole}, [second], seed=1, special=SPECIAL)
    assert np.array_equal(text["tok_rgb"], given["tok_rgb"])


def test_unconditional_half_knows_nothing_of_the_conditions(model: FourM) -> None:
    caption = {"caption": [[20, 21, 22, 3], [23, 3], None]}
    model, halves = model.double(), []
    for given in (conditions(3) | caption, {name: v[::-1] for name, v in conditions(3).items()} | caption):
        known = Known.of(model.config, given, torch.device("cpu"), 3)
        known = known.passes([(), known.tokens], SPECIAL)
        ids, mod, pos, valid, values = known.inputs({})
        context = model.encode(ids, mod, pos, valid, values)
        assert valid[3:].sum(1).tolist() == [2, 2, 1], "the first sentinel, where there is text, and a zero vector"
        sentinel = valid[3:] & (mod[3:] == model.config.index("caption"))
        assert ids[3:][sentinel].tolist() == [SPECIAL.sentinel(1)] * 2
        halves.append((context.tokens * valid.unsqueeze(-1)).sum(1))
    torch.testing.assert_close(halves[0][3:], halves[1][3:], atol=1e-9, rtol=0)
    assert not torch.allclose(halves[0][:3], halves[1][:3], atol=1e-3)


def test_weighted_conditions_are_passes_of_their_own(model: FourM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of a step, against each pass on its own: what is not named stays, what is named is alone in its pass,
    and tokens of the target that are done are in all of them."""
    model, given = model.double(), conditions(2)
    weights = {"rgb": 2.0, "tok_dinov2_global": 0.5}
    seen = []
    original = generation._grid_logits

    def spy(model: FourM, context: Context, step: Step, queries: torch.Tensor) -> torch.Tensor:
        seen.append((queries, original(model, context, step, queries)))
        return seen[-1][1]

    monkeypatch.setattr(generation, "_grid_logits", spy)
    ids = generate(model, given, [Step("tok_rgb", "roar", steps=2, guidance=weights)], seed=0)["tok_rgb"]
    seen = seen[-1:]
    (queries, guided), ids = seen[0], torch.from_numpy(ids.astype(np.int64))
    index = torch.arange(9).expand(2, -1)
    done = torch.stack([row[~torch.isin(row, q)] for row, q in zip(index, queries, strict=True)])
    own = {"tok_rgb": Tokens.everywhere(ids.gather(1, done), done)}
    logits = []
    for names in (["rgb"], ["tok_dinov2_global"], []):
        known = Known.of(model.config, {n: given[n] for n in ["t5_caption", *names]}, torch.device("cpu"), 2)
        logits.append(original(model, model.encode(*known.inputs(own)), Step("tok_rgb", "roar"), queries))
    expected = logits[2] + sum(w * (x - logits[2]) for w, x in zip(weights.values(), logits[:2], strict=True))
    torch.testing.assert_close(guided, expected, atol=1e-5, rtol=1e-5)


def test_an_only_condition_of_weight_one_is_no_guidance(model: FourM) -> None:
    given = {"rgb": conditions(2)["rgb"]}
    plain, one = (
        generate(model, given, [Step("tok_rgb", "roar", steps=3, temperature=0, guidance=g)], seed=0)["tok_rgb"]
        for g in (1.0, {"rgb": 1.0})
    )
    assert np.array_equal(plain, one)


def test_super_resolution_is_a_chain(config: FourMConfig) -> None:
    """Tokens of a larger image are a modality of their own: known tokens of the smaller one condition them."""
    fine = ModalitySpec("tok_rgb@448", Kind.GRID, 30, 36)
    torch.manual_seed(0)
    model = FourM(replace(config, modalities=(*config.modalities, fine), inputs=(), outputs=())).eval()
    steps = [GRIDS[0], Step("tok_rgb@448", "maskgit", steps=4, temperature=0)]
    made = generate(model, {"rgb": conditions(2)["rgb"]}, steps, seed=0)
    assert made["tok_rgb@448"].shape == (2, 36)
    alone = generate(model, {"tok_rgb": made["tok_rgb"], "rgb": conditions(2)["rgb"]}, steps[1:], seed=0)
    assert np.array_equal(alone["tok_rgb@448"], made["tok_rgb@448"])
    other = generate(model, {"tok_rgb": (made["tok_rgb"] + 1) % 30, "rgb": conditions(2)["rgb"]}, steps[1:], seed=0)
    assert not np.array_equal(other["tok_rgb@448"], made["tok_rgb@448"])


@pytest.mark.parametrize(("reads", "passes"), [(True, 4), (False, 1)])
def test_the_encoder_runs_where_its_inputs_change(config: FourMConfig, reads: bool, passes: int) -> None:
    inputs = ("rgb", "tok_rgb") if reads else ("rgb",)
    model = FourM(replace(config, inputs=inputs)).eval()
    calls = []
    model.encoder_norm.register_forward_hook(lambda *_: calls.append(1))
    generate(model, {"rgb": conditions(2)["rgb"]}, [Step("tok_rgb", "roar", steps=4)], seed=0)
    assert len(calls) == passes
    generate(model, {"rgb": conditions(2)["rgb"]}, [replace(TEXT, max_tokens=6)], seed=0, special=SpecialIds(eos=-1))
    assert len(calls) == passes + 1


def test_guidance_without_conditions_is_no_guidance(model: FourM) -> None:
    plain, guided = (
        generate(model, {}, [Step("tok_rgb", "roar", steps=3, guidance=g)], seed=0, sample_ids=range(2))
        for g in (1.0, 4.0)
    )
    assert np.array_equal(plain["tok_rgb"], guided["tok_rgb"])


def test_a_missing_condition_is_none_at_all(model: FourM) -> None:
    chain = [Step("tok_rgb", "roar", steps=3)]
    given = {"tok_dinov2_global": np.array([[1, 2, 3, 4], [-1] * 4]), "caption": [[20, 3], None]}
    both = generate(model, given, chain, seed=0)
    none = generate(model, {}, chain, seed=0, sample_ids=[1])
    assert np.array_equal(both["tok_rgb"][1], none["tok_rgb"][0])


def test_text_ends_and_holds_no_markers(model: FourM) -> None:
    texts = generate(model, {}, [TEXT], seed=0, sample_ids=range(20), special=SPECIAL)["caption"]
    assert all(len(text) <= 12 for text in texts)
    assert len({len(text) for text in texts}) > 1
    assert not any(SPECIAL.is_marker(token) for text in texts for token in text)
    raw = [SPECIAL.sentinel(1), 20, SPECIAL.sentinel(5), 21, SPECIAL.eos, 22]
    assert generation._text_of(raw, [0.1, 0.2, 0.3, 0.4, 0.5], SPECIAL) == ([20, 21], [0.1, 0.3])
    ended = [SPECIAL.sentinel(1), 20, SPECIAL.sentinel(2), 21]
    assert generation._text_of(ended, [0.1, 0.2, 0.3], SPECIAL) == ([20], [0.1])


def test_probabilities_are_those_of_the_likelihood(model: FourM) -> None:
    """Which is asked another way: all tokens at once, in one pass."""
    made = generate(model, {}, [replace(TEXT, temperature=0.0)], seed=0, sample_ids=range(3), special=SPECIAL)
    texts = made["caption"]
    known = Known.of(model.config, {}, model.device, 3)
    nats, tokens = Reader(model, known, SPECIAL).nats("caption", texts)
    assert tokens.tolist() == [len(row) for row in made.probability["caption"]] == [len(text) for text in texts]
    for of_text, probability in zip(nats, made.probability["caption"], strict=True):
        assert -np.log(probability).sum() == pytest.approx(of_text, rel=1e-4)


def test_text_ends_only_where_its_end_is_likelier_than_that(model: FourM) -> None:
    """Of an untrained model, the end is nowhere likelier than half; and everywhere likelier than nothing."""
    steps = [Step("caption", "autoregressive", temperature=1.0, max_tokens=12, ends_above=above) for above in (0.9, 0)]
    never, at_once = (
        generate(model, {}, [step], seed=0, sample_ids=range(20), special=SPECIAL)["caption"] for step in steps
    )
    as_drawn = generate(model, {}, [TEXT], seed=0, sample_ids=range(20), special=SPECIAL)["caption"]
    assert sum(map(len, never)) > sum(map(len, as_drawn))
    assert all(len(text) == 0 for text in at_once)


def test_texts_go_on_from_how_they_begin(model: FourM) -> None:
    """Each by itself: how long the others begin changes nothing; and the next step reads the whole text."""
    begun = [[20, 21, 22], [23], []]
    steps = [replace(TEXT, temperature=0.0), Step("tok_rgb", "maskgit", steps=1, temperature=0.0)]
    given = {"seed": 0, "special": SPECIAL}
    together = generate(model, {}, steps, sample_ids=range(3), begun={"caption": begun}, **given)
    for number, text in enumerate(begun):
        alone = generate(model, {}, steps, sample_ids=[number], begun={"caption": [text]}, **given)
        assert alone["caption"][0] == together["caption"][number]
        whole = [[*text, *alone["caption"][0], SPECIAL.eos][:12]]
        read = generate(model, {"caption": whole}, steps[1:], sample_ids=[number], **given)
        assert np.array_equal(read["tok_rgb"], alone["tok_rgb"])
    nothing = generate(model, {}, steps, sample_ids=[2], **given)
    assert nothing["caption"][0] == together["caption"][2]


@pytest.mark.parametrize(
    ("begun", "message"),
    [
        ({"tok_rgb": [[1]]}, "tok_rgb: begun, expected a text that the chain generates"),
        ({"caption": [[1], [2]]}, "caption: 2 texts have begun, the longest with 1 ids; expected 1"),
        ({"caption": [[1] * 12]}, "the longest with 12 ids; expected 1, one for each sample, of at most 11"),
    ],
)
def test_texts_that_cannot_begin_so_are_refused(model: FourM, begun: dict[str, list[list[int]]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model, {}, [TEXT], seed=0, sample_ids=[0], special=SPECIAL, begun=begun)


def test_sampled_tokens_follow_the_model(model: FourM) -> None:
    """First tokens of many captions against the model's own probabilities, at the starting point all share."""
    n = 4000
    step = replace(TEXT, top_p=1.0, max_tokens=1)
    known = Known.of(model.config, {}, torch.device("cpu"), n)
    random = [np.random.default_rng((0, i)) for i in range(n)]
    drawn = generation._generate_text(model, known, step, random, SPECIAL)[0][:, 1].bincount(minlength=40) / n
    start = torch.full((1, 1), SPECIAL.sentinel(1))
    one = Known.of(model.config, {}, torch.device("cpu"), 1)
    context = model.encode(*one.inputs({"caption": Tokens.everywhere(start, start * 0)}))
    p = Decoder(model, step, context, 1).next(start)[0, 0].softmax(-1)
    assert ((drawn - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize(
    ("given", "chain", "message"),
    [
        ({"depth": [[1]]}, [TEXT], "knows no modality 'depth'"),
        ({"tok_rgb": [[1, 2]]}, [TEXT], r"shape \(1, 2\), expected \(1, 9\)"),
        ({"tok_rgb": [[30] * 9]}, [TEXT], "got ids 30 to 30, expected 0 to 29"),
        ({"rgb": [np.zeros((9, 10))]}, [TEXT], "expected .9, 12"),
        ({"caption": [[1]], "rgb": [None, None]}, [GRIDS[0]], "rgb: got 2 samples, expected 1"),
        ({"caption": [[1]]}, [TEXT], "caption is generated, but is already"),
        ({"caption": [[1]]}, [GRIDS[0], GRIDS[1]], "tok_rgb is generated, but is already"),
        ({"caption": [[1]]}, [Step("rgb", "roar")], "rgb is no output"),
        ({"rgb": [None]}, [Step("caption", "roar")], "expected autoregressive for a sequence"),
        ({"rgb": [None]}, [replace(TEXT, max_tokens=13)], "at most 12"),
        ({}, [TEXT], "sample_ids says how many"),
        ({"rgb": [None]}, [replace(GRIDS[0], guidance={"caption": 2.0})], "guidance by caption, expected .*: rgb"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(model: FourM, given: dict, chain: list[Step], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model, given, chain, seed=0)


@pytest.mark.parametrize(
    "change",
    [
        {"scheme": "diffusion"},
        {"top_p": 0.0},
        {"temperature": -1.0},
        {"steps": 0},
        {"temperature_schedule": "warm"},
        {"guidance": {}},
        {"ends_above": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(change: dict) -> None:
    with pytest.raises(ValueError):
        replace(GRIDS[1], **change)


def test_published_names_are_names(published: FourM, reference: dict[str, np.ndarray]) -> None:
    rgb = patchify(reference["input_rgb"], 16)
    own = [Step("tok_depth", "roar", guidance=2.0), Step("tok_semseg", "roar", guidance={"rgb": 2.0, "tok_depth": 1.5})]
    by_published_name = [
        Step("tok_depth@224", "roar", guidance=2.0),
        Step("tok_semseg@224", "roar", guidance={"rgb@224": 2.0, "tok_depth@224": 1.5}),
    ]
    expected = generate(published, {"rgb": rgb}, own, seed=0)
    result = generate(published, {"rgb@224": rgb}, by_published_name, seed=0)
    for name in ("tok_depth", "tok_semseg"):
        assert np.array_equal(result[f"{name}@224"], expected[name]) and np.array_equal(result[name], expected[name])
    with pytest.raises(KeyError):
        result["tok_normal@224"]


@pytest.mark.parametrize(
    "settings", [{"temperature": float("nan")}, {"temperature": float("inf")}, {"guidance": float("nan")},
                 {"guidance": {"rgb": float("inf")}}]
)  # fmt: skip
def test_numbers_of_a_step_are_finite(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"tok_depth: temperature .* expected finite numbers"):
        Step("tok_depth", "roar", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("target", "scheme"), [("tok_depth", "maskgit"), ("caption", "autoregressive")])
def test_logits_that_are_not_finite_are_an_error(target: str, scheme: str) -> None:
    model = ml4m.load(GOLDEN)
    model.decoder_norm.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=f"{target}: the model's logits are not finite"):
        generate(model, {}, [Step(target, scheme, max_tokens=0)], seed=0, sample_ids=[0])  # type: ignore[arg-type]
