"""Every modality of 4M-21, declared once.

Two tables. `LABELS` says what can be said of an image and which specialist says it; `MODALITIES` says
which label becomes which tokens, and how: the codec, the vocabulary, the number of tokens. Everything
else (columns, masking, embeddings and heads of the model, pictures in the gallery) follows from them.

Decisions:
- Names carry no resolution: `tok_rgb` is the modality, `tok_rgb@224` its published checkpoint name at 224 px.
- Vocabularies and lengths are those of the published checkpoints (4M-21, table 5); a recipe may fit smaller ones,
  and `resolve` gives the sizes that one run uses.
- A specialist is named by a string ("canny:Canny" is pipelines/specialists/canny.py, class Canny), so that reading
  this table imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Kind(StrEnum):
    """What the tokens of a modality are to the transformer."""

    PIXELS = "pixels"  # image patches, projected linearly; input only
    GRID = "grid"  # a square grid of codebook ids; masked at random
    SEQUENCE = "sequence"  # WordPiece ids; masked in spans
    EMBEDDING = "embedding"  # a sequence of float vectors, projected linearly; input only


class Storage(StrEnum):
    """How a label is kept in labels/LABEL/SHARD.parquet."""

    IMAGE = "image"  # uint8 picture as PNG bytes
    JSON = "json"  # anything JSON can say
    ARRAY = "array"  # float16 array as .npy bytes


@dataclass(frozen=True)
class Label:
    """What a specialist says of a sample, at the frame of the source image.

    `specialist` is the default one as "module:Class" below pipelines/specialists, or "" if the label needs a model
    that must be configured first; `configure` then says what to write into the recipe.

    `pixels` says how a picture is resampled and how its reconstruction is judged: colours are averaged, edges stay 0 or
    255 and thin, class ids are never mixed.
    """

    name: str
    storage: Storage
    specialist: str
    summary: str
    needs: tuple[str, ...] = ()  # labels this one is computed from, besides the image and the caption
    configure: str = ""
    pixels: Literal["colors", "edges", "classes"] = "colors"  # of a label that is stored as a picture


@dataclass(frozen=True)
class Modality:
    """One kind of tokens: where they come from, how they are made, how large they are.

    `patch_size` is the number of pixels of a 224 px crop that one token of a grid covers along one side.
    `max_tokens` counts tokens of one crop at 224 px, with end-of-sequence for sequences.
    `spatial` tokens depend on the crop; the others (a caption) are stored once for each sample.
    `channels` is the number of input channels of the tokenizer of a grid.
    `hub_suffix` says whether the published name carries the resolution.
    """

    name: str
    label: str
    kind: Kind
    codec: str
    vocab_size: int
    max_tokens: int
    summary: str
    patch_size: int = 0
    channels: int = 0
    spatial: bool = True
    chunked: bool = False  # spans are masked in whole chunks (metadata pairs)
    hub_suffix: bool = False

    @property
    def is_target(self) -> bool:
        """Whether the model can predict it (pixels and embeddings are input only)."""
        return self.kind in (Kind.GRID, Kind.SEQUENCE)

    def published_name(self, image_size: int = 224) -> str:
        """The name in apple/ml-4m checkpoints, e.g. `tok_rgb@224`."""
        return f"{self.name}@{image_size}" if self.hub_suffix else self.name

    def published_id(self, image_size: int = 224) -> int:
        """The integer id of the published checkpoints: sha256(name) mod 2^15."""
        digest = hashlib.sha256(self.published_name(image_size).encode()).hexdigest()
        return int(digest, 16) % 0x8000


@dataclass(frozen=True)
class ModalitySpec:
    """A modality at the sizes of one run: what masking, loader and model need to know of it, and no more."""

    name: str
    kind: Kind
    vocab_size: int  # 0 for pixels and embeddings
    max_tokens: int  # rows of the position table
    input_dim: int = 0  # pixels: 3 * patch^2; embeddings: width of a vector
    chunked: bool = False
    learned_positions: bool = False  # global tokens have no grid order (4M-21)

    @property
    def is_target(self) -> bool:
        return self.kind in (Kind.GRID, Kind.SEQUENCE)

    @property
    def side(self) -> int:
        """Tokens along one side of a grid. 4M's position table is only right for square grids."""
        side = math.isqrt(self.max_tokens)
        if side * side != self.max_tokens:
            raise ValueError(f"{self.name}: {self.max_tokens} tokens are no square grid")
        return side


# 4M's people stop at 80 classes of COCO ("things"); boxes name them by these words.
COCO_CLASSES: tuple[str, ...] = tuple(
    (
        "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
        "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,"
        "suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
        "tennis racket,bottle,"
        "wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,"
        "chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,"
        "toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
    ).split(",")
)

_NOT_HERE = (
    "no specialist of this release makes it; leave out the modality {modality}, or let a specialist of your own make "
    "the label: labels: {{keep: [{label}], specialists: {{{label}: {{specialist: 'package.module:Class'}}}}}}"
)

