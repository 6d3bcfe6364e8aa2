"""Retrieval between modalities: whether the vector that the model expects of an input is nearest to that of the input's
own image (4M-21, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ....modalities import LABELS, MODALITIES, Form, ModalitySpec
from ....model.downstream.retrieval import finite, nearest, retrieval_step
from ....tokenize import codecs
from ...measures.resample import Value, measure, of_sums
from ..samples import Samples
from ..settings import ChainStep
from .job import EvaluateJob
from .made import Made, Question
from .references import decode
from .table_files import Recall

TOP = (1, 5)


def targets(job: EvaluateJob) -> list[ModalitySpec]:
    """The global modalities of a recipe, whose vectors are compared."""
    return [spec for spec in job.generation.specs if LABELS[MODALITIES[spec.name].label].form is Form.VECTOR]


def questions(job: EvaluateJob, samples: Samples) -> list[tuple[ModalitySpec, str]]:
    """Each global modality, and each modality that all samples have and that may ask for it."""
    whole = [name for name, tokens in samples.tokens.items() if all(one is not None for one in tokens)]
    return [(target, name) for target in targets(job) for name in whole if name != target.name]


def compute(job: EvaluateJob, samples: Samples, made: Made, draws: np.ndarray) -> list[Recall]:
    """Recall of the samples' own images among all samples, for each of `questions`."""
    found = []
    vectors: dict[str, tuple[Callable[[Sequence[np.ndarray | None]], np.ndarray], np.ndarray]] = {}
    for target, name in questions(job, samples):
        if any(one is None for one in samples.tokens[target.name]):
            continue
        if target.name not in vectors:
            decoder = _decoder(job, target)
            vectors[target.name] = decoder, decoder(samples.tokens[target.name])
        decoder, gallery = vectors[target.name]
        said = made.tokens(question(target, name), target.name)
        found.append(Recall(name, target.name, len(gallery), _recall(decoder(said), gallery, draws)))
    return found


def question(target: ModalitySpec, name: str) -> Question:
    """What is asked: the vector of the image that a modality is of."""
    return Question(f"from-{name}", (name,), (_step(target.name),))


def _step(target: str) -> ChainStep:
    step = retrieval_step(target)
    return ChainStep(
        target=target, scheme=step.scheme, steps=step.steps, temperature=step.temperature, top_p=step.top_p
    )


def _decoder(job: EvaluateJob, target: ModalitySpec) -> Callable[[Sequence[np.ndarray | None]], np.ndarray]:
    codec = codecs.load(target, job.generation.options, job.generation.root, job.device)
    return lambda tokens: np.stack(decode(codec, tokens)).astype(np.float32)


def _recall(queries: np.ndarray, gallery: np.ndarray, draws: np.ndarray) -> dict[str, Value]:
    """Whether the own image, which has the query's place, is among the nearest ones; a query that is not finite finds
    none. The gallery stays whole in all draws: only queries are drawn."""
    good = finite(torch.from_numpy(queries)).numpy()
    own = np.zeros((len(queries), max(TOP)), bool)
    if good.any():
        index, _ = nearest(queries[good], gallery, min(max(TOP), len(gallery)))
        own[good, : index.shape[1]] = index.cpu().numpy() == np.flatnonzero(good)[:, None]
    parts = [{**{f"recall{n}": np.array(float(row[:n].any())) for n in TOP}, "queries": np.ones(())} for row in own]
    names = [f"recall{n}" for n in TOP]
    return measure(of_sums(parts, lambda total: {name: total[name] / total["queries"] for name in names}), draws)
