"""The settings of fitted tokenizers, and 4M-21's own for each of them.

Decisions:
- A tokenizer's settings are its row of ROWS (4M-21, table 5 and appendix), overridden by the recipe's `common`, which
  is for all, and then by `each.NAME`. What makes no sense for a form (a patch size for vectors, a loss for class maps)
  is not taken from `common`, so that one line can shrink all tokenizers of a small run.
- The paper counts epochs. A step is a step here: an epoch is taken as 10 M samples of CC12M at batches of 256.
- 16 tokens of a global vector come from 16 books of codes, 8 of a body pose from 8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from ..infra.explain import explain
from ..infra.fields import Beta, Count, Positive, Rate, Section, Share, Weight, check_heads
from ..infra.versions import Part
from ..modalities import BODY_POSE, LABELS, SAM_MASK, TOKENIZERS, Form, height_width
from ..sensors.parts import VALUE_WORDS
from . import frames
from .networks import quantizers
from .networks.stages import ConvNeXtSize
from .published.finished import FinishedSettings

# Settings that change how a fit is done, or measured, and not what comes out.
OPERATIONS = frozenset({"checkpoint_every", "compile", "validation_samples", "validation_steps"})
NOT_OF_FITS = OPERATIONS | {"encoding"}  # which columns depend on
PICTURES = (Form.COLORS, Form.EDGES, Form.DEPTH, Form.NORMALS, Form.RASTER)


_FEWEST_WORDS = 4_500  # of a vocabulary that is fitted: 4M's special words alone are nearly 4,300
_LEAST_RATE = 0.1  # share of a learning rate that a fit must reach
_GROUPS = 32  # channels of a diffusion decoder are normalized in so many groups
_SCHEDULE = r"^(linear|scaled_linear|squaredcos_cap_v2|sigmoid|shifted_cosine:[0-9]+(\.[0-9]+)?)$"


# Raise FIT_VERSION when the same settings fit other tokenizers than before, and say in FIT_CHANGES what is other.
FIT_VERSION = 2
FIRST_FIT_VERSION = 2
FIT_CHANGES: dict[int, str] = {}


def fit_part(name: str) -> Part:
    """What a record says of the version of the code that fitted a tokenizer."""
    return Part(f"tokenizers/{name}", FIT_VERSION, FIRST_FIT_VERSION, FIT_CHANGES)


@dataclass(frozen=True)
class Precision:
    """In what a tokenizer encodes: as `asked`, or with "auto" in what it was `fitted` in on a GPU, else in float32."""

    asked: str
    fitted: str = "fp32"

    def on(self, device: str) -> str:
        """fp32, bf16 or fp16."""
        if self.asked != "auto":
            return self.asked
        return self.fitted if device.startswith("cuda") else "fp32"


FLOAT32 = Precision("fp32")


class Resolutions(BaseModel):
    """Multi-resolution adaptation after the fit: each batch at another size, positions interpolated (4M: 224 to 448).

    Crops are cached at the largest size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = tuple(range(224, 449, 32))
    steps: Positive = 195_000
    base_lr: Rate = 5e-5
    warmup_steps: Count | None = None  # a fifth of the steps unless given

    @property
    def warmup(self) -> int:
        return self.steps // 5 if self.warmup_steps is None else self.warmup_steps


