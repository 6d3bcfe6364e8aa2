"""Retrieval by predicted global tokens, and k-nearest-neighbour classification (4M-21, sections 4.1 and 4.2).

A query is any modality: the model predicts the global tokens of the image it belongs to, their tokenizer decodes them
to a vector, and the gallery's nearest vectors by cosine are the answer.

Legend: Q queries, N gallery, D width of a vector, K neighbours, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..fourm import FourM
from ..generation.generate import Step, generate
from ..generation.known import PUBLISHED_IDS, SpecialIds

CHUNK = 65_536  # gallery vectors that are compared at a time
BATCH = 256  # of tokens that are decoded at a time


def retrieval_step(target: str) -> Step:
    """How global tokens are predicted for retrieval: all at once, nearly the likeliest ones (4M-21)."""
    return Step(target, "roar", steps=1, temperature=0.1, top_p=0.8)


def predict_vectors(
    model: FourM,
    conditions: Mapping[str, Any],
    target: str,
    decode: Callable[[np.ndarray], np.ndarray],
    *,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    special: SpecialIds = PUBLISHED_IDS,
) -> np.ndarray:
    """The global vectors that a model expects of the images which `conditions` describe.

    Args:
        conditions, seed, sample_ids, special: see `generate`.
        target: a modality of global tokens, such as tok_dinov2_global.
        decode: its tokenizer: ids (Q, tokens) to vectors (Q, D).

    Returns:
        float32 (Q, D), not normalized.
    """
    step = retrieval_step(target)
    made = generate(model, conditions, [step], seed=seed, sample_ids=sample_ids, special=special)[target]
    return np.asarray(decode(np.asarray(made)), np.float32)


class VectorTokenizer(Protocol):
    """What turns global tokens into vectors, as `fourmill.load_tokenizer` gives it."""

    def decode(self, ids: Tensor) -> Tensor:
        """int64 (n, tokens) to float (n, D)."""


def retrieve(
    model: FourM,
    conditions: Mapping[str, Any],
    gallery: np.ndarray | Tensor,
    *,
    target: str,
    tokenizer: VectorTokenizer,
    k: int = 5,
    seed: int = 0,
    special: SpecialIds = PUBLISHED_IDS,
) -> tuple[Tensor, Tensor]:
    """The images of a gallery that fit queries of any modality best (4M-21, section 4.1).

    Args:
        model: that predicts `target`.
        conditions: what is known of Q queries, see `generate`.
        gallery: global tokens of N images, integers (N, tokens), or their vectors, floating point (N, D).
        target: a modality of global tokens, such as "tok_dinov2_global".
        tokenizer: of `target`.
        k: how many images for each query; at most N.
        seed, special: see `generate`.

    Returns:
        Rows of the gallery, int64 (Q, K), nearest first, and their cosines, float32 (Q, K).

    Raises:
        ValueError: conditions or target do not fit the model, or the gallery is empty or of another width.

    Examples:
        >>> store = fourmill.open_store("out")
        >>> column = store.column("tok_dinov2_global", "train")
        >>> queries = torch.utils.data.Subset(store.dataset(["caption"], shards=["train"]), range(3))
        >>> index, cosine = fourmill.retrieve(
        ...     fourmill.load_model("out/runs/4m"),
        ...     {"caption": torch.stack([query["caption"] for query in queries])},
        ...     column.values[column.valid, 0],
        ...     target="tok_dinov2_global",
        ...     tokenizer=fourmill.load_tokenizer("out/tokenizers/tok_dinov2_global"),
        ... )
        >>> index.shape, cosine.dtype
        (torch.Size([3, 5]), torch.float32)
    """

    @torch.inference_mode()
    def vectors(ids: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(np.asarray(ids, np.int64))
        parts = [tokenizer.decode(rows[i : i + BATCH]).float().cpu() for i in range(0, len(rows), BATCH)]
        return torch.cat(parts).numpy()

    found = predict_vectors(model, conditions, target, vectors, seed=seed, special=special)
    searched = torch.as_tensor(gallery)
    if not searched.is_floating_point() and len(searched):
        searched = torch.from_numpy(vectors(np.asarray(gallery)))
    return nearest(found, searched, k)


def nearest(queries: np.ndarray | Tensor, gallery: np.ndarray | Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The nearest gallery vectors of each query by cosine, nearest first; of equally near ones the first.

    Args:
        queries, gallery: floating point (Q, D) and (N, D), of any length; a vector of zeros is near to nothing, and one
            of the gallery that is not finite is never found.
        k: at most as many are found as the gallery has finite vectors.

    Returns:
        indices int64 (Q, K) and cosines float32 (Q, K).

    Raises:
        ValueError: shapes do not fit, the gallery is empty or has no finite vector, a query is not finite, or k is
            below 1.

    Examples:
        >>> gallery = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]])
        >>> index, cosine = fourmill.nearest(np.array([[1.0, 0.1]]), gallery, k=2)
        >>> index
        tensor([[1, 2]])
    """
    asked, others = _unit(queries), torch.as_tensor(gallery)
    if asked.ndim != 2 or others.ndim != 2 or asked.shape[1] != others.shape[1] or not len(others) or k < 1:
        raise ValueError(
            f"got queries {tuple(asked.shape)}, gallery {tuple(others.shape)}, k {k}; expected (Q, D), (N, D) with N "
            "above 0, and k above 0"
        )
    if bad := torch.nonzero(~finite(torch.as_tensor(queries)))[:, 0].tolist():
        raise ValueError(f"the vectors of the queries {', '.join(map(str, bad[:5]))} are not finite; leave them out")
    found = finite(others)
    if not found.any():
        raise ValueError(f"none of the {len(others)} vectors of the gallery is finite; tokenize it again")
    k = min(k, int(found.sum()))
    best, index = asked.new_empty(len(asked), 0), torch.empty(len(asked), 0, dtype=torch.int64, device=asked.device)
    # In pieces: all cosines of a large gallery would not fit in memory.
    for start in range(0, len(others), CHUNK):
        scores = asked @ _unit(others[start : start + CHUNK].to(asked.device)).T
        # Sorting puts NaN before all numbers: a vector that is not finite would be the nearest of every query.
        scores[:, ~found[start : start + CHUNK].to(asked.device)] = -torch.inf
        places = torch.arange(start, start + scores.shape[1], device=asked.device).expand(len(asked), -1)
        best, index = torch.cat([best, scores], dim=1), torch.cat([index, places], dim=1)
        # Stable, with earlier pieces first: of equally near vectors the first one stays first.
        best, order = best.sort(dim=1, descending=True, stable=True)
        best, index = best[:, :k], index.gather(1, order[:, :k])
    return index, best


