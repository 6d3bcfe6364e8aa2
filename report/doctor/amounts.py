"""About how many bytes a recipe will write: an upper bound by counting, before anything is made.

Numbers of samples come from the sizes of the shards and the first members of the first one. Compressed columns and
pictures are smaller than is said here; what it is compared with is the room on a disk.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from typing import BinaryIO

from ...infra import storage
from ...modalities import LABELS, MODALITIES, Form, Kind
from ...pipelines.sensors import rows
from ...recipe import Recipe

MEMBERS = 24  # of the first shard that are looked at
_JPEG = 0.8  # bytes of a pixel at quality 95; the columns of photos take 0.3 to 0.7
_PNG = {Form.CLASSES: 0.3, Form.EDGES: 0.2, Form.COLORS: 3.0}
_PIXELS = {Form.DEPTH: 2.0, Form.DISTANCE: 2.0, Form.NORMALS: 6.0, **_PNG}  # bytes of a pixel of the frame
_FEATURES = 256 * 1280 * 2  # float16 of ImageBind's grid, the largest
_RECORD = 4_000
_TOKEN = 2  # uint16
_FRAME = 512 * 512  # pixels, where no image says it
_NUMBER = 4  # bytes of a float32


@dataclass(frozen=True)
class FirstShard:
    """What the first members of a shard say. bytes: of the file, for one sample. pixels: of its first image."""

    bytes: float
    pixels: int


def look(url: str) -> FirstShard:
    """Read the headers of the first members of a tar, and that of its first image; or the footer of a Parquet.

    ValueError or OSError if it cannot be read, or is neither.
    """
    with storage.open_binary(url) as file:
        head = file.read(len(rows.MAGIC))
        if head[:2] == b"\x1f\x8b":
            return FirstShard(0.0, 0)  # compressed: it says nothing without being unpacked
        if head == rows.MAGIC:
            return FirstShard(_bytes_a_row(file), 0)
        file.seek(0)
        keys, end, pixels = set(), 0, 0
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for _, member in zip(range(MEMBERS), tar, strict=False):
                    keys.add(member.name.partition(".")[0])
                    end = member.offset_data + -(-member.size // 512) * 512
                    if not pixels and member.name.lower().endswith((".jpg", ".jpeg", ".png", ".webp")):
                        pixels = _pixels(file, member)
        except tarfile.TarError as error:
            raise ValueError(f"it is no tar, and no Parquet ({error})") from error
    return FirstShard(end / len(keys) if keys else 0.0, pixels)


def _bytes_a_row(file: BinaryIO) -> float:
    from pyarrow import ArrowException, parquet

    try:
        count = parquet.ParquetFile(file).metadata.num_rows
    except ArrowException as error:
        raise ValueError(f"not Parquet that can be read ({str(error).splitlines()[0]})") from error
    return file.seek(0, io.SEEK_END) / count if count else 0.0


def _pixels(file: BinaryIO, member: tarfile.TarInfo) -> int:
    from PIL import Image

    file.seek(member.offset_data)
    try:
        with Image.open(io.BytesIO(file.read(min(member.size, 1 << 16)))) as image:
            return image.width * image.height
    except OSError:
        return 0


def of_samples(recipe: Recipe, samples: float, pixels: int) -> float:
    """Bytes of the columns and the kept labels of so many samples."""
    one = sum(of_column(recipe, name) for name in recipe.made)
    one += sum(of_label(recipe, name, pixels) for name in recipe.labels.keep)
    return samples * one


def of_column(recipe: Recipe, name: str) -> float:
    """Bytes of a sample of a column, at most."""
    (spec,) = (spec for spec in recipe.specs() if spec.name == name)
    crops = recipe.images.crops if MODALITIES[name].spatial else 1
    if spec.kind is Kind.PIXELS:
        return crops * recipe.images.size**2 * (_JPEG if recipe.images.pixel_format == "jpeg" else 3.0)
    width = recipe.tokenizers.embedding_dim if spec.kind is Kind.EMBEDDING else 1
    return crops * spec.max_tokens * width * _TOKEN


def of_label(recipe: Recipe, name: str, pixels: int = 0) -> float:
    """Bytes of a sample of a kept label, at most. pixels: of an image, 0 if that is not known."""
    pixels = pixels or _FRAME
    form = LABELS[name].form
    if form in _PIXELS:
        return pixels * _PIXELS[form]
    if form is Form.SEQUENCE:
        return 77 * recipe.tokenizers.embedding_dim * 2
    return {Form.FEATURES: _FEATURES, Form.VECTOR: 1280 * 2}.get(form, _RECORD)


def of_training(recipe: Recipe) -> float:
    """Bytes of the checkpoints and the model of a run: weights and two moments, and averages if there are any."""
    model, train = recipe.train.model, recipe.train
    blocks = model.dim**2 * (12 * model.encoder_depth + 16 * model.decoder_depth)
    vocabularies = sum(spec.vocab_size for spec in recipe.specs()) * model.dim
    parameters = blocks + 2 * vocabularies
    copies = train.keep_checkpoints * (4 if train.ema else 3) + 1
    return parameters * copies * _NUMBER
