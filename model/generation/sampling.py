"""Drawing tokens from logits, reproducibly: the randomness comes in as uniform numbers.

Legend: B samples, Q positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits (..., V) with -inf for tokens outside the `top_k` likeliest (0 = all) or the nucleus of mass `top_p`.

    The nucleus (Holtzman et al. 2020) holds the likeliest tokens up to and with the one that passes `top_p`.
    """
    if 0 < top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # mass of likelier tokens: the first one always stays
        outside = (before > top_p).scatter(-1, order, before > top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def end_or_go_on(logits: Tensor, ends: Tensor, above: float) -> Tensor:
    """Logits (..., V) of which either the tokens `ends` are left, where together they are likelier than `above`, or all
    others; the rest is -inf.

    Args:
        ends: int64, on the device, each once.
    """
    is_end = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device).index_fill_(0, ends, True)
    ending = logits.float().softmax(-1).index_select(-1, ends).sum(-1, keepdim=True) > above
    return logits.masked_fill(ending != is_end, -torch.inf)


def sample(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw one token for each position.

    Args:
        logits: float (B, Q, V).
        uniforms: float32 (B, Q) in [0, 1): where in the cumulative distribution each token is read off.
        temperature: 0 takes the likeliest token.
        top_k, top_p: see `filter_logits`; applied before the temperature, as apple/ml-4m does.

    Returns:
        ids, int64 (B, Q), and the probability each had, float32 (B, Q): MaskGIT's confidence. At temperature 0 it is
        that of temperature 1 (apple/ml-4m says 1 for all, which leaves MaskGIT no order).
    """
    logits = logits.float()
    if temperature == 0:
        probability, ids = logits.softmax(-1).max(-1)
        return ids, probability
    filtered = filter_logits(logits, top_k, top_p)
    # Differences to the largest: they stay finite at any temperature, which float32 knows down to 1e-38.
    below = filtered - filtered.amax(-1, keepdim=True)
    probabilities = (below / max(temperature, 1e-30)).softmax(-1)
    cumulative = probabilities.cumsum(-1)
    # The sum of float32 probabilities is not quite 1: the draw is scaled to it, or it might lie past the last token.
    reached = uniforms.unsqueeze(-1) * cumulative[..., -1:]
    # right=True: a token of probability 0 is never reached.
    ids = torch.searchsorted(cumulative, reached, right=True).clamp(max=logits.shape[-1] - 1)
    return ids.squeeze(-1), probabilities.gather(-1, ids).squeeze(-1)


def guide(passes: Tensor, scales: Sequence[float]) -> Tensor:
    """Classifier-free guidance with one or several weighted conditions.

    With one it is that of Ho and Salimans (2022), away from the unconditional logits for scales above 1; with several
    the conjunction of Liu et al. (2022): l + sum_i w_i (l_i - l).

    Args:
        passes: ((n + 1) B, ...) logits: under each of n conditions, then the unconditional ones l.
        scales: w_i of each condition, below 0 to push away from it.

    Returns:
        float32 (B, ...) logits.
    """
    passes = passes.float()  # scales blow up the rounding of bfloat16
    *conditional, unconditional = passes.chunk(len(scales) + 1)
    guided = unconditional
    for scale, logits in zip(scales, conditional, strict=True):
        guided = guided + scale * (logits - unconditional)
    return guided