class TokenizerSettings(FinishedSettings):
    """A tokenizer and how it is fitted; the defaults are ViT-B's. `docs/recipe.md` says what each field means.

    `base_lr` is for a batch of 256 and scaled linearly, as in the paper. `samples` are the crops (of masks and poses:
    the instances in them) that are fitted on, evenly from the training shards, cached on local disk.
    """

    codebook_size: Annotated[int, Field(gt=1, le=65_536)] | None = None  # the registry's unless given
    patch_size: Positive | None = None  # of pictures the images', else the registry's, unless given
    latent_dim: Positive = 32
    class_dim: Positive = 64  # width of the embedding of a class
    dim: Positive = 768
    encoder_depth: Positive = 12
    decoder_depth: Positive = 12
    heads: Positive = 12
    network: Literal["vit", "convnext"] = "vit"  # of series; both ways
    decoder: Literal["vit", "unet", "uvit"] = "vit"
    out_conv: bool = True
    unet_channels: Positive = 256
    unet_multipliers: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 2, 2)
    unet_blocks: Positive = 3
    unet_attention: tuple[Positive, ...] = (4, 8)
    uvit_channels: Annotated[tuple[Positive, ...], Field(min_length=1)] = (128, 256)
    decoder_patch_size: Positive = 4
    prediction: Literal["sample", "epsilon", "v_prediction"] = "sample"
    noise_schedule: Annotated[str, Field(pattern=_SCHEDULE)] = "linear"
    zero_terminal_snr: bool = False
    thresholding: bool = False
    clip_sample: bool = False
    guidance_dropout: Share = 0.0
    loss: Literal["mse", "l1", "smooth_l1", "cosine", "cross_entropy"] = "mse"
    gradient_weight: Weight = 0.0
    perceptual_weight: Weight = 0.0
    perceptual_backbone: str | None = None  # local file: torchvision's VGG-16
    norm_latents: bool = False
    warm_start: bool = False  # begin as principal components of patches; for fits of minutes
    ema_decay: Beta = 0.99
    dead_code_coefficient: Weight = 32.0
    average: Beta = 0.99  # EMA of the weights that are kept in the end
    steps: Positive = 780_000
    batch_size: Positive = 256  # over all workers
    accumulate: Positive = 1
    base_lr: Rate = 1e-4
    warmup_steps: Count = 195_000
    weight_decay: Weight = 0.05
    clip_norm: Weight = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    encoding: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of labels; auto: `precision` on a GPU, else fp32
    compile: bool | None = None  # on CUDA unless said
    hflip: Share = 0.5
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.8
    frame: str | None = None  # of normals that it reads and gives, if it is not the declared one
    color_jitter: Share = 0.0  # of RGB; for small corpora, which lack colours
    resolutions: Resolutions | None = None
    samples: Positive = 100_000
    validation_samples: Positive = 512
    validation_steps: Annotated[int, Field(gt=0, le=1_000)] = 25  # of DDIM, while quality is measured
    checkpoint_every: Positive = 1_000

    later: ClassVar[dict[str, Any]] = {
        "frame": None, "quantizer": None, "levels": None, "entropy_weight": None, "network": "vit", "mean": None,
        "std": None,
    }  # fmt: skip

    @field_validator("frame")
    @classmethod
    def _is_a_frame(cls, frame: str | None) -> str | None:
        return None if frame is None or frames.canonical(frame) == frames.DECLARED else frames.canonical(frame)

    @model_validator(mode="after")
    def _fits_together(self) -> TokenizerSettings:
        check_heads(self.dim, self.heads)
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size: {self.batch_size} does not divide into {self.accumulate} parts (accumulate)")
        for field, widths in (("unet_channels", (self.unet_channels,)), ("uvit_channels", self.uvit_channels)):
            if any(width % _GROUPS for width in widths):
                raise ValueError(f"{field}: got {getattr(self, field)}; expected multiples of {_GROUPS}")
        kind, _, shift = self.noise_schedule.partition(":")
        if shift and not float(shift):
            raise ValueError(f"noise_schedule: got {self.noise_schedule}; expected a shift above 0")
        if self.prediction == "epsilon" and (self.zero_terminal_snr or shift):
            why = f"{kind} ends there, take another noise_schedule" if shift else "switch zero_terminal_snr off"
            raise ValueError(f"prediction: epsilon cannot start from noise alone; {why}")
        if self.perceptual_weight and self.perceptual_backbone is None:
            raise ValueError(
                "perceptual_weight: LPIPS needs perceptual_backbone, the path of torchvision's VGG-16 weights "
                "(vgg16-397923af.pth); nothing is downloaded unasked"
            )
        return self

    @property
    def multiple(self) -> int:
        """What the sides of its pictures must be multiples of, in pixels."""
        patch = self.patch_size or 1
        if self.decoder == "vit":
            return patch
        # A UViT halves once more before its transformer.
        halvings = len(self.unet_multipliers) - 1 if self.decoder == "unet" else len(self.uvit_channels)
        return math.lcm(patch, self.decoder_patch_size * 2**halvings)

    @property
    def encodes_in(self) -> Precision:
        """In what it encodes labels."""
        return Precision(self.encoding, self.precision)

    @property
    def total_steps(self) -> int:
        """With those of the adaptation to other resolutions."""
        return self.steps + (self.resolutions.steps if self.resolutions else 0)


_EPOCH = 39_000  # steps: 10 M samples at batches of 256


def _row(epochs: int, **settings: Any) -> dict[str, Any]:
    return {"steps": epochs * _EPOCH, "warmup_steps": 5 * _EPOCH} | settings


def _diffusion(epochs: int, loss: str, **settings: Any) -> dict[str, Any]:
    """ViT-B encoder, patched UNet decoder that predicts the sample."""
    return _row(epochs, decoder="unet", loss=loss, precision="fp16", average=0.9999, **settings)


