"""Inputs of one's own to tokens, by the codecs that made the columns, and generated tokens back to labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..infra import storage
from ..modalities import LABELS, TEXT, Form, Kind, Modality, ModalitySpec, Size, class_names
from ..model.generation.known import PUBLISHED_IDS, SpecialIds
from ..pipelines.geo.georeference import Located
from ..pipelines.given.bars import without_bars
from ..pipelines.given.given import Given, Mistake
from ..pipelines.given.labels import is_dense, read
from ..pipelines.given.listing import GivenSample
from ..sensors.declared import SENSORS, window_of
from ..tokenize import codecs
from ..tokenize.codec import Codec, Labelled
from ..tokenize.crops import Crop, Resample, apply, crops
from ..tokenize.text_codecs import Boxes, Instances, Text
from .names import label_of, modality_of
from .origin import FOLDER, Origin

_ROOMY = 2**16  # tokens: no sentence is cut, so that one that is too long is noticed


@dataclass(frozen=True)
class Encoded:
    """One input of one sample as the model reads it.

    tokens: as a column holds the centre crop: uint16 ids, the bytes of a picture (uint8), or float16 vectors.
    seen: the label that the tokens say, in the frame of the crop.
    known: of a grid's tokens those that are known, bool (L,); None for all.
    place: where the frame that the crop is of lies, None if it is not known.
    """

    tokens: np.ndarray
    seen: Any
    notes: tuple[str, ...] = ()
    known: np.ndarray | None = None
    place: Located | None = None


class Coder:
    """The codecs of a model's modalities.

    Args:
        specs: of the model, by name.
        origin: of the model: its root's tokenizers and its recipe's options.
        device: of the tokenizers.
    """

    def __init__(self, specs: Mapping[str, ModalitySpec], origin: Origin, device: str = "cpu") -> None:
        self.specs, self.origin, self.device = specs, origin, device
        self.options = origin.options(list(specs.values()))
        self._codecs: dict[str, Codec] = {}
        self._lists: dict[str, tuple[str, ...] | None] = {}

    def codec(self, name: str) -> Codec:
        """The codec of a modality, loaded once. ValueError if its tokenizers are not there, or are of another fit."""
        if name not in self._codecs:
            modality = modality_of(name)
            for tokenizer in modality.tokenizers:
                self._check(name, tokenizer)
            spec = replace(self.specs[name], name=modality.name)
            self._codecs[name] = codecs.load(spec, self.options, self.origin.root, self.device)
        return self._codecs[name]

    def _check(self, modality: str, tokenizer: str) -> None:
        """ValueError if a tokenizer is not there, or its ids are not those that the model has learned."""
        root = self.origin.root
        folder = storage.join(root, FOLDER, tokenizer)
        if not root or not storage.list_names(folder):
            where = f"there is none in {folder}" if root else f"no folder above the model has {FOLDER}/"
            raise ValueError(
                f"{modality} needs the tokenizer {tokenizer}, and {where}; name the root whose tokenizers the model "
                "was trained with: --root ROOT"
            )
        expected = self.origin.fingerprints.get(tokenizer)
        if expected and (actual := _fingerprint(root, tokenizer)) != expected:
            raise ValueError(
                f"{folder} is another fit than the model was trained with (contents {actual}, expected {expected}), "
                "and its ids mean other codes; name a root that has that one: --root ROOT"
            )

    def special_ids(self) -> SpecialIds:
        """Ids of the text vocabulary that generation must know; the published ones for a model without text."""
        texts = [name for name, spec in self.specs.items() if spec.kind is Kind.SEQUENCE]
        folder = storage.join(self.origin.root, FOLDER, TEXT)
        if not texts or not self.origin.root or not storage.list_names(folder):
            return PUBLISHED_IDS
        words = codecs.load_text(self.origin.root)
        first, count = int(words.sentinel_ids[0]), len(words.sentinel_ids)
        pad, unk, sos, eos = (int(one or 0) for one in (words.pad_id, words.unk_id, words.sos_id, words.eos_id))
        return SpecialIds(pad, unk, sos, eos, first, count)

    def classes(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The names of the classes of some modalities' labels, by label, as far as there are such."""
        found = {label_of(name): self._classes_of(name) for name in names}
        return {label: names for label, names in found.items() if names is not None}

    def _classes_of(self, name: str) -> tuple[str, ...] | None:
        """What the tokenizer of a modality says of its classes; None if it has none, or is not there."""
        if name not in self._lists:
            self._lists[name] = _classes(modality_of(name), self.origin.root)
        return self._lists[name]

    def encode(self, sample: GivenSample, modalities: Mapping[str, str]) -> dict[str, Encoded]:
        """What a sample gives, as tokens, by modality.

        Args:
            modalities: input name -> modality.

        Raises:
            Mistake: an input cannot be used; names it.
        """
        given = self._read(sample, modalities)
        frame = _frame(given, modalities)
        encoded = {}
        for name, label in given.items():
            try:
                encoded[modalities[name]] = self._encode(sample.key, modalities[name], label, frame)
            except ValueError as error:
                raise Mistake(_said(name, sample, error)) from None
        return encoded

    def _read(self, sample: GivenSample, modalities: Mapping[str, str]) -> dict[str, Given]:
        """The labels that a sample gives: maps first, whose size is the frame of what counts in pixels."""
        labels = {name: label_of(modalities[name]) for name in sample.values}
        read_labels: dict[str, Given] = {}
        frames: dict[Size, tuple[int, int]] = {}  # of what shows one place, by the shape of its crops
        order = sorted(labels, key=lambda name: (not is_dense(labels[name]), labels[name] != "rgb"))
        for name in order:
            try:
                classes = self.classes([modalities[name]]).get(labels[name])
                frame = frames.get(shape := window_of(labels[name]))
                given = read(labels[name], sample.values[name].value, self.origin.max_pixels, frame, classes)
            except ValueError as error:
                raise Mistake(_said(name, sample, error)) from None
            if given.size is not None and _shows_a_place(labels[name]):
                if frame is not None and not _same_ratio(frame, given.size):
                    sizes = "{} x {} px, and the sample's picture is {} x {} px".format(*given.size, *frame)
                    text = f"it is {sizes}; give both in the same frame, of one width to height"
                    raise Mistake(_said(name, sample, ValueError(text)))
                frames.setdefault(shape, given.size)
            read_labels[name] = replace(given, notes=(*sample.values[name].notes, *given.notes))
        if self.origin.trim_borders:
            read_labels = without_bars(read_labels, labels)
        return {name: read_labels[name] for name in labels}

    def _encode(self, key: str, name: str, given: Given, frame: tuple[int, int]) -> Encoded:
        modality = modality_of(name)
        own = given.size if given.size is not None and LABELS[modality.label].form is not Form.FEATURES else None
        width, height = own or frame
        windows = crops(self.options.seed, key, width, height, 1, shape=window_of(modality.label))
        sample = Labelled(key, given.value, windows, (width, height))
        codec = self.codec(name)
        (row,) = codec.encode([sample])
        if isinstance(row, Exception):
            raise row
        notes = [*given.notes, *_cut(windows[0], own if modality.spatial else None)]
        if isinstance(codec, Text):
            self._check_length(codec, sample)
            notes += _left_out(codec, sample)
        tokens = np.frombuffer(row[0], np.uint8) if isinstance(row[0], bytes) else np.asarray(row[0])
        known = None
        if given.known is not None and codec.spec.kind is Kind.GRID:
            known = _known(given.known, windows[0], codec.spec.grid)
            notes.append(f"{np.sum(~known)} of {known.size} tokens are not known, where the picture is transparent")
        elif given.known is not None:
            notes.append("what is transparent is white")
        return Encoded(tokens, codec.decode(tokens), tuple(notes), known, given.place)

    def _check_length(self, codec: Text, sample: Labelled) -> None:
        """ValueError if the sentence is longer than the model reads: columns cut it, a person should know."""
        if isinstance(codec, Instances):  # writes as many as fit; `_left_out` says how many
            return
        roomy = copy(codec)
        roomy.spec = replace(codec.spec, max_tokens=_ROOMY)
        (row,) = roomy.encode([sample])
        most = codec.spec.max_tokens
        if not isinstance(row, Exception) and len(row[0]) > most:
            raise ValueError(f"it is {len(row[0])} tokens, and the model reads at most {most}; shorten it")

    def decode(self, name: str, rows: np.ndarray | Sequence[Any], batch_size: int) -> list[Any]:
        """Tokens of some samples as labels in the frame of the crop."""
        codec = self.codec(name)
        if not isinstance(codec, codecs.Grid):
            return [codec.decode(row) for row in rows]
        ids = np.asarray(rows)
        parts = [codec.decode_many(ids[i : i + batch_size]) for i in range(0, len(ids), batch_size)]
        return list(np.concatenate(parts))


