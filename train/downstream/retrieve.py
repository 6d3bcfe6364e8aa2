"""The retrieval stage: which images of a dataset fit a caption, an edge map, another image, ... (4M-21, section 4.1).

The gallery is a column of global tokens, decoded by its tokenizer; the trained model predicts the query's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...infra import storage
from ...modalities import Kind, ModalitySpec
from ...model.downstream.retrieval import finite, nearest, predict_vectors
from ...model.fourm import FourM
from ...tokenize import codecs, store
from ..data.groups import ShardRows
from .generation import LoadModel, conditions, special_ids
from .generation_job import GenerateJob
from .pool import HERE, ModelJob, ModelWorker, Where, make

BATCH = 256  # vectors that are decoded or predicted at a time

Place = tuple[str, str, int]  # shard, key, row


@dataclass(frozen=True)
class Gallery:
    """The images that are searched: where each is, and its global vector, float16 (N, D)."""

    places: list[Place]
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Ranking:
    """A query, by its text or by the sample it comes from, and the best places with their cosines, best first; none if
    the vector that was predicted is not finite."""

    query: str | Place
    places: list[tuple[Place, float]]

    @property
    def rank(self) -> int | None:
        """The rank of the query's own sample, from 1; None if it is not among the places."""
        return next((i for i, (place, _) in enumerate(self.places, 1) if place == self.query), None)


def global_modality(specs: Sequence[ModalitySpec], asked: str = "") -> ModalitySpec:
    """The modality whose vectors are compared: `asked`, or the first global one. ValueError if there is none."""
    # Global tokens have no places in the image: their positions are learned.
    candidates = [spec for spec in specs if spec.kind is Kind.GRID and spec.learned_positions]
    for spec in candidates:
        if asked in ("", spec.name):
            return spec
    raise ValueError(
        f"retrieve: {asked or 'no modality'} is no global modality of the recipe, it has "
        f"{', '.join(spec.name for spec in candidates) or 'none; add tok_dinov2_global, and train with it'}"
    )


def gallery(job: GenerateJob, target: ModalitySpec, split: str, device: str = "cpu") -> Gallery:
    """Every sample of a split that has the tokens of `target`, decoded."""
    codec = _codec(job, target, device)
    return _joined([_decoded(job, target, shard, codec) for shard in _shards(job, split)], target, split)


def _joined(parts: Sequence[Gallery], target: ModalitySpec, split: str) -> Gallery:
    places = [place for part in parts for place in part.places]
    if not places:
        raise ValueError(f"retrieve: no sample of {split} has {target.name}; see `fourmill status`")
    return Gallery(places, np.concatenate([part.vectors for part in parts if part.places]))


def _decoded(job: GenerateJob, target: ModalitySpec, shard: ShardRows, codec: codecs.Grid) -> Gallery:
    # Global tokens have one crop, and a shard of 10,000 samples 16 codes each: the whole column is 320 kB.
    url = storage.join(job.root, "tokens", target.name, f"{shard.name}.parquet")
    column = store.read(url, footer=shard.footers.get(target.name, ""))
    rows = np.flatnonzero(column.valid)
    places = [(shard.name, column.keys[row].as_py(), row) for row in rows.tolist()]
    ids = column.values[rows, 0]
    vectors = [_narrow(codec.decode_many(ids[i : i + BATCH])) for i in range(0, len(ids), BATCH)]
    return Gallery(places, np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float16))


def _narrow(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, D) as float16, of the same directions: those too large for it are made shorter."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    return (vectors / np.maximum(largest / np.finfo(np.float16).max, 1)).astype(np.float16)