def knn_scores(
    queries: np.ndarray | Tensor,
    gallery: np.ndarray | Tensor,
    labels: np.ndarray | Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Votes of the k nearest neighbours, weighted by exp(cosine / temperature), as in DINO (Caron et al. 2021).

    Args:
        labels: integers (N,) of the gallery, 0 .. num_classes - 1.

    Returns:
        float32 (Q, C); the class with the highest vote is the answer.
    """
    index, cosine = nearest(queries, gallery, k)
    classes = torch.as_tensor(labels, device=index.device).long()
    if len(classes) != len(gallery) or int(classes.min()) < 0 or int(classes.max()) >= num_classes:
        raise ValueError(
            f"got {len(classes)} labels from {int(classes.min())} to {int(classes.max())} for {len(gallery)} vectors, "
            f"expected one each, 0 to {num_classes - 1}"
        )
    # Less 1, which changes no vote's share: exp(1 / 0.07) is 1.6e6, of lower temperatures infinite.
    weights = ((cosine - 1) / temperature).exp()
    return weights.new_zeros(len(index), num_classes).scatter_add_(1, classes[index], weights)


def knn_accuracy(scores: Tensor, labels: np.ndarray | Tensor, top: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Share of queries whose class is among the `top` best voted ones, by `top`."""
    wanted = torch.as_tensor(labels, device=scores.device).long()[:, None]
    ranked = scores.topk(min(max(top), scores.shape[1]), dim=1).indices
    return {n: float((ranked[:, :n] == wanted).any(dim=1).float().mean()) for n in top}


def finite(vectors: Tensor) -> Tensor:
    """bool (n,): which of n vectors have no NaN and no infinity."""
    return torch.isfinite(vectors).all(dim=-1)


def _unit(vectors: np.ndarray | Tensor) -> Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(vectors).float(), dim=-1, eps=1e-12)
