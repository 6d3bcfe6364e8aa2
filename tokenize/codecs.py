"""Codecs: from labels to the tokens of a column and back, one small class for each way of becoming tokens.

A codec knows its modality's sizes and its tokenizer; it knows nothing of shards. `encode` never raises for a sample:
what cannot be tokenized comes back as the exception in its place, and becomes a null row with that reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..infra import storage
from ..modalities import LABELS, MODALITIES, Kind, ModalitySpec, Storage
from . import sentences
from .crops import Crop, Resample, apply, hashed_uniforms
from .store import ColumnSpec
from .wordpiece import WordPiece

CODEC_VERSION = 1  # raise it when the same labels and options give other tokens than before
TEXT_TOKENIZER = "text"  # the name under which the WordPiece vocabulary is fitted and stored
TOKENIZER_FILES = {Kind.SEQUENCE: ("tokenizer.json", "config.json"), Kind.GRID: ("model.safetensors", "config.json")}

RESAMPLE = {"colors": Resample.IMAGE, "edges": Resample.EDGES, "classes": Resample.LABELS}


@dataclass(frozen=True)
class Labelled:
    """A sample's label with what its tokens depend on: the crops (pixels of the source image) and the image's size."""

    key: str
    value: Any
    crops: list[Crop]
    size: tuple[int, int]  # width, height


@dataclass(frozen=True)
class Options:
    """What the recipe says about tokens, beyond the sizes in a `ModalitySpec`."""

    seed: int
    image_size: int
    crops: int
    pixel_format: str = "jpeg"
    jpeg_quality: int = 95
    min_box_score: float = sentences.DEFAULT_SCORE


def gist(reason: str) -> str:
    """A reason without its numbers, so that equal causes can be counted."""
    text = re.sub(r"(?<![\w-])\d+(\.\d+)?", "N", reason)
    return text if len(text) <= 100 else text[:100].rpartition(" ")[0] + " ..."


def crop_label(label: str, value: np.ndarray, crop: Crop, size: int) -> np.ndarray:
    """The pixels of a crop of an image-like label at `size` x `size`, resampled as that label needs it."""
    return apply(crop, value, size, RESAMPLE[LABELS[label].pixels])


class Codec:
    """One modality's way from labels to tokens and back."""

    name: ClassVar[str]

    def __init__(self, spec: ModalitySpec, options: Options) -> None:
        self.spec, self.options = spec, options
        self.modality = MODALITIES[spec.name]

    @property
    def crops(self) -> int:
        return self.options.crops if self.modality.spatial else 1

    def column_spec(self, tokenizer_fingerprint: str) -> ColumnSpec:
        """The spec of the columns that `encode` makes rows for."""
        length = self.options.image_size if self.spec.kind is Kind.PIXELS else self.spec.max_tokens
        return ColumnSpec(
            self.spec.name, self.spec.kind, self.crops, length, self.spec.vocab_size, tokenizer=tokenizer_fingerprint
        )

    def encode(self, samples: Sequence[Labelled]) -> list[Any]:
        """For each sample its row (see store.Column.sample), or the exception that says why it has none."""
        return [self._guarded(sample) for sample in samples]

    def _guarded(self, sample: Labelled) -> Any:
        try:
            return self.encode_one(sample)
        except ValueError as error:
            return error
        except Exception as error:  # a label of a form that nobody checked: its sample suffers, not the shard
            return ValueError(f"{self.spec.name}: {type(error).__name__}: {error}")

    def encode_one(self, sample: Labelled) -> Any:
        raise NotImplementedError

    def decode(self, tokens: Any) -> Any:
        """One crop's tokens as a person would look at them: uint8 pixels, text, boxes, colours, numbers."""
        raise NotImplementedError


class Patches(Codec):
    """RGB pixels: each crop as an encoded picture; the loader cuts it into patches."""

    name = "patches"

    def encode_one(self, sample: Labelled) -> list[bytes]:
        import cv2

        suffix, flags = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 3]
        if self.options.pixel_format == "jpeg":
            # 4:4:4: at 224 px the colour planes are too small to be halved.
            suffix, flags = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, self.options.jpeg_quality]
            flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        files = []
        for crop in sample.crops:
            pixels = crop_label(self.modality.label, sample.value, crop, self.options.image_size)
            done, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), flags)
            if not done:
                raise ValueError(f"{self.spec.name}: OpenCV could not encode the crop as {suffix}")
            files.append(data.tobytes())
        return files

    def decode(self, tokens: Any) -> np.ndarray:
        import cv2

        data = np.frombuffer(tokens, np.uint8) if isinstance(tokens, bytes) else tokens
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f"{self.spec.name}: {len(data)} bytes are no picture that can be decoded")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