def _vit(epochs: int, loss: str, **settings: Any) -> dict[str, Any]:
    return _row(epochs, decoder="vit", loss=loss, precision="bf16", out_conv=False, **settings)


def _mlp(epochs: int, loss: str, **settings: Any) -> dict[str, Any]:
    """Bottleneck MLP of 6 blocks, 1024 wide, with Memcodes."""
    sizes = {"dim": 1024, "encoder_depth": 6, "decoder_depth": 6, "heads": 1, "latent_dim": 1024}
    return _row(epochs, loss=loss, precision="bf16", **sizes, **settings)


_FEATURES = {"crop_scale": 0.2}  # features are of other crops than pictures

# tokenizer: epochs, loss, what is its own. 4M-21, table 5 and appendix.
ROWS: dict[str, dict[str, Any]] = {
    "tok_rgb": _diffusion(50, "mse", clip_sample=True),
    "tok_depth": _diffusion(20, "smooth_l1"),
    "tok_normal": _diffusion(20, "mse"),
    "tok_canny_edge": _diffusion(50, "smooth_l1", base_lr=5e-5),
    "tok_semseg": _vit(20, "cross_entropy"),
    "tok_clip": _vit(20, "smooth_l1", **_FEATURES),
    "tok_dinov2": _vit(20, "smooth_l1", **_FEATURES),
    "tok_imagebind": _vit(20, "smooth_l1", **_FEATURES),
    "tok_dinov2_global": _mlp(15, "cosine", **_FEATURES),
    "tok_imagebind_global": _mlp(15, "cosine", **_FEATURES),
    SAM_MASK: _vit(24, "cross_entropy", latent_dim=1024, average=0.0) | {"out_conv": True, "precision": "fp16"},
    BODY_POSE: _mlp(15, "smooth_l1", warmup_steps=_EPOCH),
}


def row(name: str) -> dict[str, Any]:
    """4M-21's settings of a tokenizer; of one that you declared those of its form."""
    form = TOKENIZERS[name].form
    own = {
        Form.CLASSES: ROWS["tok_semseg"], Form.FEATURES: ROWS["tok_clip"], Form.VECTOR: ROWS["tok_dinov2_global"],
        Form.SERIES: _vit(50, "mse", hflip=0.0, crop_scale=1.0),  # a series is not cut, and never turned round
    }  # fmt: skip
    return ROWS.get(name) or own.get(form, ROWS["tok_normal"])


_OF_COLORS = frozenset({"perceptual_weight", "perceptual_backbone", "color_jitter"})
_OF_DIFFUSION = frozenset({
    "unet_channels", "unet_multipliers", "unet_blocks", "unet_attention", "uvit_channels", "decoder_patch_size",
    "prediction", "noise_schedule", "zero_terminal_snr", "thresholding", "clip_sample", "guidance_dropout",
    "validation_steps",
})  # fmt: skip
_OF_PICTURES = _OF_DIFFUSION | {"decoder", "gradient_weight"}
_OF_NORMALS = frozenset({"frame"})
_OF_SERIES = frozenset({"network"})
_OF_CODEBOOKS = frozenset({"ema_decay", "dead_code_coefficient", "norm_latents"})  # which Memcodes do not have
_OF_SENTENCES = frozenset({"quantizer", "levels", "entropy_weight"})  # their ids are words, of which there are few

_OF_TABLES = frozenset({"samples", "validation_samples", "hflip", "crop_scale"})  # and a codebook_size of quantiles

_USELESS: dict[Form, frozenset[str]] = {
    Form.COLORS: _OF_SERIES | _OF_NORMALS | {"class_dim"},
    Form.NORMALS: _OF_SERIES | _OF_COLORS | {"class_dim"},
    **dict.fromkeys(
        (Form.EDGES, Form.DEPTH, Form.DISTANCE, Form.RASTER), _OF_SERIES | _OF_COLORS | _OF_NORMALS | {"class_dim"}
    ),
    Form.CLASSES: _OF_SERIES | _OF_COLORS | _OF_NORMALS | _OF_PICTURES | {"loss", "warm_start"},
    Form.FEATURES: _OF_SERIES | _OF_COLORS | _OF_NORMALS | _OF_PICTURES | {"class_dim", "resolutions"},
    Form.VECTOR: _OF_SERIES | _OF_COLORS | _OF_NORMALS | _OF_PICTURES | _OF_CODEBOOKS
    | {"class_dim", "resolutions", "patch_size", "heads", "out_conv", "warm_start"},
    Form.SERIES: _OF_COLORS | _OF_NORMALS | _OF_DIFFUSION
    | {"decoder", "class_dim", "resolutions", "crop_scale", "hflip", "out_conv", "warm_start"},
}  # fmt: skip


