"""Codecs: from labels to the tokens of a column and back, one small class for each way of becoming tokens.

A codec knows its modality's sizes and its tokenizer; it knows nothing of shards. `encode` never raises for a sample:
what cannot be tokenized comes back as the exception in its place, and becomes a null row with that reason.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..infra import storage
from ..infra.versions import Part
from ..modalities import MODALITIES, RASTER, TEXT, TOKENIZERS, Form, Kind, ModalitySpec, Size
from .codec import Codec, FittedTokenizer, Labelled, Options, check_fingerprint
from .sensors.pixels import RasterPatches
from .sensors.sentences import Catalogue, Coordinates, Time
from .settings import FLOAT32, Precision
from .store import ColumnSpec
from .text.wordpiece import WordPiece
from .text_codecs import Boxes, Coded, Instances, MetadataSentence, PaletteSentence, Poses, Text

__all__ = [
    "NAMES", "Codec", "Embedding", "FittedTokenizer", "Grid", "Labelled", "Options", "Patches", "Text", "load",
    "load_fitted", "load_text", "part",
]  # fmt: skip

WORDPIECE_FILES = ("tokenizer.json", "config.json")
CODEBOOK_FILES = ("model.safetensors", "config.json")


class Patches(Codec):
    """RGB pixels: each crop as an encoded picture; the loader cuts it into patches."""

    name = "patches"

    def encode_one(self, sample: Labelled) -> list[bytes]:
        import cv2

        # Level 3 of 9: level 6 takes 2.2 times as long for 2 % fewer bytes (photos at 224 px).
        suffix, flags = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 3]
        if self.options.pixel_format == "jpeg":
            # 4:4:4: at 224 px halved colour planes would be 112 px, and patches of 16 px see colours of 8 px.
            suffix, flags = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, self.options.jpeg_quality]
            flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        files = []
        # OpenCV writes BGR; everything else here is RGB.
        for crop in range(len(sample.crops)):
            success, data = cv2.imencode(suffix, cv2.cvtColor(self.truth(sample, crop), cv2.COLOR_RGB2BGR), flags)
            if not success:
                raise ValueError(f"{self.spec.name}: OpenCV could not encode the crop as {suffix}")
            files.append(data.tobytes())
        return files

    def truth(self, sample: Labelled, crop: int) -> Any:
        from .inputs import window

        return window(self.modality.label, sample.value, sample.crops[crop], self.image_size, sample.size)

    def decode(self, tokens: Any) -> np.ndarray:
        import cv2

        data = np.frombuffer(tokens, np.uint8) if isinstance(tokens, bytes) else tokens
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f"{self.spec.name}: {len(data)} bytes are no picture that can be decoded")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


class Grid(Codec):
    """A grid of codebook ids, or the ids of one vector. All crops of a batch go through the encoder together.

    A subclass may change what the tokenizer reads of a sample (`encode_one`) and, with it, what its tokens say if
    nothing is lost (`truth`).
    """

    name = "vq"

    def __init__(self, spec: ModalitySpec, options: Options, tokenizer: FittedTokenizer) -> None:
        super().__init__(spec, options)
        self.tokenizer = tokenizer
        if tokenizer.model.config.codebook_size != spec.vocab_size:
            raise ValueError(
                f"{spec.name}: its tokenizer {tokenizer.name} has {tokenizer.model.config.codebook_size} codes, "
                f"the recipe {spec.vocab_size}"
            )
        # Ids of a vector have no place on a grid.
        self._side: Size = 0 if spec.learned_positions else spec.grid

    @property
    def _is_map(self) -> bool:
        """Whether a token is a cell of a feature map, rather than a patch of pixels."""
        return TOKENIZERS[self.tokenizer.name].form is Form.FEATURES

    def encode(self, samples: Sequence[Labelled]) -> list[Any]:
        # A row is first the crops' pixels, or the exception; then all pixels go through the encoder together.
        rows = super().encode(samples)
        good = [i for i, row in enumerate(rows) if not isinstance(row, Exception)]
        if good:
            for i, row in zip(good, self._tokens([rows[i] for i in good]), strict=True):
                rows[i] = row
        return rows

    def _tokens(self, windows: list[np.ndarray]) -> list[Any]:
        """The tokens (crops, length) of each sample's windows, or the exception."""
        try:
            tokens = self.tokenizer.encode(np.concatenate(windows))
        except ValueError as error:
            # Retry the samples one by one, and reject only those that fail.
            return [error] if len(windows) == 1 else [row for window in windows for row in self._tokens([window])]
        if tokens.shape[1] != self.spec.max_tokens:
            raise ValueError(
                f"{self.spec.name}: its tokenizer {self.tokenizer.name} makes {tokens.shape[1]} tokens of a crop, "
                f"the recipe says {self.spec.max_tokens}; see its patch_size and images.size"
            )
        return list(tokens.reshape(len(windows), self.crops, -1))

    def encode_one(self, sample: Labelled) -> np.ndarray:
        """What the tokenizer reads of the crops, (crops, ...); `encode` sends it through the model."""
        from .inputs import examples

        name, windows = self.tokenizer.name, sample.crops[: self.crops]
        return np.concatenate([examples(name, sample.value, crop, self._size, sample.size) for crop in windows])

    @property
    def _size(self) -> Size:
        """The size of what the tokenizer reads."""
        return self.spec.grid if self._is_map else self.image_size

    def truth(self, sample: Labelled, crop: int) -> Any:
        """A label in the frame of a crop, as `decode` gives it."""
        # Of the modality's own label: tok_sam_edge is coded by the tokenizer of Canny edges.
        from .inputs import window

        return window(self.modality.label, sample.value, sample.crops[crop], self._size, sample.size)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return self.decode_many(np.asarray(tokens)[None])[0]

    def decode_many(self, tokens: np.ndarray) -> np.ndarray:
        """Labels of many crops: ids (n, length) to what `inputs.to_label` says of this modality's form."""
        return self.tokenizer.decode(tokens, self._side)


