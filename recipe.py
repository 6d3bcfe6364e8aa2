"""The recipe: one YAML file that describes a whole run, typed, with errors a person can act on.

Every verb loads it with `load`; everything wrong is found here (or when the specialists read their own options), all
at once and before any process starts. Values that change a result are part of the fingerprints that the plan
computes; values below `engine` never are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from . import modalities as registry
from .infra.explain import explain
from .infra.fields import Positive, Section, Share, UrlList
from .modalities import MODALITIES, TEXT, TOKENIZERS, Form, Kind, ModalitySpec
from .pipelines.engine.settings import Engine
from .pipelines.settings import Images, Labels, Samples
from .recipe_checks import check
from .tokenize.settings import TokenizerSettings, merge
from .train.settings import Train


class RecipeError(ValueError):
    """The recipe cannot be used; the text says where, what was got, and what would do."""


class TextTokenizer(Section):
    """WordPiece for all text modalities, fitted on the captions; 4M's vocabulary has 30,000 entries.

    A small corpus may fill fewer. `captions` is how many are looked at, evenly from the training shards.
    """

    vocab_size: Annotated[int, Field(ge=4_500, le=65_536)] = 30_000  # 4M's special words alone are nearly 4,300
    captions: Positive = 1_000_000


class Tokenizers(Section):
    """`text` serves all sequences; `common` holds settings of all other fitted tokenizers, and `each` what differs in
    one, by its name in `modalities.TOKENIZERS`. What neither says is 4M-21's, see `tokenizer_settings`."""

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
        if alone := sorted(self.common.keys() & {"weights", "revision"}):
            raise ValueError(f"common: {alone[0]} is of one tokenizer; set it in tokenizers.each")
        for name in TOKENIZERS.keys() & self.each.keys():
            self.of(name)
        return self

    def of(self, name: str) -> TokenizerSettings:
        """The settings of one tokenizer: its row, overridden by `common` where that applies, and by `each`."""
        return merge(name, self.common, self.each.get(name, {}))


class Fit(Section):
    """Workers that fit the tokenizers.

    `share` says what they share: "tokenizers" gives each worker whole tokenizers, which are then the same on any number
    of workers; "batches" gives each worker a part of every batch of every tokenizer.
    """

    workers: Positive = 1
    share: Literal["tokenizers", "batches"] = "tokenizers"
    cpus: Annotated[float, Field(gt=0)] | None = None  # for each worker; all of the cluster's unless given
    gpus: Annotated[float, Field(ge=0)] = 0.0


Finite = Annotated[float, Field(allow_inf_nan=False)]


def _temperature_schedule(value: str) -> str:
    from .model.generation.schedules import check_temperature_schedule

    return check_temperature_schedule(value)


class Step(Section):
    """One generated modality of a chain, and how (4M, section on generation). A bare name takes the defaults."""

    target: str
    scheme: Literal["maskgit", "roar", "autoregressive"] | None = None  # maskgit for grids, autoregressive for text
    steps: Positive = 8
    schedule: Literal["cosine", "linear"] = "cosine"
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    temperature_schedule: Annotated[str, AfterValidator(_temperature_schedule)] = "constant"
    top_k: Positive | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    # One scale, or the weight of each condition.
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | dict[str, Finite] = 1.0
    max_tokens: Positive | None = None


def _as_step(value: Any) -> Any:
    return {"target": value} if isinstance(value, str) else value


class Chain(Section):
    """From some modalities to others, one after the other; each result is an input of the next."""

    inputs: Annotated[UrlList, Field(min_length=1)]
    split: Literal["val", "train"] = "val"  # whose samples; training ones if there is no validation
    ensemble: Positive = 1  # generations of each sample, whose decoded grids are averaged (4M-21: 10)
    to: Annotated[list[Annotated[Step, BeforeValidator(_as_step)]], Field(min_length=1)]


class Generate(Section):
    """Any-to-any generation on the first samples of a split."""

    samples: Positive = 8
    chains: list[Chain] = []
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 16
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # bfloat16 autocast on CUDA


