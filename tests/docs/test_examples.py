"""The examples of the guides do what they say: a specialist, a modality, a codec from shards to tokens, files read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import yaml
from fourmill_tests import data
from fourmill_tests.small import SmallRoot
from fourmill_tests.tiny import declared

from fourmill import recipe as recipes
from fourmill.infra import ledger
from fourmill.modalities import spec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.published import ml4m
from fourmill.pipelines.specialists import registry
from fourmill.project import Project
from fourmill.recipe import Recipe, RecipeError
from fourmill.report.draw import labels as draw
from fourmill.tokenize import codecs, store
from fourmill.tokenize import labels as label_files
from fourmill.tokenize.text.wordpiece import WordPiece

Guides = Callable[[str], Any]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `my_labels`, importable for this test alone."""
    folder = tmp_path / "code" / "my_labels"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(folder.parent)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_labels"]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def _columns(root: Path, modality: str, shard: str) -> store.Column:
    return store.read(str(root / "tokens" / modality / f"{shard}.parquet"))


# The specialist


def _cats(tmp_path: Path, package: Path, guide: Guides) -> dict[str, Any]:
    """The class in its package, a shard with a cat, a cup and a dot, and the guide's recipe as a mapping."""
    page = guide("add-a-specialist")
    (package / "cats.py").write_text(page.block("python", "# my_labels/cats.py"))
    entries = [
        ("cat.png", data.encode(skimage.data.chelsea(), "PNG")), ("cat.txt", b"a cat named Chelsea"),
        ("cup.png", data.encode(skimage.data.coffee(), "PNG")), ("cup.txt", b"a cup of coffee"),
        ("dot.png", data.encode(np.zeros((3, 3, 3), np.uint8), "PNG")), ("dot.txt", b"a dot"),
    ]  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "00000.tar").write_bytes(data.tar(entries))
    settings: dict[str, Any] = yaml.safe_load(page.blocks("yaml")[0])
    settings["root"] = str(tmp_path / "out")
    settings["samples"] = {"train": str(tmp_path / "data" / "*.tar")}
    return settings