class Embedding(Codec):
    """Vectors as they are: input only, so that nothing has to be a token."""

    name = "embedding"

    def column_spec(self, tokenizers: Mapping[str, str]) -> ColumnSpec:
        return ColumnSpec(self.spec.name, self.spec.kind, 1, self.spec.max_tokens, dim=self.spec.input_dim)

    def encode_one(self, sample: Labelled) -> np.ndarray:
        # Longer captions are cut at the end, as text is.
        vectors = np.asarray(sample.value, np.float16)[: self.spec.max_tokens]
        if vectors.ndim != 2 or vectors.shape[1] != self.spec.input_dim:
            raise ValueError(
                f"{self.spec.name}: got vectors {np.shape(sample.value)}, expected (n, {self.spec.input_dim}); set "
                "tokenizers.embedding_dim to the width of the model that makes them"
            )
        return vectors[None]

    def decode(self, tokens: Any) -> np.ndarray:
        return np.asarray(tokens)


_SENTENCES: dict[str, type[Text]] = {
    codec.name: codec for codec in (Text, Boxes, PaletteSentence, MetadataSentence, Coordinates, Time)
}
_CODED: dict[str, type[Coded]] = {codec.name: codec for codec in (Poses, Instances, Catalogue)}

NAMES = frozenset({Patches.name, RasterPatches.name, Embedding.name, Grid.name, *_SENTENCES, *_CODED})


def load(
    spec: ModalitySpec, options: Options, root: str, device: str = "cpu", expected: Mapping[str, str] | None = None
) -> Codec:
    """The codec of one modality, with its fitted tokenizers from ROOT/tokenizers/NAME/ (local or not).

    Args:
        expected: content fingerprints that tokenizers must have, by name; None for any.

    Raises:
        ValueError: a tokenizer is not the expected one, or does not fit the recipe.
        FileNotFoundError: it is not fitted.
    """
    codec, expected = MODALITIES[spec.name].codec, expected or {}

    def precision(name: str) -> Precision:
        return options.precisions.get(name, FLOAT32)

    # What needs no tokenizer comes first, so that nothing is read from the root for it.
    if codec == Patches.name:
        return Patches(spec, options)
    if codec == Embedding.name:
        return Embedding(spec, options)
    if codec == RASTER:
        (name,) = MODALITIES[spec.name].tokenizers
        return RasterPatches(spec, options, load_fitted(root, name, device, expected.get(name, "")))
    if spec.kind is Kind.GRID:
        (name,) = MODALITIES[spec.name].tokenizers
        make_grid = Grid if codec == Grid.name else _own(codec)
        return make_grid(spec, options, load_fitted(root, name, device, expected.get(name, ""), precision(name)))
    wordpiece = load_text(root)
    if expected:
        check_fingerprint(TEXT, wordpiece.fingerprint(), expected[TEXT])
    if codec in _CODED:
        make, name = _CODED[codec], MODALITIES[spec.name].tokenizers[1]
        return make(spec, options, wordpiece, load_fitted(root, name, device, expected.get(name, ""), precision(name)))
    return _sentence(codec)(spec, options, wordpiece)


def part(codec: str) -> Part:
    """What a record says of a codec's version."""
    ours: dict[str, type[Codec]] = {one.name: one for one in (Patches, Embedding, Grid, RasterPatches)} | {**_CODED}
    one = ours.get(codec) or _sentence(codec)
    if not isinstance(one, type):  # a user's function that returns a codec
        one = Text
    return Part(f"codecs/{codec}", one.version, one.first_version, one.changes)


def _sentence(codec: str) -> type[Text]:
    """A codec of this package by its name, or one of the user's own."""
    return _SENTENCES[codec] if codec in _SENTENCES else _own(codec)


def _own(codec: str) -> Any:
    """A codec of the user's own, "package.module:Class"."""
    module, _, name = codec.partition(":")
    return getattr(importlib.import_module(module), name)


def load_fitted(
    root: str, name: str, device: str = "cpu", expected: str = "", precision: Precision = FLOAT32
) -> FittedTokenizer:
    """A fitted tokenizer of a root."""
    # On object stores the files are fetched into a folder that is removed after the weights are in memory.
    with storage.local_folder(storage.join(root, "tokenizers", name), CODEBOOK_FILES) as folder:
        return FittedTokenizer(name, str(folder), device, expected, precision)


def load_text(root: str) -> WordPiece:
    """The fitted WordPiece vocabulary of a root."""
    with storage.local_folder(storage.join(root, "tokenizers", TEXT), WORDPIECE_FILES) as folder:
        return WordPiece.load(folder)
