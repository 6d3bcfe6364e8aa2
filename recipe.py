"""The recipe: one YAML file that describes a whole run, typed, with errors a person can act on.

Every verb loads it with `load`; everything wrong is found here (or when the specialists read their own options), all
at once and before any process starts. Values that change a result are part of the fingerprints that the plan
computes; values below `engine` never are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from . import modalities as registry
from .infra.explain import explain
from .modalities import MODALITIES, Kind, ModalitySpec
from .recipe_checks import check


class RecipeError(ValueError):
    """The recipe cannot be used; the text says where, what was got, and what would do."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


UrlList = Annotated[list[str], BeforeValidator(_as_list)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Alpha = Annotated[float, Field(ge=0, lt=1e9)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        # YAML reads a section whose fields are all commented out as null.
        return {} if value is None else value


class Samples(Section):
    """Where the source shards are. Each field takes a URL, a brace pattern, a glob, a folder, or a list of these."""

    train: UrlList
    val: UrlList = []


class Images(Section):
    """How images are read and cropped. `size` is the side of a crop in pixels, 4M's 224 unless you know better."""

    size: Positive = 224
    patch_size: Positive = 16
    crops: Positive = 1  # crop 0 is the centre crop; the others are random
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.8  # least share of the largest square that a random crop covers
    hflip: Share = 0.5
    max_pixels: Positive = 100_000_000  # larger images are refused before they are decoded
    pixel_format: Literal["jpeg", "png"] = "jpeg"  # of the `rgb` column
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95


class Labels(Section):
    """Which labels are kept raw in labels/, and each specialist's options (`specialist: module:Class` swaps it)."""

    keep: list[str] = []
    specialists: dict[str, dict[str, Any]] = {}


def _check_heads(dim: int, heads: int) -> None:
    if dim % heads:
        raise ValueError(f"dim: {dim} does not divide among {heads} heads")


class TextTokenizer(Section):
    """WordPiece for all text modalities, fitted on the captions; 4M's vocabulary has 30,000 entries.

    A small corpus may fill fewer. `captions` is how many are looked at, evenly from the training shards.
    """

    vocab_size: Annotated[int, Field(ge=4_500, le=65_536)] = 30_000  # 4M's special words alone are nearly 4,300
    captions: Positive = 1_000_000


class GridTokenizer(Section):
    """A VQ-VAE with ViT encoder and decoder, and how it is fitted (4M-21, appendix; the defaults are ViT-B's).

    `base_lr` is for a batch of 256 and scaled linearly, as in the paper. `samples` are the crops that are fitted on,
    taken evenly from the training shards and cached on local disk. `gradient_weight` adds the error of image
    gradients, for decoders without diffusion.
    """

    codebook_size: Annotated[int, Field(gt=1, le=65_536)] | None = None  # the registry's unless given
    patch_size: Positive | None = None  # the images' unless given
    latent_dim: Positive = 32
    dim: Positive = 768
    encoder_depth: Positive = 12
    decoder_depth: Positive = 12
    heads: Positive = 12
    out_conv: bool = True
    loss: Literal["mse", "l1", "smooth_l1"] = "mse"
    gradient_weight: Annotated[float, Field(ge=0)] = 0.0
    norm_latents: bool = False
    warm_start: bool = False  # begin as principal components of patches; for fits of minutes
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    dead_code_coefficient: Annotated[float, Field(ge=0)] = 32.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99  # EMA of the weights that are kept in the end
    steps: Positive = 100_000
    batch_size: Positive = 256  # over all workers
    base_lr: Annotated[float, Field(gt=0)] = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 2_000
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    hflip: Share = 0.5
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.8
    color_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0  # of RGB; for small corpora, which lack colours
    samples: Positive = 100_000
    validation_samples: Positive = 512
    checkpoint_every: Positive = 1_000

    @model_validator(mode="after")
    def _heads_divide(self) -> GridTokenizer:
        _check_heads(self.dim, self.heads)
        return self


class Tokenizers(Section):
    """`text` serves all sequences; `grid` holds the settings of all fitted grids, and `grids` what differs in one."""

    text: TextTokenizer = TextTokenizer()
    min_box_score: Share = 0.6  # detections below it are not written into `det` (4M: 0.6)
    grid: dict[str, Any] = {}
    grids: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _grids_are_typed(self) -> Tokenizers:
        merged = {f"grids.{name}": {**self.grid, **settings} for name, settings in self.grids.items()}
        for place, settings in {"grid": self.grid, **merged}.items():
            try:
                GridTokenizer.model_validate(settings)
            except ValidationError as error:
                raise ValueError(explain(error, place, GridTokenizer)) from None
        return self

    def of(self, modality: str) -> GridTokenizer:
        """The settings of one grid modality: `grid`, overridden by `grids[modality]`."""
        return GridTokenizer.model_validate({**self.grid, **self.grids.get(modality, {})})


class Engine(Section):
    """How work is spread. None of it changes a result."""

    address: str | None = None  # of a running Ray cluster ("auto"); a local one is started otherwise
    actors: Positive | None = None  # as many as the cluster's CPUs (or GPUs) allow unless given
    cpus: Annotated[float, Field(gt=0)] | None = None  # for each actor; what its specialists declare unless given
    gpus: Annotated[float, Field(ge=0)] | None = None
    decode_threads: Positive = 2
    batch_size: Positive = 32
    attempts: Positive = 3  # a shard whose actor dies this often is given up
    max_reject_run: Positive = 1_000  # so many rejects of one output in a row stop the job


class Mixture(Section):
    """One Dirichlet mixture of 4M's masking: concentrations for each modality (a number serves all)."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    input_alpha: Alpha | dict[str, Alpha] = 1.0
    target_alpha: Alpha | dict[str, Alpha] = 1.0
    keep: Literal["random", "all", "binary"] | dict[str, Literal["random", "all", "binary"]] = "random"


class Model(Section):
    """Sizes of the 4M transformer; the defaults are 4M-B (12 + 12 layers, 768 wide, SwiGLU without biases)."""

    dim: Positive = 768
    encoder_depth: Positive = 12
    decoder_depth: Positive = 12
    heads: Positive = 12
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    qk_norm: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> Model:
        _check_heads(self.dim, self.heads)
        return self


class Fit(Section):
    """Workers that fit the tokenizers.

    `share` says what they share: "tokenizers" gives each worker whole tokenizers, which are then the same on any number
    of workers; "batches" gives each worker a part of every batch of every tokenizer.
    """

    workers: Positive = 1
    share: Literal["tokenizers", "batches"] = "tokenizers"
    cpus: Annotated[float, Field(gt=0)] | None = None  # for each worker; all of the cluster's unless given
    gpus: Annotated[float, Field(ge=0)] = 0.0


class Train(Section):
    """Training of 4M (4M-21, table 6). `base_lr` is for a batch of 256 and scaled linearly, as in the paper."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] = "4m"  # of the run's folder
    model: Model = Model()
    input_tokens: Positive | tuple[Positive, Positive] = 128
    target_tokens: Positive | tuple[Positive, Positive] = 128
    mixtures: Annotated[list[Mixture], Field(min_length=1)] = [Mixture()]
    redistribute: bool = True  # give the unused budget of short modalities to the others
    batch_size: Positive = 256
    repeat: Positive = 1  # each sample that is read trains so many times, under other masks (4M: 4)
    steps: Positive = 100_000
    warmup_steps: Annotated[int, Field(ge=0)] = 2_000
    base_lr: Annotated[float, Field(gt=0)] = 1e-4
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    workers: Positive = 1
    cpus: Annotated[float, Field(gt=0)] | None = None  # for each worker; all of the cluster's unless given
    gpus: Annotated[float, Field(ge=0)] = 0.0
    log_every: Positive = 10
    validate_every: Positive = 1_000
    validation_samples: Positive = 1_024
    checkpoint_every: Positive = 1_000
    keep_checkpoints: Positive = 2

    @model_validator(mode="after")
    def _sizes_fit(self) -> Train:
        for name, span in (("input_tokens", self.input_tokens), ("target_tokens", self.target_tokens)):
            if isinstance(span, tuple) and span[0] > span[1]:
                raise ValueError(f"{name}: got {list(span)}, expected [least, most]")
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size: {self.batch_size} does not divide among {self.workers} workers")
        return self


class Step(Section):
    """One generated modality of a chain, and how (4M, section on generation). A bare name takes the defaults."""

    target: str
    scheme: Literal["maskgit", "roar", "autoregressive"] | None = None  # maskgit for grids, autoregressive for text
    steps: Positive = 8
    schedule: Literal["cosine", "linear"] = "cosine"
    temperature: Annotated[float, Field(ge=0)] = 1.0
    temperature_schedule: Annotated[str, Field(pattern=r"^(constant|linear|onex:[0-9.]+(:[0-9.]+)?)$")] = "constant"
    top_k: Positive | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    guidance: Annotated[float, Field(ge=0)] = 1.0
    max_tokens: Positive | None = None


def _as_step(value: Any) -> Any:
    return {"target": value} if isinstance(value, str) else value


class Chain(Section):
    """From some modalities to others, one after the other; each result is an input of the next."""

    inputs: Annotated[UrlList, Field(min_length=1)]
    split: Literal["val", "train"] = "val"  # whose samples; training ones if there is no validation
    to: Annotated[list[Annotated[Step, BeforeValidator(_as_step)]], Field(min_length=1)]


class Generate(Section):
    """Any-to-any generation on the first samples of a split."""

    samples: Positive = 8
    chains: list[Chain] = []
    seed: int = 0


class Recipe(Section):
    """A whole run. See docs/recipe.md for every field."""

    root: str
    samples: Annotated[
        Samples, BeforeValidator(lambda v: {"train": v} if isinstance(v, str | list) else v)
    ]
    seed: int = 0
    images: Images = Images()
    modalities: list[str] = ["rgb", "tok_rgb", "tok_canny_edge", "color_palette", "metadata", "caption", "det"]
    labels: Labels = Labels()
    tokenizers: Tokenizers = Tokenizers()
    engine: Engine = Engine()
    fit: Fit = Fit()
    train: Train = Train()
    generate: Generate = Generate()

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        check(self)
        return self

    @property
    def grids(self) -> list[str]:
        """The recipe's grid modalities, each with a fitted tokenizer."""
        return [name for name in self.modalities if MODALITIES[name].kind is Kind.GRID]

    @property
    def has_text(self) -> bool:
        return any(MODALITIES[name].kind is Kind.SEQUENCE for name in self.modalities)

    def patch_size(self, modality: str) -> int:
        """Pixels that one token of a grid (or one RGB patch) covers along a side."""
        if MODALITIES[modality].kind is Kind.GRID:
            settings = {**self.tokenizers.grid, **self.tokenizers.grids.get(modality, {})}
            return int(settings.get("patch_size") or self.images.patch_size)
        return self.images.patch_size

    def specs(self, text_vocab_size: int = 0) -> list[ModalitySpec]:
        """Every modality at this run's sizes, in the recipe's order.

        Args:
            text_vocab_size: of the fitted WordPiece vocabulary, which may be smaller than the recipe's limit.
        """
        sizes = {name: self.tokenizers.of(name).codebook_size or 0 for name in self.grids}
        text = text_vocab_size or self.tokenizers.text.vocab_size
        return [
            registry.spec(
                name,
                image_size=self.images.size,
                patch_size=self.patch_size(name),
                vocab_size=sizes.get(name, text),
            )
            for name in self.modalities
        ]


def parse(data: Any, where: str = "recipe") -> Recipe:
    """A recipe from a plain mapping. RecipeError with one line for each mistake."""
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: a recipe is a mapping with `root` and `samples`, got {type(data).__name__}")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(explain(error, where, Recipe)) from None


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply overrides of the form "train.steps=100" (the value is YAML).

    RecipeError if the file is missing, is no YAML, or says something that is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"there is no recipe at {path}; `fourmill init --samples URL --root DIR > {path}` writes one"
        ) from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise RecipeError(f"{path}: a recipe is a YAML text file: {error}") from None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: this is no YAML: {error}") from None
    for override in overrides or []:
        if isinstance(data, dict):  # `parse` says what is wrong with anything else
            _override(data, override)
    return parse(data, str(path))


def _override(data: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise RecipeError(f"--set {override}: expected a.b=value, for example --set train.steps=100")
    *path, last = name.split(".")
    here: Any = data
    for part in path:
        if isinstance(here, list) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
        elif isinstance(here, dict):
            if here.get(part) is None:
                here[part] = {}
            here = here[part]
        if not isinstance(here, dict | list):
            raise RecipeError(f"--set {override}: {part} is a single value and has no field {last}")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is no YAML: {error}") from None
    if isinstance(here, list):
        if not last.isdigit() or int(last) >= len(here):
            raise RecipeError(f"--set {override}: {'.'.join(path)} is a list of {len(here)}; use its index")
        here[int(last)] = parsed
    else:
        here[last] = parsed


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every field with its value."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
