"""Samples for people to look at: a dataset's images, labels, crops, tokens and what they decode to, gathered again.

Labels are read where they are kept and made again where they are not; tokens come from the columns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..infra import ledger, storage
from ..modalities import MODALITIES, Kind
from ..pipelines import source
from ..pipelines.engine.shard_worker import Job, Mill, Sample
from ..pipelines.outputs import Output
from ..pipelines.plan import ShardTask
from ..tokenize import codecs, store
from ..tokenize.codec import Codec, Labelled
from ..tokenize.text_codecs import Text
from .errors import error_of
from .html.gallery import GallerySample, TokenView
from .html.report import Photo

CROPS_SHOWN = 2
SHARDS_LOOKED_AT = 16


def spread(tasks: Sequence[ShardTask], rows: Mapping[str, int], count: int) -> dict[str, list[int]]:
    """`count` rows, evenly from shards that are spread evenly over the list: shard -> row numbers, ascending.

    At most `SHARDS_LOOKED_AT` shards: a remote one is downloaded whole.
    """
    shards = [task.shard for task in tasks if rows.get(task.shard)]
    number = min(len(shards), SHARDS_LOOKED_AT, count)
    chosen: dict[str, list[int]] = {}
    left = count
    for i in range(number):
        shard = shards[i * len(shards) // number]
        share = min(math.ceil(left / (number - i)), rows[shard])
        chosen[shard] = [int(k * rows[shard] / share) for k in range(share)]
        left -= share
    return chosen


def credits(samples: Sequence[GallerySample]) -> list[Photo]:
    """Whose pictures these are, as far as their sidecars say: one row for each author and licence."""
    found: dict[str, Photo] = {}
    for sample in samples:
        if sample.credit and sample.image is not None and sample.credit not in found:
            author, _, licence = sample.credit.rpartition(", ")
            found[sample.credit] = Photo(sample.key, sample.image, author or licence, licence if author else "")
    return list(found.values())


@dataclass
class Collector:
    """Gathers samples of one dataset.

    job: makes the labels that are not stored. columns: the token outputs to show, by name ("tokens/tok_rgb").
    records: ledger records by (output, shard), for the reasons of rejects.
    """

    job: Job
    columns: dict[str, Output]
    records: Mapping[tuple[str, str], ledger.Record]
    _codecs: dict[str, Codec] = field(default_factory=dict)

    def codec(self, output: Output) -> Codec:
        """The codec of a column, loaded once."""
        if output.name not in self._codecs:
            assert output.spec is not None
            self._codecs[output.name] = codecs.load(output.spec, self.job.options, self.job.root)
        return self._codecs[output.name]

    def samples(self, tasks: Sequence[ShardTask], rows: Mapping[str, Sequence[int]]) -> list[GallerySample]:
        """The chosen rows of the chosen shards, in order."""
        mill = Mill(self.job)
        for specialist in self.job.specialists.values():
            specialist.setup("cpu")
        labels = {"rgb", *self.job.specialists}
        found = []
        for task in tasks:
            wanted = list(rows.get(task.shard, ()))
            if not wanted:
                continue
            rejects = self._rejects(task.shard)
            with source.open_shard(task.url, self.job.scratch) as shard:
                made = [s for batch in mill.labelled(shard, task, labels, wanted) for s in batch]
            views = self._views(task.shard, wanted, made)
            for sample, tokens in zip(made, views, strict=True):
                found.append(_gallery_sample(task.shard, sample, tokens, rejects.get(sample.item.key, {})))
        return found

    def pictures(self, tasks: Sequence[ShardTask], rows: Mapping[str, Sequence[int]]) -> list[GallerySample]:
        """The chosen rows with their images and captions alone."""
        mill, found = Mill(self.job), []
        for task in tasks:
            wanted = list(rows.get(task.shard, ()))
            if wanted:
                with source.open_shard(task.url, self.job.scratch) as shard:
                    made = [s for batch in mill.labelled(shard, task, {"rgb"}, wanted) for s in batch]
                found += [_gallery_sample(task.shard, sample, [], {}) for sample in made]
        return found

    def _rejects(self, shard: str) -> dict[str, dict[str, str]]:
        reasons: dict[str, dict[str, str]] = defaultdict(dict)
        for (output, name), record in self.records.items():
            if name == shard:
                for reject in record.rejects:
                    reasons[reject["key"]][output] = reject["reason"]
        return reasons

    def _views(self, shard: str, rows: Sequence[int], samples: Sequence[Sample]) -> list[list[TokenView]]:
        """The token views of some rows of one shard."""
        views: list[list[TokenView]] = [[] for _ in rows]
        for name, output in self.columns.items():
            if (name, shard) not in self.records:
                continue
            column = store.read(storage.join(self.job.root, name, f"{shard}.parquet"))
            codec = self.codec(output)
            for i, (row, sample) in enumerate(zip(rows, samples, strict=True)):
                assert column.keys[row].as_py() == sample.item.key, (name, shard, row)
                for crop in range(min(codec.crops, CROPS_SHOWN)):
                    tokens = column.crop(row, crop) if column.valid[row] else None
                    views[i].append(token_view(codec, sample, tokens, crop))
        return views


def token_view(codec: Codec, sample: Sample, tokens: np.ndarray | None, crop: int) -> TokenView:
    """One crop's tokens beside what they were made from and what they decode to."""
    name, label = codec.spec.name, codec.modality.label
    value = sample.item.labels.get(label)
    index = crop if codec.modality.spatial else None
    if tokens is None or value is None:
        return TokenView(name, None if tokens is None else np.asarray(tokens), crop=index)
    image = sample.item.image
    size = (0, 0) if image is None else (image.shape[1], image.shape[0])
    truth = codec.truth(Labelled(sample.item.key, value, sample.crops, size), crop)
    decoded = codec.decode(tokens)
    if codec.spec.kind is Kind.PIXELS:
        return TokenView(name, None, truth, decoded, error_of(label, truth, decoded), crop=index)
    text = codec.wordpiece.decode(tokens) if isinstance(codec, Text) else ""
    return TokenView(name, np.asarray(tokens), truth, decoded, error_of(label, truth, decoded), text, index)


def _gallery_sample(shard: str, sample: Sample, tokens: list[TokenView], rejects: Mapping[str, str]) -> GallerySample:
    item = sample.item
    info = {name: str(item.info[name]) for name in ("attribution", "license", "licence") if item.info.get(name)}
    labels = {name: value for name, value in item.labels.items() if name not in ("rgb", "caption")}
    return GallerySample(
        item.key, shard, item.image, item.caption, labels, sample.crops[:CROPS_SHOWN], tokens, rejects,
        credit=", ".join(dict.fromkeys(info.values())),
    )  # fmt: skip


def column_counts(root: str, name: str, shards: Sequence[str], vocab_size: int) -> np.ndarray:
    """How often each id occurs in the columns of some shards, int64 (vocab_size,)."""
    counts = np.zeros(vocab_size, np.int64)
    for shard in shards:
        column = store.read(storage.join(root, name, f"{shard}.parquet"))
        values = column.values[column.valid] if column.spec.kind is Kind.GRID else column.values
        counts += np.bincount(values.reshape(-1), minlength=vocab_size)[:vocab_size]
    return counts


def is_picture(modality: str) -> bool:
    """Whether a modality's tokens decode to a picture: an image, a map, features or a vector."""
    return MODALITIES[modality].kind is Kind.GRID