def useless(name: str) -> frozenset[str]:
    """Settings that a tokenizer has no use for."""
    entry = TOKENIZERS[name]
    if entry.is_table:
        of_quantiles = {"codebook_size", "weights", "revision"} if entry.vocab_size else set()
        return frozenset(TokenizerSettings.model_fields) - _OF_TABLES - of_quantiles
    return _USELESS[entry.form] | ({"resolutions"} if entry.image_size else set())


def _its_own(name: str) -> frozenset[str]:
    """Settings that mean another thing for it than for pictures, so that `common` does not set them."""
    entry = TOKENIZERS[name]
    coded = _OF_SENTENCES if name in (SAM_MASK, BODY_POSE) else frozenset[str]()
    if entry.form is Form.VECTOR:
        return coded | {"latent_dim"}
    if _is_catalogue(name):  # whose codes are words
        return coded | {"codebook_size"}
    own_patch = entry.form in (Form.FEATURES, Form.SERIES) or entry.image_size
    return coded | ({"patch_size"} if own_patch else set())


def _is_catalogue(name: str) -> bool:
    return LABELS[TOKENIZERS[name].label].form is Form.CATALOGUE


def quantizer(name: str, settings: TokenizerSettings) -> str:
    """The quantizer of a tokenizer."""
    return settings.quantizer or _usual(name)


def _usual(name: str) -> str:
    return "memcodes" if TOKENIZERS[name].form is Form.VECTOR else "vq"


def warm_starts(name: str, settings: TokenizerSettings) -> bool:
    """Whether a fit begins as principal components: those of pictures and features with vq and a ViT decoder can."""
    linear = TOKENIZERS[name].form not in (Form.CLASSES, Form.VECTOR, Form.SERIES) and settings.decoder == "vit"
    return settings.warm_start and linear and quantizer(name, settings) == "vq"


def merge(name: str, common: Mapping[str, Any], own: Mapping[str, Any]) -> TokenizerSettings:
    """The settings of one tokenizer. ValueError with the place of each mistake."""
    apply = {field: value for field, value in common.items() if field not in useless(name) | _its_own(name)}
    paper, given = row(name), {**apply, **own}
    if isinstance(given.get("steps"), int):  # a shorter fit warms up for the same share of it
        given = {"warmup_steps": round(paper["warmup_steps"] / paper["steps"] * given["steps"])} | given
    try:
        settings = TokenizerSettings.model_validate({**paper, **given})
    except ValidationError as error:
        raise ValueError(explain(error, f"each.{name}", TokenizerSettings)) from None
    if settings.weights is not None:  # its sizes are its own, and levels those that are said of it
        return settings if "levels" in own else settings.model_copy(update={"levels": None})
    entry = TOKENIZERS[name]
    books = entry.tokens if entry.form is Form.VECTOR else 1
    try:
        follows = quantizers.settled(settings, own, entry.vocab_size, books, _usual(name))
    except ValueError as error:
        raise ValueError(f"each.{name}.{error}") from None
    return settings.model_copy(update=follows)


class TextTokenizer(Section):
    """WordPiece for all text modalities, fitted on the captions; 4M's vocabulary has 30,000 entries.

    A small corpus may fill fewer. `captions` is how many are looked at, evenly from the training shards. A finished
    vocabulary, `weights`, is of its own size.
    """

    weights: str | None = None  # a finished vocabulary instead of a fit: local file or folder, or hub id
    revision: str | None = None
    vocab_size: Annotated[int, Field(gt=1, le=65_536)] = 30_000
    captions: Positive = 1_000_000

    later = {"weights": None, "revision": None}

    @field_validator("vocab_size")
    @classmethod
    def _has_room_for_special_words(cls, size: int, info: ValidationInfo) -> int:
        if info.data.get("weights") is None and size < _FEWEST_WORDS:
            raise ValueError(f"Input should be greater than or equal to {_FEWEST_WORDS}, got {size}")
        return size


class Tokenizers(Section):
    """`text` serves all sequences; `common` holds settings of all other fitted tokenizers, and `each` what differs in
    one, by its name in `modalities.TOKENIZERS`. What neither says is 4M-21's, see `ROWS`."""

    text: TextTokenizer = TextTokenizer()
    min_box_score: Share = 0.6  # detections below it are not written into `det` (4M: 0.6)
    embedding_dim: Positive = 4096  # width of caption embeddings; T5-XXL's
    common: dict[str, Any] = {}
    each: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _settings_are_typed(self) -> Tokenizers:
        try:
            TokenizerSettings.model_validate(self.common)
        except ValidationError as error:
            raise ValueError(explain(error, "common", TokenizerSettings)) from None
        if alone := sorted(self.common.keys() & FinishedSettings.__annotations__.keys()):
            raise ValueError(f"common: {alone[0]} is of one tokenizer; set it in tokenizers.each")
        for name in TOKENIZERS.keys() & self.each.keys():
            self.of(name)
        return self

    def of(self, name: str) -> TokenizerSettings:
        """The settings of one tokenizer: its row, overridden by `common` where that applies, and by `each`."""
        return merge(name, self.common, self.each.get(name, {}))


