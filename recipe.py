"""The recipe: one YAML file that describes a whole run, typed, with errors a person can act on.

Each section is declared beside the component that reads it; here they are put together, with what must fit across
them. Every verb loads a recipe with `load`: everything wrong is found here (or when the specialists read their own
options), before any process starts. Values that change a result are part of the fingerprints that `project` computes;
values below `engine` never are.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationError, model_validator

from . import modalities as registry
from .infra import configuration
from .infra.configuration import RecipeError
from .infra.explain import explain, nearest
from .infra.fields import Section
from .infra.secrets import hidden
from .modalities import (
    DUPLICATE,
    LABELS,
    MODALITIES,
    OF_NO_PLACE,
    SAM_MASK,
    TEXT,
    TOKENIZERS,
    WINDOW,
    Declares,
    Form,
    Kind,
    ModalitySpec,
)
from .pipelines.download.settings import Download
from .pipelines.engine.settings import Engine
from .pipelines.settings import CROP_SETTINGS, Images, Labels, Samples
from .pipelines.specialists.names import BY_FIRST_NAME
from .sensors.declared import SENSORS, Sensors, declare_from
from .sensors.sensor import Sensor
from .tokenize import class_lists, conventions
from .tokenize import settings as tokenizer_settings
from .tokenize.settings import Precision, TextTokenizer, Tokenizers, TokenizerSettings
from .train.downstream.evaluation.settings import CLASSES, Evaluate, default_inputs
from .train.downstream.settings import Chain, Generate, check_steps
from .train.settings import Mixture, Train, alpha_of
from .train.tokenizers.settings import Fit

_NOT_OF_CROPS = (Form.FEATURES, *OF_NO_PLACE)

__all__ = ["Recipe", "RecipeError", "code_of", "dump", "load", "parse"]


class Recipe(Section):
    """A whole run. See docs/recipe.md for every field."""

    root: str
    samples: Annotated[Samples, BeforeValidator(lambda v: {"train": v} if isinstance(v, str | list) else v)]
    licence: str = ""  # of the images, as the user knows it: runs and exports inherit it
    seed: int = 0
    convention: Literal["ml4m"] | None = None  # tokens, metadata and model as published 4M models have them
    download: Download | None = None  # a table of URLs, of which the shards are made
    modules: list[str] = []  # Python modules that declare modalities of your own
    versions: dict[str, int] = {}  # of specialists, codecs and fits that you want to keep, e.g. labels/depth: 1
    sensors: dict[str, Sensor] = {}  # rasters, class maps and numbers of your own files, by name
    images: Images = Images()
    modalities: list[str] = ["rgb", "tok_rgb", "tok_canny_edge", "color_palette", "metadata", "caption", "det"]
    labels: Labels = Labels()
    imported: list[str] = []  # modalities whose columns `fourmill import` has put into the root, and their crops
    classes: dict[str, list[str] | str] = {}  # by label, the names of its ids in order; COCO's unless given
    tokenizers: Tokenizers = Tokenizers()
    engine: Engine = Engine()
    fit: Fit = Fit()
    train: Train = Train()
    generate: Generate = Generate()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="before")
    @classmethod
    def _declares_sensors(cls, data: Any) -> Any:
        declare_from(_mapping(data).get("sensors"))
        return data

    @model_validator(mode="before")
    @classmethod
    def _keeps_what_is_needed(cls, data: Any) -> Any:
        """With `images.trim_borders` what was cut off is recorded with each sample, as the kept label `window`; with
        `duplicate` the labels that are compared are kept."""
        images, labels = _mapping(data).get("images"), _mapping(data).get("labels", {})
        keep = labels.get("keep", []) if isinstance(labels, dict) else None
        if not isinstance(keep, list):
            return data
        added = [WINDOW] if _mapping(images).get("trim_borders") else []
        if DUPLICATE in keep:
            by = _mapping(_mapping(labels.get("specialists")).get(DUPLICATE)).get("by", ["signature"])
            added += _listed(by) or ["signature"]
        added = [name for name in dict.fromkeys(added) if name not in keep]
        return data | {"labels": labels | {"keep": [*keep, *added]}} if added else data

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        _check(self)
        return self

    @property
    def class_lists(self) -> dict[str, tuple[str, ...]]:
        """Its own lists of classes, by label: those that are not the label's anyway, and its sensors'."""
        return class_lists.resolve(self.classes) | class_lists.of_sensors(self.sensors)

    @property
    def keys(self) -> tuple[bool, str]:
        """Whether every key of a tar is a sample, and the column of Parquet with the keys; see `source.open_shard`."""
        return bool(self.sensors), self.samples.key

    @property
    def declares(self) -> tuple[str | Declares, ...]:
        """What other processes need before they know its modalities: its modules, and its sensors."""
        return (*self.modules, *([Sensors(self.sensors)] if self.sensors else []))

    @property
    def tokenizers_needed(self) -> list[str]:
        """The fitted tokenizers, text's aside, that the recipe's modalities take their tokens from; each once."""
        names = [name for modality in self.made for name in MODALITIES[modality].tokenizers]
        # Imported ids need no tokenizer, unless one is named to look at them.
        others = [
            name for modality in self.imported if modality in MODALITIES for name in MODALITIES[modality].tokenizers
        ]
        names += [name for name in others if name == TEXT or self.tokenizers.of(name).weights]
        return [name for name in dict.fromkeys(names) if name != TEXT]

    @property
    def made(self) -> list[str]:
        """The modalities whose tokens are made from its samples: all that are not imported."""
        return [name for name in self.modalities if name not in self.imported]

    @property
    def reads_samples(self) -> bool:
        """Whether anything is made from its samples."""
        return bool(self.made or self.labels.keep)

    @property
    def has_text(self) -> bool:
        return any(MODALITIES[name].kind is Kind.SEQUENCE for name in self.modalities)

    @property
    def text_of_fit(self) -> TextTokenizer:
        """The settings that the text tokenizer is fitted by: sentences of sensors alone need no captions."""
        text = self.tokenizers.text
        others = any(
            MODALITIES[name].kind is Kind.SEQUENCE and MODALITIES[name].label not in SENSORS for name in self.modalities
        )
        return text if others else text.model_copy(update={"captions": 0})

    def tokenizer(self, name: str) -> TokenizerSettings:
        """The settings of one tokenizer with its sizes: `codebook_size` and `patch_size` (1 for vectors) are given."""
        entry, settings = TOKENIZERS[name], self.tokenizers.of(name)
        of_crops = entry.form not in _NOT_OF_CROPS and entry.name != SAM_MASK
        patch = settings.patch_size or (self.images.patch_size if of_crops else entry.patch_size) or 1
        return settings.model_copy(
            update={"codebook_size": settings.codebook_size or entry.vocab_size, "patch_size": patch}
        )

    @property
    def precisions(self) -> dict[str, Precision]:
        """In what each tokenizer encodes."""
        return {name: self.tokenizers.of(name).encodes_in for name in self.tokenizers_needed}

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


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply overrides of the form "train.steps=100" (the value is YAML).

    `include` at its top names recipes, or parts of one, whose fields it takes where it says nothing itself; see
    docs/recipe.md.

    Args:
        path: of a YAML file, or its URL (s3://bucket/recipe.yaml).
        overrides: applied in order, after what is included.

    Raises:
        RecipeError: a ValueError; a file is missing, is no YAML, or says something that is wrong: all of it at once.

    Examples:
        >>> recipe = fourmill.load_recipe("recipe.yaml", ["train.steps=100"])
        >>> recipe.train.steps
        100
    """
    return parse(read(path, overrides), str(path))


