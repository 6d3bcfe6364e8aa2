"""Chained any-to-any generation: MaskGIT, random order and autoregressive steps (4M section 3.4, 4M-21 section 5).

A target at another resolution is another modality: super-resolution is a chain from `tok_rgb` to `tok_rgb@448`.

Legend: B samples, L tokens of a grid, Q queries of a step, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...modalities import Kind, ModalitySpec
from ..config import ByName, FourMConfig
from ..cpu.linear import linear
from ..fourm import Context, FourM
from .chain import Step
from .known import PUBLISHED_IDS, Known, SpecialIds, Tokens
from .sampling import guide, sample
from .schedules import temperature_schedule
from .writer import write

__all__ = ["Generated", "Step", "generate"]


class Generated(ByName[np.ndarray | list[list[int]]]):
    """Target -> its tokens, see `generate`.

    Attributes:
        probability: text target -> for each id of each text the probability that it was drawn with: the softmax after
            guidance, `ends_above`, filters and temperature; at temperature 0 that of temperature 1.
    """

    def __init__(self, config: FourMConfig) -> None:
        super().__init__(config)
        self.probability: dict[str, list[list[float]]] = {}


@torch.inference_mode()
def generate(
    model: FourM,
    conditions: Mapping[str, Any],
    chain: Sequence[Step],
    *,
    seed: int,
    sample_ids: Sequence[int] | None = None,
    special: SpecialIds = PUBLISHED_IDS,
    begun: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> Generated:
    """Generate the targets of `chain`, one after another, each conditioned on `conditions` and those before it.

    Args:
        model: on any device; wrap the call in `torch.autocast` for bfloat16.
        conditions: modality -> one entry for each of B samples. Grids: integers (B, L), -1 where not known. Sequences:
            lists of ids with end of sequence, no sentinels, -1 after them as padding; None for a sample without.
            Pixels: uint8 pictures (B, 3, H, W), or their patches (B, L, D) in raster order, flattened as (ph pw c).
            Embeddings: B arrays (n, D), or None.
        chain: what to generate, in order.
        seed, sample_ids: what the samples' random numbers follow from; sample_ids are 0 .. B-1 if None. Without
            conditions, sample_ids also says how many samples to make.
        special: ids of the text vocabulary.
        begun: text target -> ids of each sample, without end: how its text begins. The model reads them, and goes on
            from there; the result is without them.

    Returns:
        target -> uint16 (B, L) for grids; for sequences B lists of ids, without end of sequence and sentinels.

    Raises:
        ValueError: conditions or chain do not fit the model, or its logits are not finite; names the target.

    Examples:
        >>> model = fourmill.load_model("out/runs/4m")
        >>> dataset = fourmill.open_store("out").dataset(["rgb"])
        >>> batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=4)))
        >>> chain = [fourmill.Step("tok_rgb", "maskgit", steps=4), fourmill.Step("caption", "autoregressive")]
        >>> made = fourmill.generate(model, {"rgb": batch["rgb"]}, chain, seed=0)
        >>> made["tok_rgb"].shape, len(made["caption"])
        ((4, 16), 4)
    """
    config = model.config
    conditions = config.by_own_name(conditions)
    chain = [_own_names(config, step) for step in chain]
    streams = None if sample_ids is None else list(sample_ids)
    sizes = [len(given) for given in conditions.values()] or [len(streams or ())]
    streams = list(range(sizes[0])) if streams is None else streams
    if not streams or len(streams) != sizes[0]:
        raise ValueError(
            f"got {sizes[0]} samples of conditions and {len(streams)} sample_ids, expected equally many, at least 1; "
            "without conditions, sample_ids says how many"
        )
    _check_chain(model, conditions, chain)
    begun = _check_begun(model, begun or {}, chain, len(streams))
    known = Known.of(config, conditions, model.device, sizes[0])
    results = Generated(config)
    for number, step in enumerate(chain):
        spec = config.spec(step.target)
        # A generator for each sample and step: neighbours in the batch, other steps and the device change nothing.
        random = [np.random.default_rng((seed, stream, number)) for stream in streams]
        context = step.passes(known, special)
        if spec.kind is Kind.GRID:
            grid = _generate_grid(model, context, step, random).cpu().numpy().astype(np.uint16)
            results[spec.name] = grid
            # What is generated conditions the next steps, in all passes of guidance. (Where several conditions have
            # weights, apple/ml-4m drops it.)
            if spec.name in model.config.inputs:
                known.add_grid(spec, grid)
        else:
            before = begun.get(step.target)
            raw, probability = _generate_text(model, context, step, random, special, before)
            rows = zip(raw.tolist(), probability.tolist(), strict=True)
            pairs = [_text_of(row, of_each, special) for row, of_each in rows]
            texts = [text for text, _ in pairs]
            results[spec.name], results.probability[spec.name] = texts, [of_each for _, of_each in pairs]
            if spec.name in model.config.inputs:
                # A text that was cut short has an end for those that read it, as in training.
                whole = [
                    [*start, *text, special.eos] for start, text in zip(before or [()] * len(texts), texts, strict=True)
                ]
                known.add_sequences(spec, [text[: spec.max_tokens] for text in whole])
    return results


def _own_names(config: FourMConfig, step: Step) -> Step:
    """A step with the names that modalities have here."""
    guidance = step.guidance
    if isinstance(guidance, Mapping):
        known = {name: weight for name, weight in guidance.items() if config.find(name) is not None}
        guidance = {**config.by_own_name(known), **{n: w for n, w in guidance.items() if n not in known}}
    return replace(step, target=config.spec(step.target).name, guidance=guidance)


def _check_chain(model: FourM, conditions: Mapping[str, Any], chain: Sequence[Step]) -> None:
    done = set(conditions)
    for step in chain:
        spec = model.config.spec(step.target)
        if step.target not in model.config.outputs:
            raise ValueError(f"{step.target} is no output of the model; it predicts {', '.join(model.config.outputs)}")
        if step.target in done:
            raise ValueError(f"{step.target} is generated, but is already a condition or an earlier target")
        if (spec.kind is Kind.SEQUENCE) != (step.scheme == "autoregressive"):
            fitting = "autoregressive" if spec.kind is Kind.SEQUENCE else "maskgit or roar"
            raise ValueError(f"{step.target}: scheme {step.scheme}, expected {fitting} for a {spec.kind.value}")
        if step.max_tokens > spec.max_tokens:
            raise ValueError(f"{step.target}: max_tokens {step.max_tokens}, expected at most {spec.max_tokens}")
        named = step.guidance if isinstance(step.guidance, Mapping) else {}
        if unknown := sorted(set(named) - {name for name in done if name in model.config.inputs}):
            raise ValueError(
                f"{step.target}: guidance by {', '.join(unknown)}, expected conditions or earlier targets that the "
                f"model reads: {', '.join(sorted(done)) or 'there are none'}"
            )
        done.add(step.target)


def _check_begun(
    model: FourM, begun: Mapping[str, Sequence[Sequence[int]]], chain: Sequence[Step], samples: int
) -> dict[str, Sequence[Sequence[int]]]:
    """How texts begin, by the names that modalities have here. ValueError if the chain has no such texts."""
    texts = {step.target for step in chain if model.config.spec(step.target).kind is Kind.SEQUENCE}
    named = model.config.by_own_name(begun)
    for name, rows in named.items():
        if name not in texts or name not in model.config.inputs:
            raise ValueError(f"{name}: begun, expected a text that the chain generates and the model reads")
        longest, most = max(map(len, rows), default=0), model.config.spec(name).max_tokens
        if len(rows) != samples or longest >= most:
            raise ValueError(
                f"{name}: {len(rows)} texts have begun, the longest with {longest} ids; expected {samples}, one for "
                f"each sample, of at most {most - 1}"
            )
    return named


def _generate_grid(model: FourM, known: Known, step: Step, random: Sequence[np.random.Generator]) -> Tensor:
    """Ids of a grid, int64 (B, L), in `step.steps` steps; `known` holds B samples for each pass of guidance."""
    spec = model.config.spec(step.target)
    order, uniforms = _grid_noise(step, spec, random, known.device)
    counts = step.counts(spec.max_tokens)
    temperatures = temperature_schedule(step.temperature_schedule, step.temperature, counts)
    ids = torch.zeros_like(order)
    done, left = order[:, :0], order
    # Kept on the device and looked at once: each look would wait for it.
    finite = torch.ones((), dtype=torch.bool, device=ids.device)
    # The encoder runs where its inputs change: at each step if it reads the grid's own tokens, else once.
    own = step.target in model.config.inputs
    context = None if own else _encode(model, known, {})
    for i, (count, temperature) in enumerate(zip(counts.tolist(), temperatures.tolist(), strict=True)):
        if count == 0:
            continue
        # MaskGIT asks for all that is missing and keeps the best; random order asks for what it will keep.
        queries = left if step.scheme == "maskgit" else left[:, :count]
        if own:
            tokens = Tokens.everywhere(ids.gather(1, done), done).repeat(1 + len(step.scales))
            context = _encode(model, known, {step.target: tokens})
        assert context is not None
        logits = _grid_logits(model, context, step, queries)
        finite &= logits.isfinite().all()
        drawn, confidence = sample(logits, uniforms[:, i].gather(1, queries), temperature, step.top_k, step.top_p)
        if step.scheme == "maskgit":
            chosen = confidence.topk(count, dim=1).indices
            queries, drawn = queries.gather(1, chosen), drawn.gather(1, chosen)
            # What is left, in its order: sorted by whether it was chosen, since a mask would wait for the device.
            taken = torch.zeros_like(left, dtype=torch.uint8).scatter(1, chosen, 1)
            left = left.gather(1, taken.argsort(dim=1, stable=True)[:, : left.shape[1] - count])
        else:
            left = left[:, count:]
        ids = ids.scatter(1, queries, drawn)
        done = torch.cat([done, queries], dim=1)
    _check_finite(finite, step)
    return ids


def _encode(model: FourM, known: Known, own: dict[str, Tokens]) -> Context:
    """What the decoder reads: of what is known, and of the target's `own` tokens."""
    context = model.encode(*known.inputs(own))
    # Kernels are faster without a mask. On a GPU looking at it would wait for the device, which costs more.
    if context.mask is not None and context.mask.device.type == "cpu" and bool(context.mask.all()):
        context = replace(context, mask=None)
    return context


