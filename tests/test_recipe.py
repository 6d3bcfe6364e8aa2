"""A recipe is right, or says in one line for each mistake what is wrong with it and what would do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fourmill_tests import data

from fourmill import recipe as recipes
from fourmill.modalities import MODALITIES, Kind
from fourmill.pipelines.specialists import registry
from fourmill.pipelines.specialists.pretrained import Pretrained
from fourmill.recipe import RecipeError

LEAST = {"root": "out", "samples": "a.tar"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image": {}}, "image: no such field; did you mean 'images'"),
        ({"images": {"sise": 224}}, "images.sise: no such field; did you mean 'size'"),
        ({"train": {"model": {"dimm": 3}}}, "train.model.dimm: no such field; did you mean 'dim'"),
        ({"train": {"mixtures": [{"input_alfa": 1}]}}, "input_alfa: no such field; did you mean 'input_alpha'"),
        (
            {"tokenizers": {"common": {"codebok_size": 3}}},
            "common: codebok_size: no such field; did you mean 'codebook_size'",
        ),
        ({"tokenizers": {"each": {"tok_rgb": {"step": 3}}}}, "did you mean 'steps'"),
        ({"tokenizers": {"each": {"tok_rbg": {}}}}, "there is no 'tok_rbg'; did you mean 'tok_rgb'"),
        ({"generate": {"chains": [{"inputs": "rgb", "to": [{"target": "caption", "temprature": 1}]}]}}, "temprature"),
        ({"zzz": 1}, "zzz: no such field; there are"),
        ({"images": {"size": "large"}}, "images.size"),
        ({"images": {"size": -1}}, "images.size"),
        ({"images": {"size": 100}}, "100 px does not divide into patches of 16 px"),
        ({"images": {"hflip": 1.5}}, "images.hflip"),
        ({"images": {"pixel_format": "gif"}}, "got 'gif'"),
        ({"images": 5}, "images"),
        ({"seed": "x"}, "seed"),
        ({"samples": {}}, "samples.train: this field is needed"),
        ({"samples": {"train": 3}}, "samples.train"),
        ({"modalities": ["tok_rbg"]}, "there is no 'tok_rbg'; did you mean 'tok_rgb'"),
        ({"modalities": ["rgb", "rgb"]}, "a name stands twice"),
        ({"modalities": "rgb"}, "modalities"),
        ({"labels": {"keep": ["canny"]}}, "there is no 'canny'; did you mean 'canny_edge'"),
        ({"labels": {"specialists": {"dett": {}}}}, "there is no 'dett'; did you mean 'det'"),
        ({"generate": {"chains": [{"inputs": ["rgb"], "to": ["rgb"]}]}}, "rgb is input only"),
        ({"generate": {"chains": [{"inputs": ["depth"], "to": ["caption"]}]}}, "generate.chains: there is no 'depth'"),
        ({"train": {"mixtures": [{"input_alpha": {"captoin": 1}}]}}, "there is no 'captoin'; did you mean 'caption'"),
        ({"train": {"datasets": [{"mixtures": [{"target_alpha": {"rgb": 1}}]}]}}, "rgb is input only and never"),
        ({"train": {"steps": 0}}, "train.steps"),
        ({"train": {"input_tokens": [32, 16]}}, "input_tokens: got [32, 16], expected [least, most]"),
        ({"train": {"batch_size": 10, "workers": 3}}, "batch_size: 10 does not divide among 3 workers"),
        ({"train": {"model": {"dim": 64, "heads": 5}}}, "train.model: dim: 64 does not divide among 5 heads"),
        ({"tokenizers": {"common": {"dim": 64, "heads": 5}}}, "dim: 64 does not divide among 5 heads"),
        ({"tokenizers": {"text": {"vocab_size": 70_000}}}, "tokenizers.text.vocab_size"),
    ],
)
def test_mistakes_are_named_with_what_would_do(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.parse({**LEAST, **change}, "my.yaml")
    assert expected in str(caught.value) and str(caught.value).startswith("my.yaml: ")


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.parse({"samples": "a.tar", "seed": "x", "imagse": {}})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any("root: this field is needed" in line for line in lines)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_mapping(value: Any) -> None:
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        recipes.parse(value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"canny_edge": {"lo": 1}}, "labels.specialists.canny_edge: lo: no such field; did you mean 'low'"),
        ({"canny_edge": {"low": "x"}}, "labels.specialists.canny_edge: low"),
        ({"canny_edge": {"specialist": "cany"}}, "did you mean 'canny'"),
        ({"canny_edge": {"specialist": "canny:Cany"}}, "cannot load 'canny:Cany'"),
        ({"canny_edge": {"specialist": "no.such.module:X"}}, "cannot load"),
        ({"canny_edge": {"specialist": "people:HogPeople"}}, "makes the label det, not canny_edge"),
        ({"canny_edge": {"specialist": "pathlib.x:Path"}}, "cannot load"),
        ({"canny_edge": {"specialist": "concurrent.futures:Future"}}, "no subclass of fourmill's Specialist"),
    ],
)
def test_mistakes_in_specialists_are_found_before_any_work(options: dict[str, Any], expected: str) -> None:
    recipe = recipes.parse({**LEAST, "labels": {"specialists": options}})
    with pytest.raises(RecipeError) as caught:
        registry.build(recipe.modalities, recipe.labels, recipe.modules)
    assert expected in str(caught.value)


# files and --set


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    text = yaml.safe_dump({**LEAST, "samples": {"train": ["a.tar", "b.tar"]}, "train": {"steps": 5, "mixtures": [{}]}})
    path.write_text(text + "engine:\n")
    return path


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("train.steps=100", lambda r: r.train.steps, 100),
        ("train.base_lr=1e-3", lambda r: r.train.base_lr, 1e-3),
        ("root=s3://b/out", lambda r: r.root, "s3://b/out"),
        ("root=a=b", lambda r: r.root, "a=b"),
        ("modalities=[rgb, caption]", lambda r: r.modalities, ["rgb", "caption"]),
        ("samples.val=c.tar", lambda r: r.samples.val, ["c.tar"]),
        ("samples.train.1=c.tar", lambda r: r.samples.train, ["a.tar", "c.tar"]),
        ("train.mixtures.0.weight=2", lambda r: r.train.mixtures[0].weight, 2.0),
        ("tokenizers.each.tok_rgb.steps=7", lambda r: r.tokenizers.of("tok_rgb").steps, 7),
        ("engine.actors=null", lambda r: r.engine.actors, None),
        ("engine.cpus=2", lambda r: r.engine.cpus, 2),
    ],
)
def test_set(path: Path, override: str, read: Any, value: Any) -> None:
    assert read(recipes.load(path, [override])) == value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps", "expected a.b=value"),
        ("=5", "expected a.b=value"),
        ("train.stepz=5", "did you mean 'steps'"),
        ("train.steps.x=5", "steps is a single value and has no field x"),
        ("samples.train.7=c.tar", "is a list of 2; use its index"),
        ("samples.train.7.x=c.tar", "samples.train.7"),
        ("train.steps=[1", "the value is no YAML"),
        ("train.steps=many", "train.steps"),
    ],
)
def test_set_mistakes(path: Path, override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.load(path, [override])
    assert expected in str(caught.value)


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n"])
@pytest.mark.parametrize("overrides", [[], ["seed=1"], ["train.steps=1"]])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str, overrides: list[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        recipes.load(path, overrides)


@pytest.mark.parametrize("content", [b"root: [", b"\xff\xfe\x00", b"root: !!python/object/apply:os.system ['x']"])
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        recipes.load(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="fourmill init"):
        recipes.load(tmp_path / "nowhere.yaml")
    with pytest.raises(RecipeError, match="YAML text file"):
        recipes.load(tmp_path)


def test_what_is_dumped_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = data.recipe(tmp_path, ["a.tar"], ["b.tar"], train__input_tokens=[16, 32])
    assert recipes.parse(yaml.safe_load(recipes.dump(recipe))) == recipe


def test_sizes_follow_the_recipe() -> None:
    recipe = recipes.parse(
        {
            **LEAST,
            "images": {"size": 64, "patch_size": 16},
            "tokenizers": {
                "common": {"codebook_size": 32},
                "each": {"tok_rgb": {"patch_size": 8, "codebook_size": 99}},
            },
        }
    )
    specs = {spec.name: spec for spec in recipe.specs(4321)}
    assert list(specs) == recipe.modalities
    assert (specs["tok_rgb"].max_tokens, specs["tok_rgb"].vocab_size) == (64, 99)
    assert (specs["tok_canny_edge"].max_tokens, specs["tok_canny_edge"].vocab_size) == (16, 32)
    assert (specs["rgb"].max_tokens, specs["rgb"].input_dim) == (16, 768)
    assert {spec.vocab_size for spec in specs.values() if spec.kind is Kind.SEQUENCE} == {4321}


@pytest.mark.parametrize("name", ["4m21", "4m21-2026", "cc12m", "coyo"])
def test_shipped_recipes_name_real_weights(name: str) -> None:
    recipe = recipes.load(Path(recipes.__file__).parent / "recipes" / f"{name}.yaml")
    built = registry.build(recipe.modalities, recipe.labels, recipe.modules)
    assert set(built) >= {MODALITIES[modality].label for modality in recipe.modalities} - {"rgb"}
    for specialist in built.values():
        if isinstance(specialist, Pretrained):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", specialist.weights)
    assert {step.target for chain in recipe.generate.chains for step in chain.to} <= set(recipe.modalities)