def read(path: str | Path, overrides: list[str] | None = None) -> Any:
    """What the file of a recipe holds, with its includes and overrides, not looked at yet. RecipeError as of `load`."""
    missing = f"`fourmill init --samples URL --root DIR > {path}` writes one"
    return configuration.load(path, overrides or [], missing)


def parse(data: Any, where: str = "recipe", trusted: bool = True) -> Recipe:
    """A recipe from a plain mapping. RecipeError with one line for each mistake.

    Args:
        trusted: False for a recipe that lies in a root, which somebody else may have made: none of its code is run, and
            what only its code declares is left out (`code_of`).
    """
    if not isinstance(data, dict):
        got = "nothing" if data is None else type(data).__name__
        raise RecipeError(f"{where}: a recipe is a mapping with `root` and `samples`, got {got}")
    if not trusted:
        data = _without_code(data)
        _check_same_sensors(data, where)
    try:
        modules = data.get("modules")
        registry.import_modules(name for name in _listed(modules) if isinstance(name, str))
        return Recipe.model_validate(conventions.applied(data))
    except ValidationError as error:
        raise RecipeError(explain(error, where, Recipe)) from None
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None


def _check_same_sensors(data: dict[str, Any], where: str) -> None:
    """RecipeError if a recipe of somebody else would redefine a sensor of the one in use."""
    for name, given in _mapping(data.get("sensors")).items():
        with suppress(ValidationError):  # the recipe says what is wrong with it
            if name in SENSORS and SENSORS[name] != Sensor.model_validate(given):
                raise RecipeError(
                    f"{where}: sensors.{name} is another one than that of the recipe in use; rename one of them"
                )