LABELS: dict[str, Label] = {
    label.name: label
    for label in (
        Label("rgb", Storage.IMAGE, "source", "the image itself, upright, 8-bit RGB"),
        Label("caption", Storage.JSON, "captions:Captions", "the caption that came with the image"),
        Label("canny_edge", Storage.IMAGE, "canny:Canny", "Canny edges of the image", pixels="edges"),
        Label("color_palette", Storage.JSON, "palette:Palette", "palettes of 1 to 7 colours"),
        Label("det", Storage.JSON, "people:HogPeople", "boxes with COCO class names and scores"),
        Label("metadata", Storage.JSON, "metadata:Metadata", "sizes, counts and statistics", needs=("det",)),
        Label("depth", Storage.ARRAY, "", "relative depth", configure=_NOT_HERE),
        Label("normal", Storage.ARRAY, "", "surface normals", configure=_NOT_HERE),
        Label("semseg", Storage.IMAGE, "", "COCO panoptic classes (133 + 1)", (), _NOT_HERE, "classes"),
        Label("clip", Storage.ARRAY, "", "CLIP-B/16 dense features", configure=_NOT_HERE),
        Label("dinov2", Storage.ARRAY, "", "DINOv2-B/14 dense features", configure=_NOT_HERE),
        Label("dinov2_global", Storage.ARRAY, "", "DINOv2-B/14 class token", configure=_NOT_HERE),
        Label("imagebind", Storage.ARRAY, "", "ImageBind-H/14 dense features", configure=_NOT_HERE),
        Label("imagebind_global", Storage.ARRAY, "", "ImageBind-H/14 class token", configure=_NOT_HERE),
        Label("sam_instance", Storage.JSON, "", "SAM instance masks", configure=_NOT_HERE),
        Label(
            "sam_edge", Storage.IMAGE, "", "Canny edges of the SAM instance map", ("sam_instance",), _NOT_HERE, "edges"
        ),
        Label("human_poses", Storage.JSON, "", "3-D human poses and shapes", ("det",), _NOT_HERE),
        Label("t5_caption", Storage.ARRAY, "", "T5-XXL embeddings of the caption", configure=_NOT_HERE),
    )
}


def _grid(name: str, label: str, vocab_size: int, summary: str, patch_size: int = 16, channels: int = 3) -> Modality:
    tokens = (224 // patch_size) ** 2
    suffix = not name.endswith("_global")
    return Modality(
        name, label, Kind.GRID, "vq", vocab_size, tokens, summary, patch_size, channels, hub_suffix=suffix
    )


def _text(name: str, codec: str, max_tokens: int, summary: str, spatial: bool, chunked: bool = False) -> Modality:
    return Modality(name, name, Kind.SEQUENCE, codec, 30_000, max_tokens, summary, spatial=spatial, chunked=chunked)


MODALITIES: dict[str, Modality] = {
    modality.name: modality
    for modality in (
        Modality("rgb", "rgb", Kind.PIXELS, "patches", 0, 196, "RGB patches", 16, 3, hub_suffix=True),
        _grid("tok_rgb", "rgb", 16_384, "RGB tokens"),
        _grid("tok_depth", "depth", 8_192, "depth tokens", channels=1),
        _grid("tok_normal", "normal", 8_192, "surface normal tokens"),
        _grid("tok_semseg", "semseg", 4_096, "semantic segmentation tokens", channels=1),
        _grid("tok_clip", "clip", 8_192, "CLIP-B/16 feature tokens", channels=512),
        _grid("tok_dinov2", "dinov2", 8_192, "DINOv2-B/14 feature tokens", 14, 768),
        _grid("tok_imagebind", "imagebind", 8_192, "ImageBind-H/14 feature tokens", 14, 1280),
        _grid("tok_dinov2_global", "dinov2_global", 8_192, "DINOv2 global tokens", 56, 768),
        _grid("tok_imagebind_global", "imagebind_global", 8_192, "ImageBind global tokens", 56, 1024),
        _grid("tok_canny_edge", "canny_edge", 8_192, "Canny edge tokens", channels=1),
        _grid("tok_sam_edge", "sam_edge", 8_192, "SAM edge tokens", channels=1),
        _text("caption", "wordpiece", 256, "caption", spatial=False),
        _text("det", "boxes", 256, "bounding boxes, as text", spatial=True),
        _text("metadata", "metadata", 40, "image metadata, as text", spatial=False, chunked=True),
        _text("color_palette", "palette", 23, "colour palette, as text", spatial=False),
        _text("human_poses", "poses", 263, "human poses and shapes, as text", spatial=True),
        _text("sam_instance", "instances", 290, "SAM instances, as text", spatial=True),
        Modality(
            "t5_caption", "t5_caption", Kind.EMBEDDING, "embedding", 0, 77, "T5-XXL caption embeddings", spatial=False
        ),
    )
}


def spec(name: str, *, image_size: int, patch_size: int = 0, vocab_size: int = 0, input_dim: int = 0) -> ModalitySpec:
    """The sizes of one modality in one run.

    Args:
        name: a key of MODALITIES; KeyError otherwise (the recipe has checked it before).
        image_size: pixels along one side of a crop.
        patch_size: pixels a token covers; the registry's if 0.
        vocab_size: entries of the fitted codebook or WordPiece vocabulary; the registry's if 0.
        input_dim: width of an embedding modality (4096 for T5-XXL if 0).
    """
    modality = MODALITIES[name]
    tokens = modality.max_tokens
    patch = patch_size or modality.patch_size
    is_global = name.endswith("_global")
    if modality.kind in (Kind.PIXELS, Kind.GRID) and not is_global:
        if image_size % patch:
            raise ValueError(f"{name}: an image of {image_size} px does not divide into patches of {patch} px")
        tokens = (image_size // patch) ** 2
    if modality.kind is Kind.PIXELS:
        input_dim = 3 * patch * patch
    elif modality.kind is Kind.EMBEDDING:
        input_dim = input_dim or 4096
    vocab = (vocab_size or modality.vocab_size) if modality.is_target else 0
    return ModalitySpec(name, modality.kind, vocab, tokens, input_dim, modality.chunked, is_global)