def test_the_specialist_of_the_guide_finds_the_cat(tmp_path: Path, package: Path, guide: Guides) -> None:
    recipe = recipes.parse(_cats(tmp_path, package, guide))
    records = data.make(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    records += data.make(recipe, data.outputs(recipe, labels=False), stored=["det"])

    keys, (cat, cup, dot) = label_files.read_labels(str(tmp_path / "out/labels/det/00000.parquet"))
    assert keys == ["cat", "cup", "dot"] and dot is None
    assert cup == [] and [box["label"] for box in cat] == ["cat"]
    xmin, ymin, xmax, ymax = cat[0]["box"]
    assert xmin < 0.56 < xmax and ymin < 0.8 < ymax  # between the eyes: pixel (253, 240) of 451 x 300
    (label,) = [record for record in records if record.output == "labels/det"]
    assert label.rejects == [{"key": "dot", "reason": "det: an image of 3 x 3 px, expected sides of 24 or more"}]
    assert label.identity["specialist"] == "my_labels.cats:CatFaces"

    sentence = codecs.load_text(recipe.root).decode(_columns(tmp_path / "out", "det", "00000").crop(0, 0))
    assert sentence.startswith("v0=") and sentence.endswith(" cat")


def test_another_option_makes_only_its_label_again(tmp_path: Path, package: Path, guide: Guides) -> None:
    settings = _cats(tmp_path, package, guide)
    before = data.outputs(recipes.parse(settings), tokens=False)
    settings["labels"]["keep"] = ["det", "caption"]
    settings["labels"]["specialists"]["det"]["neighbours"] = 5
    after = data.outputs(recipes.parse(settings), tokens=False)
    assert before["labels/det"].fingerprint != after["labels/det"].fingerprint
    assert before["samples"].fingerprint == after["samples"].fingerprint


@pytest.mark.parametrize(
    ("label", "options"),
    [
        ("det", {"specialist": "my_labels.cats:CatFaces", "neighbors": 3}),
        ("det", {"specialist": "my_labels.cat:CatFaces"}),
        ("canny_edge", {"specialist": "my_labels.cats:CatFaces"}),
    ],
)
def test_the_mistakes_that_the_guide_quotes(
    tmp_path: Path, package: Path, guide: Guides, label: str, options: dict[str, Any]
) -> None:
    settings = _cats(tmp_path, package, guide)
    settings["labels"]["keep"] = [label]
    settings["labels"]["specialists"] = {label: options}
    with pytest.raises(RecipeError) as caught:
        recipe = recipes.parse(settings)
        registry.build(recipe.modalities, recipe.labels, recipe.modules)
    assert f"fourmill label: {caught.value}" in guide("add-a-specialist").text


def test_the_specialist_can_be_tried_by_hand(
    tmp_path: Path, package: Path, guide: Guides, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _cats(tmp_path, package, guide)
    (tmp_path / "cat.png").write_bytes(data.encode(skimage.data.chelsea(), "PNG"))
    monkeypatch.chdir(tmp_path)
    exec(guide("add-a-specialist").block("python", "import cv2"), {})
    assert "'label': 'cat'" in capsys.readouterr().out


def test_the_specialist_of_the_guide_reads_a_member(tmp_path: Path, package: Path, guide: Guides) -> None:
    page = guide("bring-labels")
    (package / "longest.py").write_text(page.block("python", "# my_labels/longest.py"))
    entries = [
        ("0.txt", b"a dog"), ("0.captions.json", b'["a brown dog", "dog"]'), ("1.txt", b"a cat"),
        ("2.json", b"{}"), ("3.txt", b"a cow"), ("3.captions.json", b"no JSON"),
    ]  # fmt: skip
    (tmp_path / "00000.tar").write_bytes(data.tar(entries))
    settings = {"root": str(tmp_path / "out"), "samples": str(tmp_path / "00000.tar"), "modalities": ["caption"]}
    recipe = recipes.parse(settings | yaml.safe_load(page.blocks("yaml")[1]) | {"generate": {"chains": []}})
    data.make(recipe, data.outputs(recipe, tokens=False))
    _, captions = label_files.read_labels(str(tmp_path / "out/labels/caption/00000.parquet"))
    assert captions == ["a brown dog", "a cat", None, "a cow"]


# The modality and the codec


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes a module of the user's own where it can be imported; what it declares is forgotten after the test."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    with declared.forgotten() as names:

        def write(name: str, text: str) -> None:
            (folder / f"{name}.py").write_text(text)
            names.append(name)

        yield write


def _text_run(tmp_path: Path, module: str, name: str, infos: list[dict[str, Any]]) -> tuple[Recipe, Any]:
    """One shard with these sidecars through label, fit and tokenize; the record of the new column."""
    entries = []
    for i, info in enumerate(infos):
        entries += [(f"{i}.txt", b"words to fit on"), (f"{i}.json", json.dumps(info).encode())]
    (tmp_path / "00000.tar").write_bytes(data.tar(entries))
    samples = [str(tmp_path / "00000.tar")]
    chosen = {"modules": [module], "modalities": ["caption", name], "labels__keep": [name], "generate__chains": []}
    recipe = data.recipe(tmp_path / "out", samples, **chosen)
    data.make(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    records = data.make(recipe, data.outputs(recipe, labels=False))
    (record,) = [record for record in records if record.output == f"tokens/{name}"]
    return recipe, record


def test_the_modality_of_the_guide_becomes_a_column(
    tmp_path: Path, guide: Guides, module: Callable[[str, str], None]
) -> None:
    page = guide("add-a-modality")
    module("alt_text", page.block("python", "# alt_text.py"))
    recipe, record = _text_run(tmp_path, "alt_text", "alt_text", [{"alt": "a red door"}, {}, {"alt_text": "blue"}])
    assert (record.rows, record.rejects) == (3, [{"key": "1", "reason": "alt_text: there is none"}])
    column, text = _columns(Path(recipe.root), "alt_text", "00000"), codecs.load_text(recipe.root)
    assert text.decode(column.crop(0, 0)) == "a red door" and text.decode(column.crop(2, 0)) == "blue"
    assert column.spec.length == 64
    assert draw.draw("alt_text", "a red door") == draw.TextPanel("a red door")
    part = yaml.safe_load(page.blocks("yaml")[0])
    assert recipes.parse({"root": "out", "samples": "a.tar"} | part).modalities[-1] == "alt_text"


def test_picture_of_the_guide_becomes_a_column(
    tmp_path: Path, guide: Guides, module: Callable[[str, str], None]
) -> None:
    module("sketch", guide("add-a-modality").block("python", "# sketch.py"))
    shards = data.good_shards(tmp_path / "s", 1, 8)
    chosen = {
        "modules": ["sketch"], "modalities": ["tok_sketch", "caption"], "labels__keep": ["sketch"],
        "generate__chains": [],
    }  # fmt: skip
    recipe = data.recipe(tmp_path / "out", shards, **chosen)
    data.make(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    data.make(recipe, data.outputs(recipe, labels=False), stored=["sketch"])

    _, drawn = label_files.read_labels(str(tmp_path / "out/labels/sketch/train-00000.parquet"))
    assert all(picture.ndim == 3 and picture.min() < 200 < np.median(picture) for picture in drawn)
    record = ledger.read(recipe.root, "tokenizers", "tok_sketch")
    assert record is not None and record.identity["quality"]["psnr"] > 5
    column = _columns(tmp_path / "out", "tok_sketch", "train-00000")
    assert column.valid.all() and column.values.shape == (8, 1, 16)
    spec = next(spec for spec in recipe.specs() if spec.name == "tok_sketch")
    codec = codecs.load(spec, Project(recipe).codec_options(), recipe.root)
    assert codec.decode(column.crop(0, 0)).shape == (64, 64, 3)


def test_the_codec_of_the_guide_goes_both_ways(
    tmp_path: Path, guide: Guides, module: Callable[[str, str], None]
) -> None:
    page = guide("add-a-tokenizer")
    module("my_tags", page.block("python", "# my_tags.py"))
    tags = [{"tag": "old door", "confidence": 0.25}, {"tag": "red", "confidence": 1.0}]
    wrong = [{"tag": "red", "confidence": 2}]
    infos: list[dict[str, Any]] = [{"tags": tags}, {}, {"tags": wrong}, {"tags": []}]
    recipe, record = _text_run(tmp_path, "my_tags", "tags", infos)
    assert record.rejects == [
        {"key": "1", "reason": "tags: there are none"},
        {"key": "2", "reason": "tags: got the confidence 2; expected 0 to 1"},
    ]
    column = _columns(Path(recipe.root), "tags", "00000")
    spec = next(spec for spec in recipe.specs() if spec.name == "tags")
    codec = codecs.load(spec, codecs.Options(0, 64, 1), recipe.root)
    found = codec.decode(column.crop(0, 0))
    assert [tag["tag"] for tag in found] == ["red", "old door"]
    assert [tag["confidence"] for tag in found] == pytest.approx([1.0, 0.25], abs=1 / 999)
    assert codec.decode(column.crop(3, 0)) == []


def test_unimportable_module_or_taken_name_is_an_error(module: Callable[[str, str], None]) -> None:
    with pytest.raises(RecipeError, match=r"modules: cannot import 'no_such_module'.*PYTHONPATH"):
        recipes.parse({"root": "out", "samples": "a.tar", "modules": ["no_such_module"]})
    text = "from fourmill.modalities import *\nfrom fourmill.modalities import declare\n"
    module("thief", text + "declare(Label('depth', Storage.JSON, Form.RECORD, 'thief:X', 'another depth'))\n")
    with pytest.raises(RecipeError, match="depth: there is another declaration"):
        recipes.parse({"root": "out", "samples": "a.tar", "modules": ["thief"]})


# The formats


def test_the_code_of_the_formats_guide_runs(
    small_root: SmallRoot, guide: Guides, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(small_root.folder)
    blocks = guide("formats").blocks("python")
    assert blocks
    for block in blocks:
        space: dict[str, Any] = {}
        exec(block, space)
        assert capsys.readouterr().out.strip()


# Models


def test_the_code_of_the_generation_guide_runs(guide: Guides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tiny model of the published sizes of grids, and a small vocabulary."""
    text = WordPiece.fit(["a red boat", "two cats on a sofa"], vocab_size=5_000)
    text.save(tmp_path / "text")
    (tmp_path / "text" / "tokenizer.json").rename(tmp_path / "text_tokenizer_4m_wordpiece_30k.json")
    (tmp_path / "cat.jpg").write_bytes(data.encode(skimage.data.chelsea()))
    specs = [spec(name, image_size=224) for name in ("rgb", "tok_rgb", "tok_clip")]
    specs.append(spec("caption", image_size=224, vocab_size=text.vocab_size))
    sizes: dict[str, Any] = {"dim": 8, "num_heads": 2, "encoder_depth": 1, "decoder_depth": 1}
    model = FourM(FourMConfig(tuple(specs), **sizes)).eval()
    monkeypatch.setattr(ml4m, "load", lambda name: model)
    monkeypatch.chdir(tmp_path)
    block = guide("generate").block("python", "import numpy as np")
    space: dict[str, Any] = {}
    exec(block, space)
    assert space["described"]["tok_clip"].shape == (1, 196) and space["drawn"]["tok_rgb"].shape == (2, 196)
    assert isinstance(text.decode(space["described"]["caption"][0]), str)


def test_own_inputs_of_the_generation_guide_run(
    guide: Guides, every_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").symlink_to(every_run.parents[2])
    (tmp_path / "photo.jpg").write_bytes(data.encode(skimage.data.chelsea()))
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(guide("generate").block("python", "import fourmill"), space)
    (made,) = space["made"]
    assert list(made) == ["tok_depth", "caption"] and (tmp_path / "generated" / "index.html").exists()
