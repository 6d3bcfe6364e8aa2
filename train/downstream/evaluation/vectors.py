"""kNN accuracy on global features: which class an image has, by its nearest training images (4M-21, section 4.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ....model.downstream.retrieval import knn_scores
from ...measures.resample import Statistic
from .judges import summed
from .settings import Truth
from .truth import Frame

TOP = (1, 5)


class Neighbours:
    """The class of an image by its vector. A reference is a class, as text; an answer is a vector, float (D,), or the
    classes themselves, the likeliest first.

    `learn` gives it the training images before anything is measured.
    """

    measures = tuple(f"top{n}" for n in TOP)

    def __init__(self, given: Truth) -> None:
        self.given = given
        self._vectors, self._classes = np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
        self._names: list[str] = []

    def learn(self, vectors: Sequence[Any], classes: Sequence[str | None]) -> None:
        """Training images: vectors, None where there is none, and their classes."""
        known = [(a, b) for a, b in zip(vectors, classes, strict=True) if a is not None and b is not None]
        if not known:
            raise ValueError(
                f"evaluate: no training sample has both a vector and the member {self.given.member}; evaluate.training "
                "may name validation shards that have"
            )
        self._names = sorted({name for _, name in known})
        self._vectors = np.stack([vector for vector, _ in known]).astype(np.float32)
        self._classes = np.array([self._names.index(name) for _, name in known])

    def of_truth(self, data: bytes, frame: Frame) -> str:
        return data.decode("utf-8", "replace").strip()

    def of_label(self, value: Any) -> np.ndarray:
        return np.asarray(value, np.float32)

    def as_label(self, reference: Any) -> Any:
        return None

    def constant(self, references: Iterable[str]) -> list[str]:
        return [name for name, _ in Counter(references).most_common(max(TOP))]

    def together(self, answers: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean(answers, 0)

    def statistic(self, answers: Sequence[Any], references: Sequence[Any]) -> Statistic | None:
        known = [i for i, (a, b) in enumerate(zip(answers, references, strict=True)) if a is not None and b is not None]
        ranked = self._ranked([answers[i] for i in known]) if known else []
        parts: list[dict[str, np.ndarray] | None] = [None] * len(answers)
        for i, names in zip(known, ranked, strict=True):
            hits = {f"top{n}": np.array(float(references[i] in names[:n])) for n in TOP}
            parts[i] = hits | {"samples": np.ones(())}
        return summed(parts, lambda total: {name: total[name] / total["samples"] for name in self.measures})

    def _ranked(self, answers: Sequence[Any]) -> list[list[str]]:
        if isinstance(answers[0], list):
            return list(answers)
        vectors = np.stack(answers)
        ranked: list[list[str]] = [[] for _ in answers]  # an answer that is not finite is near to no class
        if (good := np.isfinite(vectors).all(axis=1)).any():
            scores = knn_scores(vectors[good], self._vectors, self._classes, len(self._names))
            best = scores.topk(min(max(TOP), scores.shape[1]), dim=1).indices.tolist()
            for place, row in zip(np.flatnonzero(good).tolist(), best, strict=True):
                ranked[place] = [self._names[i] for i in row]
        return ranked