def code_of(data: Any) -> list[str]:
    """The code that a recipe asks for (`code_asked`) and that this process has not loaded anyway."""
    return [name for name in code_asked(data) if name.partition(":")[0] not in sys.modules]


def code_asked(data: Any) -> list[str]:
    """The code that a recipe asks for: its `modules`, and specialists that are "module:Class"."""
    if not isinstance(data, dict):
        return []
    modules, labels = data.get("modules"), data.get("labels")
    names = [name for name in _listed(modules) if isinstance(name, str)]
    names += [name for name in _own_readers(data) if name.partition(":")[0] not in names]
    return names + [name for name in _own_specialists(labels).values() if name.partition(":")[0] not in names]


def _own_specialists(labels: Any) -> dict[str, str]:
    """The specialists of a recipe that are code of its own, by label."""
    options = labels.get("specialists") if isinstance(labels, dict) else None
    named = {name: str(one.get("specialist", "")) for name, one in _mapping(options).items() if isinstance(one, dict)}
    return {label: name for label, name in named.items() if ":" in name and name not in BY_FIRST_NAME}


def _own_readers(data: Any) -> list[str]:
    """The readers of sensors that are code of the user's own."""
    found = (_mapping(one).get("reader") for one in _mapping(_mapping(data).get("sensors")).values())
    return list(dict.fromkeys(name for name in found if isinstance(name, str)))


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _without_code(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe without what needs code that is not loaded, and without the sections that speak of that."""
    asked = code_of(data)
    if not asked:
        return data
    labels = _mapping(data.get("labels"))
    if _own_readers(data):
        without = {name: _mapping(one) | {"reader": None} for name, one in _mapping(data.get("sensors")).items()}
        data = data | {"sensors": without}
    own = {label for label, name in _own_specialists(labels).items() if name.partition(":")[0] not in sys.modules}
    listed, kept = _listed(data.get("modalities")), _listed(labels.get("keep"))
    specialists = _mapping(labels.get("specialists"))
    unknown = {str(name) for name in listed if name not in MODALITIES}
    unknown |= {str(name) for name in (*kept, *specialists) if name not in LABELS}
    data = data | {"modules": [name for name in _listed(data.get("modules")) if name not in asked], "versions": {}}
    if isinstance(train := data.get("train"), dict):  # it may select by labels that are left out
        data["train"] = {name: value for name, value in train.items() if name != "select"}
    if listed:
        data["modalities"] = [name for name in listed if name in MODALITIES]
    data["labels"] = labels | {
        "keep": [name for name in kept if name in LABELS],
        "specialists": {name: v for name, v in specialists.items() if name in LABELS and name not in own},
    }
    for section, fields in (("train", ("mixtures", "datasets")), ("generate", ("chains",)), ("tokenizers", ("each",))):
        of_section = _mapping(data.get(section))
        data[section] = {k: v for k, v in of_section.items() if k not in fields or not _mentions(v, unknown)}
    for section in ("evaluate", "classes"):
        if _mentions(data.get(section), unknown):
            del data[section]
    return data


def _mentions(value: Any, names: Collection[str]) -> bool:
    """Whether one of the names is anywhere in a part of a recipe."""
    if isinstance(value, dict):
        return any(_mentions(one, names) for pair in value.items() for one in pair)
    return any(_mentions(one, names) for one in value) if isinstance(value, list) else value in names


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every field with its value."""
    return configuration.dump(hidden(recipe.model_dump(mode="json")))


def _check(recipe: Recipe) -> None:
    """ValueError for the first thing that does not fit across the sections."""
    for name in recipe.modalities:
        _known("modalities", name, MODALITIES)
    _check_imported(recipe)
    _check_sensors(recipe)
    if len(set(recipe.modalities)) < len(recipe.modalities):
        raise ValueError("modalities: a name stands twice")
    for name in [*recipe.labels.keep, *recipe.labels.specialists]:
        _known("labels", name, LABELS)
    class_lists.resolve(recipe.classes)
    for name in recipe.tokenizers.each:
        _known("tokenizers.each", name, TOKENIZERS)
    for name in recipe.modalities:
        _spec(recipe, name)
    for name in recipe.tokenizers_needed:
        tokenizer_settings.check(recipe.tokenizers, name, recipe.tokenizer(name), recipe.images.size)
    if recipe.train.model.dim % 4:
        raise ValueError(f"train.model.dim: {recipe.train.model.dim} is no multiple of 4, which 2-D positions need")
    for mixture in (*recipe.train.mixtures, *(m for one in recipe.train.datasets for m in one.mixtures or ())):
        _check_mixture(recipe, mixture)
    for chain in recipe.generate.chains:
        _check_chain(recipe, chain)
    _check_evaluation(recipe)
    if recipe.train.select and recipe.train.datasets and all(one.root for one in recipe.train.datasets):
        raise ValueError(
            "train.select: it is of the recipe's own samples, which train.datasets lacks; add {root: null}"
        )
    init = recipe.train.begins_with
    for name in init.embeddings if init and isinstance(init.embeddings, dict) else ():
        _chosen("train.init.embeddings", name, recipe.modalities)


def _check_sensors(recipe: Recipe) -> None:
    if recipe.sensors and recipe.images.trim_borders:
        raise ValueError(
            "images.trim_borders: it cuts photos, and not the rasters of sensors beside them; leave it out"
        )
    for name, sensor in recipe.sensors.items():
        if sensor.from_ and sensor.from_ not in recipe.samples.sets:
            there = (
                nearest(sensor.from_, recipe.samples.sets) if recipe.samples.sets else "; samples has no sets of tars"
            )
            raise ValueError(f"sensors.{name}.from: there is no set {sensor.from_!r}{there}")
        if name in recipe.classes:
            raise ValueError(f"classes.{name}: say the classes in sensors.{name}.classes")


def _check_imported(recipe: Recipe) -> None:
    for name in recipe.imported:
        if name != CROP_SETTINGS:
            _chosen("imported", name, recipe.modalities)
    # Crops of what is made follow from the seed, those of what is imported were drawn elsewhere.
    cropped = [name for name in recipe.made if recipe.imported and MODALITIES[name].spatial]
    if cropped and recipe.images.crops > 1:
        raise ValueError(
            f"imported: {', '.join(cropped)} would be made of other crops than the imported columns; with images.crops "
            "1, the centre, they would be the same"
        )


def _spec(recipe: Recipe, name: str) -> registry.ModalitySpec:
    return registry.spec(name, image_size=recipe.images.size, patch_size=recipe.patch_size(name))


def _check_mixture(recipe: Recipe, mixture: Mixture) -> None:
    for side in (mixture.input_alpha, mixture.target_alpha, mixture.keep):
        for name in side if isinstance(side, dict) else ():
            _chosen("train.mixtures", name, recipe.modalities)
    targets = [name for name in recipe.modalities if MODALITIES[name].is_target]
    if isinstance(mixture.target_alpha, dict):
        for name in (n for n, alpha in mixture.target_alpha.items() if alpha and n not in targets):
            raise ValueError(f"train.mixtures: target_alpha: {name} is input only and never predicted; leave it out")
    for name in mixture.keep if isinstance(mixture.keep, dict) else ():
        if MODALITIES[name].kind not in (Kind.SEQUENCE, Kind.EMBEDDING):
            raise ValueError(f"train.mixtures: keep: {name} is no text, whose shares alone are kept; leave it out")
    for what, alpha, names in (
        ("input_alpha", mixture.input_alpha, recipe.modalities),
        ("target_alpha", mixture.target_alpha, targets),
    ):
        if names and not any(alpha_of(alpha, name) for name in names):
            raise ValueError(f"train.mixtures: no {what} above 0 for any of {', '.join(names)}")


def _check_chain(recipe: Recipe, chain: Chain) -> None:
    where = "generate.chains"
    targets = [step.target for step in chain.to]
    for name in (*chain.inputs, *targets):
        _chosen(where, name, recipe.modalities)
    check_steps(where, chain.to, chain.inputs, {name: _spec(recipe, name) for name in targets})


def _check_evaluation(recipe: Recipe) -> None:
    asked = recipe.evaluate
    for name in (name for names in asked.combinations for name in names):
        _chosen("evaluate.combinations", name, recipe.modalities)
    for name in asked.inputs:
        _chosen("evaluate.inputs", name, recipe.modalities)
    for name in asked.truth:
        _known("evaluate.truth", name, [*LABELS, CLASSES])
    for step in asked.chain:
        _chosen("evaluate.chain", step.target, recipe.modalities)
    given = asked.inputs or default_inputs(recipe.modalities)
    check_steps("evaluate.chain", asked.chain, given, {step.target: _spec(recipe, step.target) for step in asked.chain})


def _chosen(where: str, name: str, chosen: Collection[str]) -> None:
    """A modality that is declared, and one of the recipe's."""
    _known(where, name, MODALITIES)
    if name not in chosen:
        raise ValueError(f"{where}: {name} is not among the recipe's modalities, {', '.join(chosen)}")


def _known(where: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        raise ValueError(f"{where}: there is no {name!r}{nearest(name, names)}")