def _check_finite(finite: Tensor, step: Step) -> None:
    if not bool(finite):
        raise ValueError(
            f"{step.target}: the model's logits are not finite; its weights may be damaged, or the conditions, or "
            "float16 too narrow (take bfloat16 or float32)"
        )


def _grid_noise(
    step: Step, spec: ModalitySpec, random: Sequence[np.random.Generator], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The positions in the order they are asked for, int64 (B, L), and uniform numbers, float32 (B, steps, L)."""
    length = spec.max_tokens
    raster = step.scheme == "maskgit"
    order = np.stack([np.arange(length) if raster else rng.permutation(length) for rng in random])
    uniforms = np.stack([rng.random((step.steps, length), dtype=np.float32) for rng in random])
    return torch.from_numpy(order).to(device), torch.from_numpy(uniforms).to(device)


def _grid_logits(model: FourM, context: Context, step: Step, queries: Tensor) -> Tensor:
    """Logits (B, Q, V) at positions `queries` (B, Q), given what the encoder read of each pass."""
    # All passes of guidance ask for the same positions. (apple/ml-4m draws an order for each, unless it is seeded, and
    # mixes logits of different positions.)
    pos = queries.repeat(1 + len(step.scales), 1)
    asked = Tokens.everywhere(torch.full_like(pos, -1), pos)
    x = model.embed_queries(asked.ids, torch.full_like(pos, model.config.index(step.target)), pos, asked.valid)
    return guide(linear(model.decode(x, context, None), model.head(step.target)), step.scales)


def _generate_text(
    model: FourM,
    known: Known,
    step: Step,
    random: Sequence[np.random.Generator],
    special: SpecialIds,
    begun: Sequence[Sequence[int]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Raw ids of a sequence, int64 (B, 1 + written): first sentinel, text, end; padding after a sample's end. And the
    probability of each that is written, float32 (B, written).

    The model sees the whole sequence as one masked span: the first sentinel in the input, and in the target the first
    sentinel, the text with its end, the second sentinel.
    """
    spec = model.config.spec(step.target)
    length = step.max_tokens or spec.max_tokens
    uniforms = torch.from_numpy(np.stack([rng.random(length, dtype=np.float32) for rng in random])).to(known.device)
    start = torch.full((known.num_samples, 1), special.sentinel(1), device=known.device)
    masked = Tokens.everywhere(start, torch.zeros_like(start))
    if begun is not None:
        masked = _after(begun, special, known).repeat(1 + len(step.scales))
    # Only this target shows its sentinel. (Scripts of apple/ml-4m show those of all texts of a chain from its first
    # step on, which no mask of training does; `init_empty_target_modality` just before a step is the same as here.)
    own = {step.target: masked} if step.target in model.config.inputs else {}
    context = _encode(model, known, own)
    raw, probability, finite = write(model, step, context, uniforms, start[: len(random)], special)
    _check_finite(finite, step)
    return raw, probability


def _after(begun: Sequence[Sequence[int]], special: SpecialIds, known: Known) -> Tokens:
    """Texts that have begun, each with the sentinel of what is to come: (B, n)."""
    rows = [[*text, special.sentinel(1)] for text in begun]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    valid = np.arange(ids.shape[1]) < np.array([[len(row)] for row in rows])
    tokens = torch.from_numpy(ids).to(known.device)
    places = torch.arange(ids.shape[1], device=known.device).expand(tokens.shape)
    return Tokens(tokens, places, torch.from_numpy(valid).to(known.device))


def _text_of(
    raw: Sequence[int], probability: Sequence[float], special: SpecialIds
) -> tuple[list[int], list[float]]:  # fmt: skip
    """The text in raw ids, up to its end, without markers; and the probability of each id."""
    text: list[int] = []
    kept: list[float] = []
    for token, of_it in zip(raw[1:], probability, strict=True):
        if token in (special.eos, special.sentinel(2)):
            break
        if not special.is_marker(token):
            text.append(token)
            kept.append(of_it)
    return text, kept
