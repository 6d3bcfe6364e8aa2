"""The examples of the guides do what they say: a specialist, a modality and a codec through the mill, files read."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import yaml
from fourmill_tests import data

from fourmill import modalities, stages
from fourmill import recipe as recipes
from fourmill.infra import ledger
from fourmill.modalities import LABELS, MODALITIES
from fourmill.pipelines.specialists import registry
from fourmill.recipe import Recipe, RecipeError
from fourmill.report import draw
from fourmill.tokenize import codecs, pixels, store
from fourmill.tokenize import labels as label_files

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
    records = data.mill(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    records += data.mill(recipe, data.outputs(recipe, labels=False), stored=["det"])

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


def test_another_option_makes_the_label_again_and_not_the_captions(
    tmp_path: Path, package: Path, guide: Guides
) -> None:
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
        registry.build(recipes.parse(settings))
    assert f"fourmill label: {caught.value}" in guide("add-a-specialist").text


def test_the_specialist_can_be_tried_by_hand(
    tmp_path: Path, package: Path, guide: Guides, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _cats(tmp_path, package, guide)
    (tmp_path / "cat.png").write_bytes(data.encode(skimage.data.chelsea(), "PNG"))
    monkeypatch.chdir(tmp_path)
    exec(guide("add-a-specialist").block("python", "import cv2"), {})
    assert "'label': 'cat'" in capsys.readouterr().out


# The modality and the codec


def _declare(page: Any, monkeypatch: pytest.MonkeyPatch, which: str = "") -> None:
    """The guide's two entries in the tables, as if modalities.py had them."""
    for table, name in ((LABELS, "LABELS"), (MODALITIES, "MODALITIES")):
        line = page.block("python", f"# modalities.py, in {name}{which}")
        (entry,) = eval(f"(\n{line})", vars(modalities))
        monkeypatch.setitem(table, entry.name, entry)