def run(
    job: GenerateJob,
    load_model: LoadModel,
    query: str,
    *,
    texts: Sequence[str] = (),
    target: str = "",
    split: str = "val",
    top: int = 5,
    where: Where = HERE,
) -> list[Ranking]:
    """Search the images of a split.

    Args:
        job: of `Project.generate_job`; its recipe's `generate.samples` says how many samples are queries.
        query: the modality that is given: of the first samples of the split that have it, or `texts` in its place.
        texts: sentences of the modality `query`, instead of samples.
        target: the global modality that is predicted; the recipe's first if empty.
        split: "val" or "train"; training samples if there are no validation shards.
        top: places that are returned for each query.
        where: the cluster whose actors predict and decode, if there is one.

    Raises:
        ValueError: the recipe has no such modality, or no sample has it.
    """
    wanted = global_modality(job.specs, target)
    asked, given = _queries(job, query, wanted, texts, split)
    batches = [(i, {query: given[query][i : i + BATCH]}) for i in range(0, len(asked), BATCH)]
    shards = _shards(job, split)
    if where.is_cluster:
        tasks: dict[str, Any] = {f"queries from {i}": (i, some) for i, some in batches}
        tasks |= {f"shard {shard.name}": shard for shard in shards}
        made = make(ModelJob(Search(job, wanted), job.run, where), Searcher, tasks, "retrieve", "parts")
        vectors = [made[f"queries from {i}"] for i, _ in batches]
        searched = _joined([made[f"shard {shard.name}"] for shard in shards], wanted, split)
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, codec = load_model(job.run, device, job.step), _codec(job, wanted, device)
        vectors = [_predicted(job, wanted, model, codec, *batch) for batch in batches]
        searched = gallery(job, wanted, split, device)
    # All vectors of the split in memory, float16: 768 numbers of 1 M images are 1.5 GB.
    found = np.concatenate(vectors)
    good = finite(torch.from_numpy(found)).numpy()
    rankings = [Ranking(name, []) for name in asked]
    if good.any():
        index, cosine = nearest(found[good], searched.vectors, top)
        for number, row, cosines in zip(np.flatnonzero(good).tolist(), index.tolist(), cosine.tolist(), strict=True):
            rankings[number].places.extend((searched.places[i], c) for i, c in zip(row, cosines, strict=True))
    return rankings


@dataclass(frozen=True)
class Search:
    """What actors search for: vectors of a global modality."""

    job: GenerateJob
    target: ModalitySpec


class Searcher(ModelWorker[Search, Any, Any]):
    """Predicts the vectors of queries (number of the first, what is given), and decodes those of a shard."""

    def setup(self, device: str) -> None:
        from ..pretrain.weights import load_model

        self.model = load_model(self.of.job.run, device, self.of.job.step)
        self.codec = _codec(self.of.job, self.of.target, device)

    def make(self, task: Any) -> Any:
        if isinstance(task, ShardRows):
            return _decoded(self.of.job, self.of.target, task, self.codec)
        return _predicted(self.of.job, self.of.target, self.model, self.codec, *task)


def _predicted(
    job: GenerateJob, target: ModalitySpec, model: FourM, codec: codecs.Grid, first: int, given: dict[str, Any]
) -> np.ndarray:
    """Vectors of some queries.

    Args:
        first: number of the first one.
    """
    ids = range(first, first + len(next(iter(given.values()))))
    more: dict[str, Any] = {"seed": job.settings.seed, "sample_ids": ids, "special": special_ids(job)}
    return predict_vectors(model, given, target.name, codec.decode_many, **more)


def _queries(
    job: GenerateJob, query: str, wanted: ModalitySpec, texts: Sequence[str], split: str
) -> tuple[list[Any], dict[str, Any]]:
    """The queries, sentences or places of samples, and what generation takes for them."""
    specs = {spec.name: spec for spec in job.specs}
    if query not in specs or query == wanted.name:
        others = ", ".join(name for name in specs if name != wanted.name)
        raise ValueError(f"retrieve: the query is {query!r}, expected one of the recipe's modalities {others}")
    if texts:
        return list(texts), {query: [_ids(job, specs[query], text) for text in texts]}
    places, given = conditions(job, [query], split)
    return list(places), given


def recall(rankings: Sequence[Ranking], top: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Share of queries from samples whose own image is among the `top` first, by `top`."""
    ranks = [ranking.rank for ranking in rankings]
    return {n: sum(rank is not None and rank <= n for rank in ranks) / max(len(ranks), 1) for n in top}


def _shards(job: GenerateJob, split: str) -> tuple[ShardRows, ...]:
    return job.splits.get(split) or job.splits["train"]


def _codec(job: GenerateJob, spec: ModalitySpec, device: str) -> codecs.Grid:
    codec = codecs.load(spec, job.options, job.root, device)
    assert isinstance(codec, codecs.Grid)
    return codec


def _ids(job: GenerateJob, spec: ModalitySpec, text: str) -> list[int]:
    """A sentence as the model reads it, with its end."""
    if spec.kind is not Kind.SEQUENCE:
        raise ValueError(f"retrieve: {spec.name} is a {spec.kind.value} and takes no text; leave the text out")
    return [int(token) for token in codecs.load_text(job.root).encode(text, spec.max_tokens)]