class Grid(Codec):
    """A grid of codebook ids, by the modality's fitted VQ-VAE. All crops of a batch go through the encoder together."""

    name = "vq"

    def __init__(self, spec: ModalitySpec, options: Options, folder: str, device: str, expected: str = "") -> None:
        super().__init__(spec, options)
        from . import vqvae

        if expected:
            _check(spec.name, vqvae.fingerprint(folder), expected)
        self.device = device
        self.model = vqvae.load(folder).to(device).eval()
        if self.model.config.codebook_size != spec.vocab_size:
            raise ValueError(
                f"{spec.name}: the tokenizer in {folder} has {self.model.config.codebook_size} codes, "
                f"the recipe {spec.vocab_size}"
            )

    def encode(self, samples: Sequence[Labelled]) -> list[Any]:
        import torch

        from .pixels import preprocess

        # A row is first the crops' pixels, or the exception; then all pixels go through the encoder together.
        rows = super().encode(samples)
        good = [i for i, row in enumerate(rows) if not isinstance(row, Exception)]
        if good:
            pixels = np.concatenate([rows[i] for i in good])
            with torch.inference_mode():
                ids = self.model.encode(preprocess(self.spec.name, pixels).to(self.device))
            tokens = ids.reshape(len(good), self.crops, -1).cpu().numpy().astype(np.uint16)
            for i, row in zip(good, tokens, strict=True):
                rows[i] = row
        return rows

    def encode_one(self, sample: Labelled) -> np.ndarray:
        """Pixels of the crops, uint8 (crops, size, size[, channels]); what `encode` sends through the model."""
        label, size = self.modality.label, self.options.image_size
        return np.stack([crop_label(label, sample.value, crop, size) for crop in sample.crops])

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        picture: np.ndarray = self.decode_many(np.asarray(tokens)[None])[0]
        return picture

    def decode_many(self, tokens: np.ndarray) -> np.ndarray:
        """Pictures of many crops: ids (n, length) -> uint8 (n, size, size, 3), or (n, size, size) for one channel."""
        import torch

        from .pixels import postprocess

        side = self.spec.side
        ids = torch.from_numpy(np.asarray(tokens, np.int64)).reshape(-1, side, side).to(self.device)
        with torch.inference_mode():
            return postprocess(self.model.decode(ids))


class Text(Codec):
    """Captions by WordPiece; base of the sentences, which are text first."""

    name = "wordpiece"

    def __init__(self, spec: ModalitySpec, options: Options, wordpiece: WordPiece) -> None:
        super().__init__(spec, options)
        self.wordpiece = wordpiece

    def encode_one(self, sample: Labelled) -> list[np.ndarray]:
        return [self.wordpiece.encode(text, self.spec.max_tokens) for text in self.texts(sample)]

    def texts(self, sample: Labelled) -> list[str]:
        """One text for each crop."""
        return [sample.value]

    def decode(self, tokens: Any) -> Any:
        return self.parse(self.wordpiece.decode(tokens))

    def parse(self, text: str) -> Any:
        return text


class Boxes(Text):
    name = "boxes"

    def texts(self, sample: Labelled) -> list[str]:
        score = self.options.min_box_score
        return [sentences.boxes_to_text(sample.value, *sample.size, crop, score) for crop in sample.crops]

    def parse(self, text: str) -> list[dict[str, Any]]:
        return sentences.text_to_boxes(text)


class PaletteSentence(Text):
    name = "palette"

    def texts(self, sample: Labelled) -> list[str]:
        return [sentences.palette_to_text(sentences.pick_palette(sample.value, self.options.seed, sample.key))]

    def parse(self, text: str) -> list[list[int]]:
        return sentences.text_to_palette(text)


class MetadataSentence(Text):
    name = "metadata"

    def encode_one(self, sample: Labelled) -> list[np.ndarray]:
        # The order is shuffled for each sample (4M-21), and is a pure function of (seed, key) like everything else.
        (draw,) = hashed_uniforms(1, "metadata", self.options.seed, sample.key)
        chunks = sentences.metadata_to_chunks(sample.value, np.random.default_rng(int(draw * 2**53)))
        return [self.wordpiece.encode_chunks(chunks, self.spec.max_tokens)]

    def parse(self, text: str) -> dict[str, float]:
        return sentences.text_to_metadata(text)


TEXT_CODECS: dict[str, Callable[[ModalitySpec, Options, WordPiece], Text]] = {
    codec.name: codec for codec in (Text, Boxes, PaletteSentence, MetadataSentence)
}


def unsupported(modality: str) -> str:
    """Why no codec of this release makes a modality's tokens; "" if one does."""
    entry = MODALITIES[modality]
    pictures = LABELS[entry.label].storage is Storage.IMAGE and LABELS[entry.label].pixels != "classes"
    if entry.codec in (Patches.name, *TEXT_CODECS) or (entry.codec == Grid.name and pictures):
        return ""
    return f"{modality}: no tokenizer of this release makes its tokens; leave it out of `modalities`"


def load(spec: ModalitySpec, options: Options, root: str, device: str = "cpu", expected: str = "") -> Codec:
    """The codec of one modality, with its fitted tokenizer from ROOT/tokenizers/NAME/ (local or not).

    Args:
        expected: content fingerprint that the tokenizer must have, "" for any.

    Raises:
        ValueError: no codec of this release makes the modality's tokens, or the tokenizer is not the expected one.
        FileNotFoundError: it is not fitted.
    """
    if why := unsupported(spec.name):
        raise ValueError(why)
    modality = MODALITIES[spec.name]
    if spec.kind is Kind.PIXELS:
        return Patches(spec, options)
    if modality.codec == Grid.name:
        with storage.local_folder(storage.join(root, "tokenizers", spec.name), TOKENIZER_FILES[Kind.GRID]) as folder:
            return Grid(spec, options, str(folder), device, expected)
    wordpiece = load_text(root)
    if expected:
        _check(spec.name, wordpiece.fingerprint(), expected)
    return TEXT_CODECS[modality.codec](spec, options, wordpiece)


def _check(name: str, found: str, expected: str) -> None:
    """Tokens must never be filed under a tokenizer that did not make them."""
    if found != expected:
        raise ValueError(
            f"{name}: its tokenizer was fitted again while this job ran (contents {found}, expected {expected}); "
            "run the same command again"
        )


def load_text(root: str) -> WordPiece:
    """The fitted WordPiece vocabulary of a root."""
    url = storage.join(root, "tokenizers", TEXT_TOKENIZER)
    with storage.local_folder(url, TOKENIZER_FILES[Kind.SEQUENCE]) as folder:
        return WordPiece.load(folder)