def _fingerprint(root: str, name: str) -> str:
    if name == TEXT:
        return codecs.load_text(root).fingerprint()
    from ..tokenize import tokenizer  # loads torch

    with storage.local_folder(storage.join(root, FOLDER, name), codecs.CODEBOOK_FILES) as folder:
        return tokenizer.fingerprint(folder)


def _classes(modality: Modality, root: str) -> tuple[str, ...] | None:
    folder = storage.join(root, FOLDER, modality.tokenizers[0]) if root and modality.tokenizers else ""
    if not folder or not storage.list_names(folder):
        return None
    if modality.codec == Boxes.name:
        return codecs.load_text(root).classes
    if LABELS[modality.label].form is not Form.CLASSES:
        return None
    from ..tokenize import tokenizer  # loads torch

    with storage.local_folder(folder, codecs.CODEBOOK_FILES) as local:
        return tokenizer.read_classes(local) or class_names(modality.label, {})


def _frame(given: Mapping[str, Given], modalities: Mapping[str, str]) -> tuple[int, int]:
    """The picture's size: of its maps, else what a record says, else a feature map's ratio, else a square."""
    sizes = [one.size for one in given.values() if one.size is not None]
    forms = {name: LABELS[label_of(modalities[name])].form for name in given}
    pictures = [one.size for name, one in given.items() if one.size and forms[name] is not Form.FEATURES]
    return (pictures or sizes or [(1000, 1000)])[0]