def never_warm(settings: TokenizerSettings) -> str:
    """Why a fit with these settings would learn next to nothing, "" if it does."""
    reached = (settings.steps - 1) / max(settings.warmup_steps, 1)  # share of the rate at the last step of a warm-up
    if settings.weights is not None or settings.warmup_steps < settings.steps or reached >= _LEAST_RATE:
        return ""
    return (
        f"warmup_steps: {settings.warmup_steps} of {settings.steps} steps, in which the learning rate gets to "
        f"{reached:.0%} of what is asked for; give fewer, or leave warmup_steps out"
    )


# Channels of the pictures that a tokenizer of each form reads.
CHANNELS = {Form.COLORS: 3, Form.NORMALS: 3, Form.EDGES: 1, Form.DEPTH: 1}


def check(tokenizers: Tokenizers, name: str, settings: TokenizerSettings, image_size: int) -> None:
    """ValueError if one tokenizer cannot be fitted as the recipe says.

    Args:
        settings: of the tokenizer, with its sizes, see `Recipe.tokenizer`.
        image_size: side of the run's crops, in pixels.
    """
    entry, where = TOKENIZERS[name], f"tokenizers, {name}"
    if entry.form is Form.DISTANCE:
        raise ValueError(
            f"{where}: no tokenizer here keeps metres; 4M's of depth loses the unit. Keep {entry.label} as a label "
            "(labels.keep), and take tok_depth for tokens"
        )
    if idle := sorted(useless(name) & tokenizers.each.get(name, {}).keys()):
        raise ValueError(f"{where}: {idle[0]} has no meaning for {entry.form.value}; leave it out")
    if _is_catalogue(name) and not 1 < (settings.codebook_size or 0) <= VALUE_WORDS:
        raise ValueError(
            f"{where}: codebook_size {settings.codebook_size}; sentences have words for {VALUE_WORDS} codes"
        )
    if settings.weights is not None or entry.is_table:
        return
    if why := quantizers.idle(quantizer(name, settings), tokenizers.each.get(name, {})):
        raise ValueError(f"{where}: {why}")
    if entry.form is Form.VECTOR and settings.quantizer == "vq":
        raise ValueError(f"{where}: vq gives one code of a latent, a vector has {entry.tokens}; take memcodes or fsq")
    if settings.dim % 4 and entry.form is not Form.VECTOR:
        raise ValueError(f"{where}: dim {settings.dim} is no multiple of 4, which 2-D positions need")
    if entry.form is Form.SERIES and settings.network == "convnext":
        for depth in (settings.encoder_depth, settings.decoder_depth):
            try:
                ConvNeXtSize.of_patch(settings.patch_size or 1, settings.dim, depth)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
    if entry.form is Form.VECTOR and settings.latent_dim % entry.tokens:
        raise ValueError(
            f"{where}: latent_dim {settings.latent_dim} does not divide among the {entry.tokens} tokens of a vector"
        )
    if settings.loss == "cross_entropy" and entry.form is not Form.CLASSES:
        raise ValueError(f"{where}: cross_entropy is a loss of class maps, {entry.form.value} take mse, l1, ...")
    if warm_starts(name, settings):
        pixels = (settings.patch_size or 1) ** 2
        # How wide features are is known when they come.
        channels = CHANNELS.get(entry.form) or entry.channels
        values = settings.latent_dim if entry.form is Form.FEATURES else channels * pixels
        if not 2 <= settings.latent_dim <= min(settings.dim, values):
            raise ValueError(
                f"{where}: warm_start needs a latent_dim of 2 to {min(settings.dim, values)}, got {settings.latent_dim}"
            )
    later = settings.resolutions.sizes if settings.resolutions else ()
    here = height_width(entry.image_size or image_size) if entry.form in PICTURES else ()
    for size in (*here, *later):
        if size % settings.multiple:
            raise ValueError(
                f"{where}: its {settings.decoder} decoder needs images whose sides are multiples of "
                f"{settings.multiple} px, got {size}; see patch_size and decoder_patch_size, or take decoder: vit"
            )