class Recipe(Section):
    """A whole run. See docs/recipe.md for every field."""

    root: str
    samples: Annotated[Samples, BeforeValidator(lambda v: {"train": v} if isinstance(v, str | list) else v)]
    seed: int = 0
    modules: list[str] = []  # Python modules that declare modalities of your own
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
    def tokenizers_needed(self) -> list[str]:
        """The fitted tokenizers, text's aside, that the recipe's modalities take their tokens from; each once."""
        names = [name for modality in self.modalities for name in MODALITIES[modality].tokenizers]
        return [name for name in dict.fromkeys(names) if name != TEXT]

    @property
    def has_text(self) -> bool:
        return any(MODALITIES[name].kind is Kind.SEQUENCE for name in self.modalities)

    def tokenizer(self, name: str) -> TokenizerSettings:
        """The settings of one tokenizer with its sizes: `codebook_size` and `patch_size` (1 for vectors) are given."""
        entry, settings = TOKENIZERS[name], self.tokenizers.of(name)
        of_crops = entry.form not in (Form.FEATURES, Form.VECTOR) and not entry.image_size
        patch = settings.patch_size or (self.images.patch_size if of_crops else entry.patch_size) or 1
        return settings.model_copy(
            update={"codebook_size": settings.codebook_size or entry.vocab_size, "patch_size": patch}
        )

    def patch_size(self, modality: str) -> int:
        """Pixels that one token of a grid (or one RGB patch) covers along a side."""
        entry = MODALITIES[modality]
        if entry.kind is not Kind.GRID:
            return self.images.patch_size
        return self.tokenizer(entry.tokenizers[0]).patch_size or 1

    def specs(self, text_vocab_size: int = 0) -> list[ModalitySpec]:
        """Every modality at this run's sizes, in the recipe's order.

        Args:
            text_vocab_size: of the fitted WordPiece vocabulary, which may be smaller than the recipe's limit.
        """
        grids = [name for name in self.modalities if MODALITIES[name].kind is Kind.GRID]
        sizes = {name: self.tokenizer(MODALITIES[name].tokenizers[0]).codebook_size or 0 for name in grids}
        text = text_vocab_size or self.tokenizers.text.vocab_size
        return [
            registry.spec(
                name,
                image_size=self.images.size,
                patch_size=self.patch_size(name),
                vocab_size=sizes.get(name, text),
                input_dim=self.tokenizers.embedding_dim if MODALITIES[name].kind is Kind.EMBEDDING else 0,
            )
            for name in self.modalities
        ]


def parse(data: Any, where: str = "recipe") -> Recipe:
    """A recipe from a plain mapping. RecipeError with one line for each mistake."""
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: a recipe is a mapping with `root` and `samples`, got {type(data).__name__}")
    try:
        modules = data.get("modules")
        registry.import_modules(modules if isinstance(modules, list) else [])
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(explain(error, where, Recipe)) from None
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply overrides of the form "train.steps=100" (the value is YAML).

    `include` at its top names recipes, or parts of one, whose fields it takes where it says nothing itself; see
    docs/recipe.md.

    RecipeError if a file is missing, is no YAML, or says something that is wrong.
    """
    data = _read(Path(path), f"`fourmill init --samples URL --root DIR > {path}` writes one")
    overrides = overrides or []
    if isinstance(data, dict):  # `parse` says what is wrong with anything else
        for override in (o for o in overrides if o.startswith("include=")):
            _override(data, override)
        data = _with_included(data, Path(path), ())
        for override in (o for o in overrides if not o.startswith("include=")):
            _override(data, override)
    return parse(data, str(path))


def _read(path: Path, otherwise: str) -> Any:
    """What a YAML file holds."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe at {path}; {otherwise}") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise RecipeError(f"{path}: a recipe is a YAML text file: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: this is no YAML: {error}") from None


PACKAGE = Path(__file__).parent


def _with_included(data: dict[str, Any], path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe with what it includes under its own fields; of several files the later ones win.

    Args:
        path: of the recipe; names in it are relative to its folder, or to the package (recipes/train/4m21_b.yaml).
        below: files that are being included already.
    """
    names = data.get("include") or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecipeError(f"{path}: include: expected a list of files, got {names!r}")
    merged: dict[str, Any] = {}
    for name in names:
        file = path.parent / name
        file = file if file.is_file() else PACKAGE / name
        if file.resolve() in (path.resolve(), *below):
            raise RecipeError(f"{path}: include: {name} includes itself")
        part = _read(file if file.is_file() else path.parent / name, f"{path} includes it")
        if not isinstance(part, dict):
            raise RecipeError(f"{path}: include: {name} is no part of a recipe, a mapping, but {type(part).__name__}")
        merged = _merge(merged, _with_included(part, file, (path.resolve(), *below)))
    return _merge(merged, {name: value for name, value in data.items() if name != "include"})


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings field by field; of anything else the upper one counts; an empty section (null) changes nothing."""
    merged = dict(under)
    for name, value in over.items():
        mine = merged.get(name)
        if isinstance(mine, dict) and (value is None or isinstance(value, dict)):
            value = _merge(mine, value or {})
        merged[name] = value
    return merged


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