def _shows_a_place(label: str) -> bool:
    """Whether it is a map in the frame that all maps of a sample have: a feature map has cells, a sound tones."""
    sensor = SENSORS.get(label)
    return LABELS[label].form is not Form.FEATURES and (sensor is None or sensor.mel is None)


def _same_ratio(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two frames show the same window: one width to height, but for a pixel of rounding."""
    small, large = sorted((one, other))
    return abs(small[0] / small[1] * large[1] - large[0]) <= max(large[0] / small[0], large[1] / small[1]) + 1e-6


def _cut(crop: Crop, size: tuple[int, int] | None) -> list[str]:
    """What of a picture the model does not see."""
    if size is None or size == (crop.width, crop.height):
        return []
    width, height = size
    sides = [
        ("left", crop.left), ("right", width - crop.left - crop.width),
        ("top", crop.top), ("bottom", height - crop.top - crop.height),
    ]  # fmt: skip
    cut = " and ".join(f"{pixels} px {side}" for side, pixels in sides if pixels)
    centre = "the centre square" if crop.width == crop.height else "its centre"
    return [f"{width} x {height} px; the model sees {centre}, without {cut}"]


def _left_out(codec: Text, sample: Labelled) -> list[str]:
    """What of a record its sentence does not say."""
    if isinstance(codec, Instances):
        named, given = len(codec.subject(sample, 0).boxes), len(sample.value)
        what = "instances"
    elif codec.name in ("boxes", "poses"):
        named, given = len(codec.truth(sample, 0)), len(sample.value)
        what = "boxes" if codec.name == "boxes" else "people"
    else:
        return []
    if named >= given:
        return []
    return [f"{named} of {given} {what} are read; the others are outside of the centre square, or beyond its room"]


def _said(name: str, sample: GivenSample, error: ValueError) -> str:
    """A mistake in an input, with its name and the file that it is in."""
    text = str(error)
    source, label = sample.values[name], name
    for prefix in (f"{label}: ", "image: "):
        text = text.removeprefix(prefix)
    shown = f" ({source.name})" if source.path and source.name not in text else ""
    return f"{name}{shown}: {text}"


def _known(opaque: np.ndarray, crop: Crop, grid: tuple[int, int]) -> np.ndarray:
    """The tokens of a grid at least half of which is opaque, bool (rows * columns,)."""
    shares = apply(crop, opaque.astype(np.float32), grid, Resample.LINEAR)
    known: np.ndarray = shares.reshape(-1) >= 0.5
    if not known.any():
        raise ValueError("its centre square is transparent all over; leave it out, or paint what is known")
    return known


def stack(specs: Mapping[str, ModalitySpec], samples: Sequence[Mapping[str, Encoded]]) -> dict[str, Any]:
    """Conditions of all samples, as `generate` takes them; a sample may lack what others have."""
    from ..train.downstream.samples import Samples  # loads the reader of columns

    names = list(dict.fromkeys(name for sample in samples for name in sample))
    tokens = {name: [sample[name].tokens if name in sample else None for sample in samples] for name in names}
    given = Samples(dict(specs), [("", "", row) for row in range(len(samples))], tokens).given(names)
    for name in names:
        for row, sample in enumerate(samples):
            if name in sample and (known := sample[name].known) is not None:
                given[name][row][~known] = -1
    return given
