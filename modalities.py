"""Every modality of 4M-21, declared once.

Three tables. `LABELS` says what can be said of an image and which specialist says it; `MODALITIES` says which label
becomes which tokens, and how: the codec, the vocabulary, the number of tokens; `TOKENIZERS` which of them need a fitted
codebook. Everything else (columns, masking, embeddings and heads of the model, pictures in the gallery) follows.

Decisions:
- Names carry no resolution: `tok_rgb` is the modality, `tok_rgb@224` its published checkpoint name at 224 px. The
  exception are modalities of another resolution than the run's, `tok_rgb@448`.
- Vocabularies and lengths are those of the published checkpoints (4M-21, table 5); a recipe may fit smaller ones,
  and `resolve` gives the sizes that one run uses.
- A specialist is named by a string ("canny" is pipelines/specialists/classical/canny.py, class Canny), so that reading
  this table imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from . import coco


class Kind(StrEnum):
    """What the tokens of a modality are to the transformer."""

    PIXELS = "pixels"  # image patches, projected linearly; input only
    GRID = "grid"  # a grid of codebook ids; masked at random
    SEQUENCE = "sequence"  # WordPiece ids; masked in spans
    EMBEDDING = "embedding"  # a sequence of float vectors, projected linearly; input only


class Storage(StrEnum):
    """How a label is kept in labels/LABEL/SHARD.parquet."""

    IMAGE = "image"  # uint8 picture as PNG bytes
    JSON = "json"  # anything JSON can say
    ARRAY = "array"  # float16 array as .npy bytes


class Form(StrEnum):
    """What the values of a label are: it decides how they are cropped, tokenized, judged and drawn."""

    COLORS = "colors"  # uint8 (H, W, 3): averaged when resampled
    EDGES = "edges"  # uint8 (H, W), 0 or 255: stay so, and thin
    CLASSES = "classes"  # uint8 (H, W), ids that are never mixed; 255 is none
    DEPTH = "depth"  # float16 (H, W) in [0, 1], 0 nearest
    DISTANCE = "distance"  # float16 (H, W), metres along the axis of view
    NORMALS = "normals"  # float16 (H, W, 3), unit vectors: x right, y up, z toward the viewer
    FEATURES = "features"  # float16 (h, w, C), a coarser grid over the whole frame
    VECTOR = "vector"  # float16 (D,), of the whole image
    SEQUENCE = "sequence"  # float16 (n, D), of the caption
    RECORD = "record"  # anything that JSON can say
    SERIES = "series"  # float32 (L, n), n values at each sample of a regular axis; NaN where there is none
    RASTER = "raster"  # float32 (H, W, n), bands of a sensor in its own unit; NaN where there is no value
    NUMBERS = "numbers"  # float32 (n,), one number or several, in their own unit
    COORDINATES = "coordinates"  # {name: number}, the eastern or x one first
    TIME = "time"  # {"time": ISO 8601, "year", "day" of it, and "hour" if asked}, UTC
    CATALOGUE = "catalogue"  # a list of {name: number or None}, a row for each object

    @property
    def is_record(self) -> bool:  # what JSON says, and no array
        return self in (Form.RECORD, Form.COORDINATES, Form.TIME, Form.CATALOGUE)


RASTER = "raster"  # the codec of pixels of n bands
OF_NO_PLACE = (Form.VECTOR, Form.SERIES, Form.NUMBERS)  # whose tokens are no grid
Size = int | tuple[int, int]  # along a side of a square, or (height, width), in pixels or tokens


def height_width(size: Size) -> tuple[int, int]:
    """Both sides of a size."""
    return size if isinstance(size, tuple) else (size, size)


def size_text(size: Size) -> str:
    """For people: 224, or 96 x 192."""
    height, width = height_width(size)
    return f"{height}" if height == width else f"{height} x {width}"


@dataclass(frozen=True)
class Label:
    """What a specialist says of a sample, at the frame of the source image.

    `specialist` is the default one: a name of pipelines/specialists/registry.py, or "package.module:Class" of your own.
    """

    name: str
    storage: Storage
    form: Form
    specialist: str
    summary: str


@dataclass(frozen=True)
class Modality:
    """One kind of tokens: where they come from, how they are made, how large they are.

    `patch_size` is how many pixels of a 224 px crop a token covers along a side, or samples of a series.
    `max_tokens` counts tokens of one crop at 224 px, with end-of-sequence for sequences.
    `spatial` tokens depend on the crop; the others (a caption) are stored once for each sample.
    `channels` is the number of input channels of the tokenizer of a grid.
    `hub_suffix` says whether the published name carries the resolution.
    `tokenizer` is the one that makes the tokens of a grid, if it is another modality's.
    `image_size` is the size of its crops in pixels, 0 for the run's.
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
    tokenizer: str = ""
    image_size: Size = 0
    length: int = 0  # samples of a series; of its tokens the last one may reach beyond them

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Names of the fitted tokenizers that its tokens come from: one of TOKENIZERS, the text tokenizer, or both."""
        if self.kind is Kind.GRID or self.codec == RASTER:
            return (self.tokenizer or self.name,)
        extra = {"poses": (BODY_POSE,), "instances": (SAM_MASK,), "catalogue": (self.name,)}.get(self.codec, ())
        return (TEXT, *extra) if self.kind is Kind.SEQUENCE else ()

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


def pixel_channels(modality: Modality | None) -> int:
    """Channels of a modality of pixels: 3, or the bands of a sensor."""
    return modality.channels if modality is not None and modality.codec == RASTER else 3


@dataclass(frozen=True)
class ModalitySpec:
    """A modality at the sizes of one run: what masking, loader and model need to know of it, and no more."""

    name: str
    kind: Kind
    vocab_size: int  # 0 for pixels and embeddings
    max_tokens: int  # rows of the position table
    input_dim: int = 0  # pixels: channels * patch^2; embeddings: width of a vector
    chunked: bool = False
    learned_positions: bool = False  # of global tokens and series, which are no grid
    columns: int = 0  # tokens in a row, of a grid that is no square

    @property
    def is_target(self) -> bool:
        return self.kind in (Kind.GRID, Kind.SEQUENCE)

    @property
    def channels(self) -> int:
        """Of pixels: 3, or the bands of a sensor."""
        return pixel_channels(MODALITIES.get(self.name))

    @property
    def has_bands(self) -> bool:
        """Whether its pixels are bands of a sensor: float16, standardized, and no picture."""
        return self.name in MODALITIES and MODALITIES[self.name].codec == RASTER

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens. ValueError if it is no grid."""
        side = math.isqrt(self.max_tokens)
        if not self.columns and side * side != self.max_tokens:
            raise ValueError(f"{self.name}: {self.max_tokens} tokens are no square grid")
        return (self.max_tokens // self.columns, self.columns) if self.columns else (side, side)

    @property
    def side(self) -> int:
        """Rows of a square grid. ValueError if it is none."""
        rows, columns = self.grid
        if rows != columns:
            raise ValueError(f"{self.name}: {rows} x {columns} tokens are no square grid")
        return rows

    def plain(self) -> dict[str, Any]:
        """Its fields, as files and fingerprints have them: `columns` came later, and is left out where it is 0."""
        return {name: value for name, value in asdict(self).items() if value or name != "columns"}


COCO_CLASSES, COCO_PANOPTIC_CLASSES, plain_class = coco.THINGS, coco.PANOPTIC, coco.plain_class
NO_CLASS = 255  # of a pixel in a class map that belongs to none
CLASS_NAMES = {"det": COCO_CLASSES, "semseg": COCO_PANOPTIC_CLASSES}  # of labels, unless the recipe says others


def class_names(label: str, lists: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The names of a label's classes by id, () if they have none.

    Args:
        lists: those of the recipe, by label (tokenize/class_lists.py).
    """
    return lists.get(label) or CLASS_NAMES.get(label, ())


WINDOW = "window"  # the label that says which part of an image was labelled
DUPLICATE = "duplicate"  # the label that is decided over the whole set


def _label(name: str, storage: Storage, form: Form, specialist: str, summary: str) -> tuple[str, Label]:
    return name, Label(name, storage, form, specialist, summary)


LABELS: dict[str, Label] = dict(
    (
        _label("rgb", Storage.IMAGE, Form.COLORS, "source", "the image itself, upright, 8-bit RGB"),
        _label("caption", Storage.JSON, Form.RECORD, "captions", "the caption that came with the image"),
        _label("t5_caption", Storage.ARRAY, Form.SEQUENCE, "t5", "T5 embeddings of the caption"),
        _label("det", Storage.JSON, Form.RECORD, "detector", "boxes with COCO class names and scores"),
        _label("depth", Storage.ARRAY, Form.DEPTH, "depth", "relative depth, 0 nearest to 1 farthest"),
        _label("normal", Storage.ARRAY, Form.NORMALS, "normals", "surface normals"),
        _label("semseg", Storage.IMAGE, Form.CLASSES, "panoptic", "COCO panoptic classes (133)"),
        _label("clip", Storage.ARRAY, Form.FEATURES, "clip", "CLIP-B/16 dense features"),
        _label("dinov2", Storage.ARRAY, Form.FEATURES, "dinov2", "DINOv2-B/14 dense features"),
        _label("dinov2_global", Storage.ARRAY, Form.VECTOR, "dinov2_global", "DINOv2-B/14 class token"),
        _label("imagebind", Storage.ARRAY, Form.FEATURES, "imagebind", "ImageBind-H/14 dense features"),
        _label("imagebind_global", Storage.ARRAY, Form.VECTOR, "imagebind_global", "ImageBind class token"),
        _label("sam_instance", Storage.JSON, Form.RECORD, "sam", "SAM instance masks"),
        _label("sam_edge", Storage.IMAGE, Form.EDGES, "sam_edges", "Canny edges of the SAM instance map"),
        _label("human_poses", Storage.JSON, Form.RECORD, "hmr2", "3-D human poses and shapes (SMPL)"),
        _label("canny_edge", Storage.IMAGE, Form.EDGES, "canny", "Canny edges of the image"),
        _label("color_palette", Storage.JSON, Form.RECORD, "palette", "palettes of 1 to 7 colours"),
        _label("metadata", Storage.JSON, Form.RECORD, "metadata", "sizes, counts and statistics"),
        # Beside those of 4M-21, for `labels.keep`, or for modalities of one's own.
        _label("metric_depth", Storage.ARRAY, Form.DISTANCE, "metric_depth", "depth in metres"),
        _label("open_det", Storage.JSON, Form.RECORD, "open_detector", "boxes of what the recipe names in words"),
        _label("vlm_caption", Storage.JSON, Form.RECORD, "vlm_captions", "a caption by a vision-language model"),
        # What samples are chosen by (docs/curation.md).
        _label("size", Storage.JSON, Form.RECORD, "size", "width, height and aspect of the image"),
        _label("borders", Storage.JSON, Form.RECORD, "borders", "bars of one colour around the photo"),
        _label("watermark", Storage.JSON, Form.RECORD, "score", "probability of a watermark"),
        _label("aesthetic", Storage.JSON, Form.RECORD, "score", "aesthetic score, about 1 to 10"),
        _label("nsfw", Storage.JSON, Form.RECORD, "score", "probability of unsafe content"),
        _label("similarity", Storage.JSON, Form.RECORD, "score", "cosine of image and caption by CLIP"),
        _label("signature", Storage.ARRAY, Form.RECORD, "signature", "a small picture, for its hashes"),
        _label(DUPLICATE, Storage.JSON, Form.RECORD, "duplicates", "which earlier sample it is a copy of"),
        _label("clip_global", Storage.ARRAY, Form.VECTOR, "clip_global", "CLIP-L/14 embedding"),
        _label(WINDOW, Storage.JSON, Form.RECORD, "window", "which part of the image was labelled"),
    )
)


def _grid(
    name: str, label: str, vocab_size: int, summary: str, patch_size: int = 16, channels: int = 3, tokenizer: str = ""
) -> Modality:
    """Global tokens count as a grid of 4 x 4, as in the published checkpoints, but are of the image and of no crop."""
    tokens = (224 // patch_size) ** 2
    dense = LABELS[label].form is not Form.VECTOR
    return Modality(
        name, label, Kind.GRID, "vq", vocab_size, tokens, summary, patch_size, channels, dense,
        hub_suffix=dense, tokenizer=tokenizer,
    )  # fmt: skip


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
        _grid("tok_imagebind_global", "imagebind_global", 8_192, "ImageBind global tokens", 56, 1280),
        _grid("tok_canny_edge", "canny_edge", 8_192, "Canny edge tokens", channels=1),
        _grid("tok_sam_edge", "sam_edge", 8_192, "SAM edge tokens", channels=1, tokenizer="tok_canny_edge"),
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


def _at(name: str, image_size: int) -> Modality:
    """A modality at a resolution of its own, whatever the run's: of the same crops, by the same tokenizer."""
    base = MODALITIES[name]
    return replace(
        base,
        name=f"{name}@{image_size}",
        max_tokens=(image_size // base.patch_size) ** 2,
        summary=f"{base.summary} at {image_size} px",
        hub_suffix=False,
        tokenizer=base.tokenizers[0] if base.kind is Kind.GRID else "",
        image_size=image_size,
    )


# Super-resolution reads 224 px and predicts 448 px (4M, section on generation).
MODALITIES |= {
    modality.name: modality
    for modality in (_at(name, 448) for name in ("rgb", "tok_rgb", "tok_depth", "tok_normal", "tok_semseg", "tok_clip"))
}


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with a codebook: fitted on one label, kept in tokenizers/NAME/.

    form: of what it encodes; of the masks and poses inside of records it is CLASSES and VECTOR.
    channels: of its input as published; class maps have one. A fit takes them from the label.
    n_labels: classes of a class map, "none" among them as class 0; 0 for other forms.
    patch_size: pixels that a token covers along a side at 224 px; 0 for vectors, whose tokens have no place.
    image_size: of its input in pixels, 0 for that of the run's crops. length: of a series, in samples.
    vocab_size: 0 for pixels of a sensor, of which the statistics of its bands alone are fitted.
    """

    name: str
    label: str
    form: Form
    channels: int
    vocab_size: int
    tokens: int
    patch_size: int = 0
    n_labels: int = 0
    image_size: Size = 0
    length: int = 0

    @property
    def is_table(self) -> bool:
        """Whether it is a table of statistics or quantiles, and no network."""
        return not self.vocab_size or self.form is Form.NUMBERS


TEXT = "text"  # WordPiece, which serves all sequences, is fitted and stored under this name
SAM_MASK = "sam_mask"  # masks of SAM instances, 64 x 64 within their box
BODY_POSE = "body_pose"  # 23 rotation matrices of a SMPL body


def _tokenizer(modality: Modality) -> Tokenizer:
    form = LABELS[modality.label].form
    patch = 0 if form in (Form.VECTOR, Form.NUMBERS) else modality.patch_size
    n_labels = len(COCO_PANOPTIC_CLASSES) + 1 if form is Form.CLASSES else 0
    sizes = (modality.channels, modality.vocab_size, modality.max_tokens, patch, n_labels, 0, modality.length)
    return Tokenizer(modality.name, modality.label, form, *sizes)


# The fitted tokenizers of 4M-21 (table 5) but for the text's.
TOKENIZERS: dict[str, Tokenizer] = {
    tokenizer.name: tokenizer
    for tokenizer in (
        *(_tokenizer(modality) for modality in MODALITIES.values() if modality.tokenizers == (modality.name,)),
        Tokenizer(SAM_MASK, "sam_instance", Form.CLASSES, 1, 1_024, 16, patch_size=16, n_labels=2, image_size=64),
        Tokenizer(BODY_POSE, "human_poses", Form.VECTOR, 207, 1_024, 8),
    )
}


def declare(*entries: Label | Modality) -> None:
    """Add labels and modalities, from a module of your own that a recipe names in `modules`; the same again is ignored.

    Raises:
        ValueError: the name is taken, or the label of a modality is unknown.

    Examples:
        >>> fourmill.declare(
        ...     fourmill.Label("alt", fourmill.Storage.JSON, fourmill.Form.RECORD, "alt:Alt", "text of the page"),
        ...     fourmill.Modality("alt", "alt", fourmill.Kind.SEQUENCE, "wordpiece", 30_000, 64, "text", spatial=False),
        ... )
    """
    for entry in entries:
        table: dict[str, Any] = LABELS if isinstance(entry, Label) else MODALITIES
        if table.get(entry.name, entry) != entry:
            raise ValueError(f"{entry.name}: there is another declaration of this name; choose another name")
        if isinstance(entry, Modality) and entry.label not in LABELS:
            raise ValueError(f"{entry.name}: there is no label {entry.label!r}; declare it before the modality")
        table[entry.name] = entry
        if isinstance(entry, Modality) and entry.tokenizers == (entry.name,):
            TOKENIZERS[entry.name] = _tokenizer(entry)


class Declares(Protocol):
    """What adds entries to the tables by itself: the sensors of a recipe."""

    def declare(self) -> None: ...


def import_modules(names: Iterable[str | Declares]) -> None:
    """Import the modules in which a recipe's own modalities are declared, and declare its sensors. ValueError if a
    module cannot be imported, or a name is taken."""
    for name in names:
        if not isinstance(name, str):
            name.declare()
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"modules: cannot import {name!r}: {error}; set PYTHONPATH to the folder that holds it, or install it"
            ) from None


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
    tokens, columns = modality.max_tokens, 0
    patch, (height, width) = patch_size or modality.patch_size, height_width(modality.image_size or image_size)
    form = LABELS[modality.label].form
    no_grid = modality.kind is Kind.GRID and form in OF_NO_PLACE
    if no_grid and form is Form.SERIES:
        samples = modality.length or modality.max_tokens * modality.patch_size
        tokens = -(-samples // patch)
    elif modality.kind in (Kind.PIXELS, Kind.GRID) and not no_grid:
        if height % patch or width % patch:
            raise ValueError(
                f"{name}: an image of {size_text((height, width))} px does not divide into patches of {patch} px"
            )
        tokens = (height // patch) * (width // patch)
        columns = 0 if height == width else width // patch
    if modality.kind is Kind.PIXELS:
        input_dim = pixel_channels(modality) * patch * patch
    elif modality.kind is Kind.EMBEDDING:
        input_dim = input_dim or 4096
    vocab = (vocab_size or modality.vocab_size) if modality.is_target else 0
    return ModalitySpec(name, modality.kind, vocab, tokens, input_dim, modality.chunked, no_grid, columns)
