"""The table of modalities is complete: published ids, labels, codecs, and a sentence where something is missing."""

from __future__ import annotations

import pytest

from fourmill import recipe as recipes
from fourmill.modalities import LABELS, MODALITIES, TEXT, TOKENIZERS, WINDOW, Kind, spec
from fourmill.pipelines.specialists import registry
from fourmill.pipelines.specialists.pretrained import Pretrained
from fourmill.tokenize import codecs

# 4m-facts, "Names, ids and lengths in published checkpoints": name at 224 px -> (id, vocabulary, tokens).
PUBLISHED = {
    "rgb@224": (20716, 0, 196),
    "caption": (32652, 30_000, 256),
    "det": (30982, 30_000, 256),
    "tok_rgb@224": (11606, 16_384, 196),
    "tok_depth@224": (20063, 8_192, 196),
    "tok_normal@224": (16656, 8_192, 196),
    "tok_semseg@224": (12515, 4_096, 196),
    "tok_clip@224": (11422, 8_192, 196),
    "t5_caption": (28551, 0, 77),
    "metadata": (1951, 30_000, 40),
    "human_poses": (30584, 30_000, 263),
    "color_palette": (12967, 30_000, 23),
    "sam_instance": (1938, 30_000, 290),
    "tok_canny_edge@224": (12520, 8_192, 196),
    "tok_sam_edge@224": (7842, 8_192, 196),
    "tok_dinov2@224": (26275, 8_192, 256),
    "tok_imagebind@224": (6200, 8_192, 256),
    "tok_dinov2_global": (29172, 8_192, 16),
    "tok_imagebind_global": (12099, 8_192, 16),
}
# Of the models at 448 px.
PUBLISHED_448 = {
    "rgb": (27924, 784), "tok_rgb": (1057, 784), "tok_depth": (11499, 784), "tok_normal": (32321, 784),
    "tok_semseg": (10291, 784), "tok_clip": (3585, 784),
}  # fmt: skip
BY_PUBLISHED_NAME = {modality.published_name(): modality for modality in MODALITIES.values() if not modality.image_size}


def test_exactly_the_modalities_of_4m_21_are_declared() -> None:
    assert set(BY_PUBLISHED_NAME) == set(PUBLISHED)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_ids_and_sizes_are_those_of_the_published_checkpoints(name: str) -> None:
    modality = BY_PUBLISHED_NAME[name]
    sizes = spec(modality.name, image_size=224)
    assert (modality.published_id(), sizes.vocab_size, sizes.max_tokens) == PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(PUBLISHED_448))
def test_ids_and_sizes_at_448_pixels(name: str) -> None:
    assert (MODALITIES[name].published_id(448), spec(name, image_size=448).max_tokens) == PUBLISHED_448[name]


@pytest.mark.parametrize("name", [name for name in MODALITIES if "@" in name])
def test_modalities_at_a_resolution_are_of_a_run_at_it(name: str) -> None:
    base, size = name.split("@")
    modality, sizes = MODALITIES[name], spec(name, image_size=224)
    assert (modality.published_id(), sizes.max_tokens) == PUBLISHED_448[base] and modality.image_size == int(size)
    assert (sizes.vocab_size, sizes.input_dim) == (spec(base, image_size=448).vocab_size, sizes.input_dim)


@pytest.mark.parametrize("name", sorted(MODALITIES))
def test_every_modality_has_a_label_and_its_sizes(name: str) -> None:
    modality = MODALITIES[name]
    assert modality.label in LABELS
    assert modality.is_target == (modality.kind in (Kind.GRID, Kind.SEQUENCE)) == (modality.vocab_size > 0)
    assert modality.vocab_size <= 2**16  # tokens are stored as uint16
    if modality.kind is Kind.GRID:
        sizes = spec(name, image_size=224)
        assert sizes.side**2 == sizes.max_tokens and modality.channels > 0


@pytest.mark.parametrize("name", sorted(MODALITIES))
def test_every_modality_has_a_codec_and_specialists(name: str) -> None:
    recipe = recipes.parse({"root": "out", "samples": "a.tar", "modalities": [name]})
    assert MODALITIES[name].label in (*registry.build(recipe.modalities, recipe.labels), "rgb")
    assert MODALITIES[name].codec in codecs.NAMES


def test_the_table_of_tokenizers_has_the_twelve_rows_of_4m_21() -> None:
    assert len(TOKENIZERS) == 12
    fitted = {name for modality in MODALITIES.values() for name in modality.tokenizers}
    assert fitted == {*TOKENIZERS, TEXT}
    assert MODALITIES["tok_sam_edge"].tokenizers == MODALITIES["tok_canny_edge"].tokenizers


SCORES = {"watermark", "aesthetic", "nsfw", "similarity"}  # of a specialist that makes any label
BEYOND = {"metric_depth", "open_det", "vlm_caption", *SCORES}  # labels that 4M-21 has not
BEYOND |= {"size", "borders", "signature", "duplicate", "clip_global"}


def test_specialists_make_the_label_they_are_listed_under() -> None:
    recipe = recipes.parse({"root": "out", "samples": "a.tar", "modalities": list(MODALITIES)})
    built = registry.build(recipe.modalities, recipe.labels.model_copy(update={"keep": sorted(BEYOND)}))
    assert set(built) == set(LABELS) - {"rgb", WINDOW}
    for label, specialist in built.items():
        assert specialist.label == label and (label in SCORES or type(specialist).label == label)
        assert {*specialist.needs, *specialist.uses} <= set(LABELS)
        assert specialist.identity()["specialist"] in registry.SPECIALISTS


def test_weights_have_a_source_and_a_licence() -> None:
    recipe = recipes.parse({"root": "out", "samples": "a.tar", "modalities": list(MODALITIES)})
    pretrained = [
        one for one in registry.build(recipe.modalities, recipe.labels).values() if isinstance(one, Pretrained)
    ]
    assert {one.label for one in pretrained} >= {"depth", "normal", "semseg", "det", "clip", "dinov2", "sam_instance"}
    for specialist in pretrained:
        assert "/" in specialist.weights and specialist.licence and specialist.task