def _text_run(tmp_path: Path, name: str, infos: list[dict[str, Any]]) -> tuple[Recipe, Any]:
    """One shard with these sidecars through label, fit and tokenize; the record of the new column."""
    entries = []
    for i, info in enumerate(infos):
        entries += [(f"{i}.txt", b"words to fit on"), (f"{i}.json", json.dumps(info).encode())]
    (tmp_path / "00000.tar").write_bytes(data.tar(entries))
    samples = [str(tmp_path / "00000.tar")]
    recipe = data.recipe(
        tmp_path / "out", samples, modalities=["caption", name], labels__keep=[name], generate__chains=[]
    )
    data.mill(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    records = data.mill(recipe, data.outputs(recipe, labels=False))
    (record,) = [record for record in records if record.output == f"tokens/{name}"]
    return recipe, record


def test_the_modality_of_the_guide_becomes_a_column(
    tmp_path: Path, guide: Guides, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = guide("add-a-modality")
    _declare(page, monkeypatch)
    path = tmp_path / "alt_text.py"
    path.write_text(page.block("python", "# pipelines/specialists/alt_text.py"))
    spec = importlib.util.spec_from_file_location("fourmill.pipelines.specialists.alt_text", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)

    recipe, record = _text_run(tmp_path, "alt_text", [{"alt": "a red door"}, {}, {"alt_text": "blue"}])
    assert (record.rows, record.rejects) == (3, [{"key": "1", "reason": "alt_text: there is none"}])
    column, text = _columns(Path(recipe.root), "alt_text", "00000"), codecs.load_text(recipe.root)
    assert text.decode(column.crop(0, 0)) == "a red door" and text.decode(column.crop(2, 0)) == "blue"
    assert column.spec.length == 64
    assert draw.draw("alt_text", "a red door") == draw.Text("a red door")
    assert f"({MODALITIES['alt_text'].published_id()}, 30_000, 64)" in page.text


def test_the_picture_of_the_guide_is_fitted_and_becomes_a_column(
    tmp_path: Path, package: Path, guide: Guides, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = guide("add-a-modality")
    _declare(page, monkeypatch, ": a picture")
    monkeypatch.setattr(pixels, "_PICTURES", pixels._PICTURES | {"sketch"})  # read from the tables at its import
    (package / "sketch.py").write_text(page.block("python", "# my_labels/sketch.py"))
    shards = data.good_shards(tmp_path / "s", 1, 8)
    chosen = {"modalities": ["tok_sketch", "caption"], "labels__keep": ["sketch"], "generate__chains": []}
    recipe = data.recipe(tmp_path / "out", shards, **chosen)
    data.mill(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    data.mill(recipe, data.outputs(recipe, labels=False), stored=["sketch"])

    _, drawn = label_files.read_labels(str(tmp_path / "out/labels/sketch/train-00000.parquet"))
    assert all(picture.ndim == 2 and picture.min() < 200 < np.median(picture) for picture in drawn)
    record = ledger.read(recipe.root, "tokenizers", "tok_sketch")
    assert record is not None and record.identity["quality"]["psnr"] > 5
    column = _columns(tmp_path / "out", "tok_sketch", "train-00000")
    assert column.valid.all() and column.values.shape == (8, 1, 16)
    spec = next(spec for spec in recipe.specs() if spec.name == "tok_sketch")
    codec = codecs.load(spec, stages.codec_options(recipe), recipe.root)
    assert codec.decode(column.crop(0, 0)).shape == (64, 64)


@pytest.mark.parametrize("name", ["tok_depth", "tok_semseg", "human_poses", "sam_instance", "t5_caption"])
def test_what_the_guide_says_has_no_codec_has_none(name: str) -> None:
    assert "no tokenizer of this release" in codecs.unsupported(name)
    assert not codecs.unsupported("tok_sam_edge")


def test_the_guide_quotes_what_is_said_of_a_label_without_a_specialist(guide: Guides) -> None:
    recipe = recipes.parse({"root": "out", "samples": "a.tar", "modalities": ["tok_depth"]})
    with pytest.raises(RecipeError) as caught:
        registry.build(recipe)
    assert f"fourmill label: {caught.value}" in guide("add-a-modality").text.replace("\n", " ")


def test_the_codec_of_the_guide_goes_both_ways(
    tmp_path: Path, package: Path, guide: Guides, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = guide("add-a-tokenizer")
    _declare(page, monkeypatch)
    (package / "tags.py").write_text(page.block("python", "# my_labels/tags.py"))
    space = dict(vars(codecs))
    exec(page.block("python", "# tokenize/codecs.py"), space)
    line = page.block("python", "# tokenize/codecs.py, TEXT_CODECS")
    table = eval(f"{{\n{line}}}", space)
    assert {name: codec for name, codec in table.items() if name != "tags"} == codecs.TEXT_CODECS
    monkeypatch.setitem(codecs.TEXT_CODECS, "tags", table["tags"])

    tags = [{"tag": "old door", "confidence": 0.25}, {"tag": "red", "confidence": 1.0}]
    wrong = [{"tag": "red", "confidence": 2}]
    recipe, record = _text_run(tmp_path, "tags", [{"tags": tags}, {}, {"tags": wrong}, {"tags": []}])
    assert record.rejects == [
        {"key": "1", "reason": "tags: there are none"},
        {"key": "2", "reason": "tags: got the confidence 2; expected 0 to 1"},
    ]
    column = _columns(Path(recipe.root), "tags", "00000")
    spec = next(spec for spec in recipe.specs() if spec.name == "tags")
    codec = table["tags"](spec, codecs.Options(0, 64, 1), codecs.load_text(recipe.root))
    found = codec.decode(column.crop(0, 0))
    assert [tag["tag"] for tag in found] == ["red", "old door"]
    assert [tag["confidence"] for tag in found] == pytest.approx([1.0, 0.25], abs=1 / 999)
    assert codec.decode(column.crop(3, 0)) == []


# The formats


def test_the_code_of_the_formats_guide_runs(
    milled: Any, guide: Guides, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(milled.folder)
    blocks = guide("formats").blocks("python")
    assert blocks
    for block in blocks:
        space: dict[str, Any] = {}
        exec(block, space)
        assert capsys.readouterr().out.strip()
