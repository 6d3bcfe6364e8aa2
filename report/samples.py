"""Samples for people to look at: images, labels, crops, tokens and what these decode to.

Nothing is labelled here. Images and captions come from the shards, labels from those that the recipe keeps, tokens from
the columns; crops are computed, and tokens decoded by the fitted tokenizers. A label that is not kept is named, with
how to keep it (`gallery.how_to_keep`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..infra import ledger, removals
from ..infra.ledger import SAMPLES
from ..modalities import LABELS, MODALITIES, OF_NO_PLACE, Kind
from ..pipelines import source
from ..pipelines.outputs import Output
from ..pipelines.plan import ShardTask
from ..pipelines.sensors import parallel
from ..sensors.declared import SENSORS, window_of
from ..tokenize import codecs, store, table_file
from ..tokenize import labels as label_files
from ..tokenize.codec import Codec, Labelled
from ..tokenize.crops import Crop
from ..tokenize.sensors import raster
from ..tokenize.text_codecs import Text
from .errors import error_of
from .html.gallery import GallerySample, TokenView
from .html.report import CreditedPhoto
from .source_samples import read_sample

if TYPE_CHECKING:
    from ..pipelines.settings import Images

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


def credits(samples: Sequence[GallerySample]) -> list[CreditedPhoto]:
    """Whose pictures these are, as far as their sidecars say: one row for each author and licence."""
    photos: dict[str, CreditedPhoto] = {}
    for sample in samples:
        if sample.credit and sample.image is not None and sample.credit not in photos:
            author, _, licence = sample.credit.rpartition(", ")
            photo = CreditedPhoto(sample.key, sample.image, author or licence, licence if author else "")
            photos[sample.credit] = photo
    return list(photos.values())


@dataclass
class Collector:
    """Gathers samples of one dataset.

    root: of the outputs.
    images, options: how images are decoded, cropped and tokenized.
    labels: that specialists make; each is shown where it is kept.
    columns: the token outputs to show, by name ("tokens/tok_rgb").
    records: of the ledger, by (output, shard): what is stored.
    classes: the recipe's own lists of classes, by label.
    every_key, key: see `source.open_shard`.
    """

    root: str
    images: Images
    options: codecs.Options
    labels: tuple[str, ...]
    columns: dict[str, Output]
    records: Mapping[tuple[str, str], ledger.Entry]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    every_key: bool = False
    key: str = ""
    _codecs: dict[str, Codec] = field(default_factory=dict)

    def codec(self, output: Output) -> Codec:
        """The codec of a column, loaded once."""
        if output.name not in self._codecs:
            assert output.spec is not None
            self._codecs[output.name] = codecs.load(output.spec, self.options, self.root)
        return self._codecs[output.name]

    def samples(self, tasks: Sequence[ShardTask], rows: Mapping[str, Sequence[int]]) -> list[GallerySample]:
        """The chosen rows of the chosen shards, in order, with all that is stored of them."""
        samples = []
        for task in tasks:
            if wanted := list(rows.get(task.shard, ())):
                samples += self._of_shard(task, wanted)
        return samples

    def pictures(self, tasks: Sequence[ShardTask], rows: Mapping[str, Sequence[int]]) -> list[GallerySample]:
        """The chosen rows with their images and captions alone."""
        return [
            sample for task in tasks if rows.get(task.shard) for sample in self._from_source(task, rows[task.shard])
        ]

    @cached_property
    def _removed(self) -> removals.Removals:
        return removals.read(self.root)

    def _from_source(self, task: ShardTask, rows: Sequence[int]) -> list[GallerySample]:
        try:
            with parallel.open_shard(task.url, source.scratch_folder(), self.every_key, self.key) as shard:
                shard.withhold(self._removed, task.shard)
                samples = [read_sample(shard, shard.samples[row], self.images) for row in rows]
        except OSError:  # what was made of it can be shown without it
            samples = [GallerySample(key, "", None, None) for key in self._keys(task.shard, rows)]
        return [replace(sample, shard=task.shard, rejects={}, classes=self.classes) for sample in samples]

    def _keys(self, shard: str, rows: Sequence[int]) -> list[str]:
        """The keys of some rows as a column or a kept label of their shard has them; [] if it has none."""
        outputs = (*self.columns, *(f"labels/{label}" for label in self.labels))
        name = next((one for one in outputs if (one, shard) in self.records), None)
        keys = table_file.keys(ledger.output_url(self.root, name, shard)) if name else []
        return [keys[row] for row in rows] if name else []

    def _of_shard(self, task: ShardTask, rows: Sequence[int]) -> list[GallerySample]:
        if not (samples := self._from_source(task, rows)):
            return []
        kept = {label: self._kept(task.shard, label, rows, samples) for label in self.labels}
        missing = tuple(label for label, values in kept.items() if values is None)
        rejects = self._rejects(task.shard)
        whole = []
        for i, sample in enumerate(samples):
            values = {label: one[i] for label, one in kept.items() if one is not None and one[i] is not None}
            whole.append(
                replace(sample, labels=values, not_kept=missing, crops=self._crops(sample), rejects=rejects[sample.key])
            )
        tokens = self._views(task.shard, rows, whole)
        return [
            replace(sample, tokens=views, crops=sample.crops[:CROPS_SHOWN])
            for sample, views in zip(whole, tokens, strict=True)
        ]

    @property
    def _drawing(self) -> raster.Drawing:
        images = self.images
        return raster.Drawing(self.options.seed, images.crops, (images.crop_scale, 1.0), images.hflip)

    def _crops(self, sample: GallerySample) -> list[Crop]:
        """The crops that were tokenized: they follow from the key and the image's size."""
        others = any(output.imported for output in self.columns.values())
        if sample.image is None or (others and self.images.crops > 1):  # those of imported tokens were drawn elsewhere
            return []
        height, width = sample.image.shape[:2]
        return self._drawing.windows(sample.key, (width, height))

    def _kept(self, shard: str, label: str, rows: Sequence[int], samples: Sequence[GallerySample]) -> list[Any] | None:
        """A label of some rows, None for rejects; None if the recipe does not keep it or has not been run since."""
        output = f"labels/{label}"
        if (output, shard) not in self.records:
            return None
        # Labels are large and row groups small: only those with the rows are read, and only the rows decoded.
        groups = sorted({row // label_files.ROW_GROUP for row in rows})
        place = {group: i * label_files.ROW_GROUP for i, group in enumerate(groups)}
        url = ledger.output_url(self.root, output, shard)
        _, keys, cells = label_files.read_cells(url, groups, self.records[output, shard].footer)
        values = []
        for row, sample in zip(rows, samples, strict=True):
            at = place[row // label_files.ROW_GROUP] + row % label_files.ROW_GROUP
            assert keys[at] == sample.key, (label, shard, row)
            cell = cells[at]
            values.append(None if cell is None else label_files.decode_cell(LABELS[label].storage, cell))
        return values

    def _rejects(self, shard: str) -> defaultdict[str, dict[str, str]]:
        reasons: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for output in (SAMPLES, *(f"labels/{label}" for label in self.labels), *self.columns):
            known = self.records.get((output, shard))
            record = ledger.read(self.root, output, shard) if known is not None and known.reasons else None
            for reject in record.rejects if record is not None else ():
                reasons[reject["key"]][output] = reject["reason"]
        return reasons

    def _views(self, shard: str, rows: Sequence[int], samples: Sequence[GallerySample]) -> list[list[TokenView]]:
        """The token views of some rows of one shard."""
        views: list[list[TokenView]] = [[] for _ in rows]
        for name, output in self.columns.items():
            if (name, shard) not in self.records:
                continue
            url = ledger.output_url(self.root, name, shard)
            column = store.read(url, footer=self.records[name, shard].footer)
            codec = self.codec(output)
            # Rows of a shard are in the same order in all of its outputs; others would mix samples.
            for i, (row, sample) in enumerate(zip(rows, samples, strict=True)):
                assert column.keys[row].as_py() == sample.key, (name, shard, row)
                for crop in range(min(codec.crops, CROPS_SHOWN)):
                    tokens = column.crop(row, crop) if column.valid[row] else None
                    views[i].append(token_view(codec, sample, tokens, crop, self._drawing))
        return views


def token_view(
    codec: Codec, sample: GallerySample, tokens: np.ndarray | None, crop: int, drawing: raster.Drawing | None = None
) -> TokenView:
    """One crop's tokens beside what went in, where that is stored, and what they decode to.

    Args:
        sample: with its labels and all of its crops.
        drawing: how crops of sensors were drawn.
    """
    name, label = codec.spec.name, codec.modality.label
    index = crop if codec.modality.spatial else None
    if tokens is None:
        return TokenView(name, None, crop=index)
    decoded = codec.decode(tokens)
    truth, error = None, None
    value = {"rgb": sample.image, "caption": sample.caption, **sample.labels}.get(label)
    crops_of, size = list(sample.crops), (0, 0)
    if sample.image is not None:
        size = (sample.image.shape[1], sample.image.shape[0])
    needs_none = label in SENSORS or (sample.image is None and LABELS[label].form in OF_NO_PLACE)
    if needs_none and value is not None and drawing is not None:
        size = raster.frame_of(label, value)
        crops_of = drawing.windows(sample.key, size, window_of(label))
    # Without the image nobody knows where its crops lie.
    if value is not None and label not in sample.not_kept and (crops_of or not codec.modality.spatial):
        truth = codec.truth(Labelled(sample.key, value, crops_of, size), crop)
        error = error_of(label, truth, decoded)
    ids = None if codec.spec.kind is Kind.PIXELS else np.asarray(tokens)
    if ids is not None and codec.spec.columns:
        ids = ids.reshape(codec.spec.grid)
    text = codec.wordpiece.decode(tokens) if isinstance(codec, Text) else ""
    return TokenView(name, ids, truth, decoded, error, text, index)


def column_counts(root: str, name: str, shards: Mapping[str, str], vocab_size: int) -> np.ndarray:
    """How often each id occurs in the columns of some shards, int64 (vocab_size,).

    Args:
        shards: names, with the sums of the columns' footers by their records.
    """
    counts = np.zeros(vocab_size, np.int64)
    for shard, footer in shards.items():
        column = store.read(ledger.output_url(root, name, shard), footer=footer)
        values = column.values[column.valid] if column.spec.kind is Kind.GRID else column.values
        counts += np.bincount(values.reshape(-1), minlength=vocab_size)[:vocab_size]
    return counts


def is_picture(modality: str) -> bool:
    """Whether a modality's tokens decode to a picture: an image, a map, features or a vector."""
    return MODALITIES[modality].kind is Kind.GRID
