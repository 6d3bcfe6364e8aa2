"""What a run says of its tokens: its recipe, its root's tokenizers, and which fits of these it knows.

    RUN/recipe.yaml       the resolved recipe
    RUN/tokenizers.json   the fingerprint of each tokenizer whose ids the model has learned
    ROOT/tokenizers/      above RUN

Runs of older commits have no tokenizers.json, and unfinished ones no recipe.yaml. An exported model has tokenizers.json
beside its weights, a published one neither. What a recipe would say then follows from the model's sizes, and is at its
default otherwise.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

from .. import recipe as recipes
from ..infra import configuration, side_files, storage
from ..modalities import LABELS, Form, Kind, ModalitySpec
from ..model.config import TOKENIZERS
from ..model.patches import patch_side
from ..pipelines.settings import Images
from ..recipe import Recipe
from ..tokenize.codec import Options
from ..tokenize.settings import Tokenizers
from ..train.downstream.settings import Generate
from ..train.pretrain.job import RECIPE
from .names import modality_of

FOLDER = "tokenizers"
_DEEPEST = 3  # RUN/checkpoints/step-00000100 lies two folders below the run


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    root: the root whose tokenizers/ it was trained with, "" if there is none.
    recipe: of the run, None if none is kept with it.
    fingerprints: of the tokenizers that made its columns, by name; {} where that is not recorded.
    """

    root: str
    recipe: Recipe | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)

    @property
    def generate(self) -> Generate:
        return self.recipe.generate if self.recipe else Generate()

    @property
    def trim_borders(self) -> bool:
        return (self.recipe.images if self.recipe else Images()).trim_borders

    @property
    def max_pixels(self) -> int:
        return (self.recipe.images if self.recipe else Images()).max_pixels

    def options(self, specs: Sequence[ModalitySpec]) -> Options:
        """How labels become tokens: one crop, the centre one."""
        if self.recipe is None:
            return Options(0, _image_size(specs), 1, min_box_score=Tokenizers().min_box_score)
        images, score = self.recipe.images, self.recipe.tokenizers.min_box_score
        precisions = self.recipe.precisions
        return Options(self.recipe.seed, images.size, 1, images.pixel_format, images.jpeg_quality, score, precisions)


def find(place: str, root: str | None = None, recipe: Recipe | None = None) -> Origin:
    """What is known of the model of a folder.

    Args:
        place: of a run, its model/ or checkpoints/, or of an exported model; or a hub id.
        root: the root of its tokenizers, if it is not a folder above it.
        recipe: in the place of the run's own.

    Raises:
        ValueError: the root that is named has no tokenizers, or the recipe cannot be used.
    """
    place = storage.absolute(place) if storage.list_names(place) else ""
    run = _run_above(place)
    if recipe is None and run is not None and storage.exists(storage.join(run, RECIPE)):
        url = storage.join(run, RECIPE)
        try:
            recipe = recipes.parse(configuration.parse_yaml(storage.read_bytes(url)), url, trusted=False)
        except yaml.YAMLError as error:
            side_files.passed_over(url, configuration.yaml_mistake(error))
    noted = [side_files.read_object(storage.join(one, TOKENIZERS)) for one in (run, place) if one]
    fingerprints = next(filter(None, noted), {})
    if root is not None:
        if not storage.list_names(storage.join(root, FOLDER)):
            raise ValueError(
                f"there is no {FOLDER}/ in {root}; name the root whose tokenizers the model was trained with"
            )
        return Origin(storage.absolute(root), recipe, fingerprints)
    above = _root_above(place) or (recipe.root if recipe and storage.list_names(f"{recipe.root}/{FOLDER}") else "")
    return Origin(above, recipe, fingerprints)


def _run_above(place: str) -> str | None:
    """The folder of the run that a place is, or lies in."""
    for _ in range(_DEEPEST if place else 0):
        if storage.list_names(storage.join(place, FOLDER)):  # a root has a recipe.yaml of its own
            return None
        if storage.exists(storage.join(place, RECIPE)):
            return place
        place = posixpath.dirname(place)
    return None


def _root_above(place: str) -> str:
    while place and posixpath.dirname(place) != place and not place.endswith(":/"):
        if storage.list_names(storage.join(place, FOLDER)):
            return place
        place = posixpath.dirname(place)
    return ""


def _image_size(specs: Sequence[ModalitySpec]) -> int:
    """Pixels along a side of the crops that a model of these sizes reads."""
    for spec in specs:
        if spec.kind is Kind.PIXELS and not modality_of(spec.name).image_size:
            return spec.side * patch_side(spec)
    for spec in specs:
        modality = modality_of(spec.name)
        pixels = LABELS[modality.label].form not in (Form.FEATURES, Form.VECTOR)
        if spec.kind is Kind.GRID and pixels and not modality.image_size:
            return spec.side * modality.patch_size
    return Images().size
