"""A recipe's own classes, from labels in the tar to labels, tokenizers, columns, pages and what `inspect` shows."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from fourmill_tests import data
from PIL import Image
from rich.console import Console

from fourmill.infra import ledger
from fourmill.modalities import COCO_PANOPTIC_CLASSES
from fourmill.pipelines.specialists.base import Item, Specialist
from fourmill.project import Project
from fourmill.recipe import Recipe, RecipeError, parse
from fourmill.report.inspect import inspect
from fourmill.report.inspect.view import view
from fourmill.tokenize import codecs, store
from fourmill.tokenize import labels as label_files
from fourmill.verbs import pages

CLASSES = {"semseg": ["sky", "floor", "ball", "box"], "det": ["ball", "box"]}
KEPT = ["semseg", "det", "metadata"]
MODALITIES = ["rgb", "tok_semseg", "det", "metadata", "caption"]


def entries(count: int, last_id: int = 2) -> list[tuple[str, bytes]]:
    """Pictures of a sky, a floor and a ball on it."""
    made = []
    for i in range(count):
        rows, columns = np.mgrid[:48, :64]
        ids = np.where(rows < 20, 0, 1).astype(np.uint8)
        ids[(rows - 24) ** 2 + (columns - 20 - 3 * i) ** 2 < 100] = last_id if i == count - 1 else 2
        boxes = [{"box": [(10 + 3 * i) / 64, 14 / 48, (30 + 3 * i) / 64, 34 / 48], "label": "ball"}]
        made += [
            (f"{i}.jpg", data.encode(data.picture(i, 64, 48))),
            (f"{i}.txt", b"a ball on the floor"),
            (f"{i}.semseg.png", data.encode(Image.fromarray(ids), "PNG")),
            (f"{i}.boxes.json", json.dumps(boxes).encode()),
        ]
    return made


def recipe_of(folder: Path, classes: dict[str, Any], **changes: Any) -> Recipe:
    members = {
        "semseg": {"specialist": "member", "name": "semseg.png"},
        "det": {"specialist": "member", "name": "boxes.json"},
    }
    settings = data.settings(
        folder / "out", str(folder / "a.tar"), modalities=MODALITIES, labels__keep=KEPT,
        labels__specialists=members, generate__chains=[], **changes,
    )  # fmt: skip
    return parse(settings | {"classes": classes})


@dataclass(frozen=True)
class Root:
    folder: Path
    recipe: Recipe

    @property
    def out(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """A root with own classes, up to its columns; of the last sample the map has a class beyond the list."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "a.tar").write_bytes(data.tar(entries(6, last_id=4)))
    recipe = recipe_of(folder, CLASSES)
    data.make(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    data.make(recipe, data.outputs(recipe, labels=False), stored=KEPT)
    (folder / "out" / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return Root(folder, recipe)


def test_labels_name_their_classes(made: Root) -> None:
    for label in ("semseg", "det"):
        record = ledger.read(made.recipe.root, f"labels/{label}", "a")
        assert record is not None and record.identity["classes"] == CLASSES[label]
        assert list(label_files.read_classes(str(made.out / f"labels/{label}/a.parquet"))) == CLASSES[label]
    record = ledger.read(made.recipe.root, "labels/semseg", "a")
    reason = "semseg: semseg.png: the ids 4, expected 0 to 3, or 255 for none; see classes"
    assert record is not None and record.rejects == [{"key": "5", "reason": reason}]
    _, values = label_files.read_labels(str(made.out / "labels/metadata/a.parquet"))
    assert values[0]["n_coco_instances"] == 1 and values[0]["semantic_diversity"] == 3
    assert 0.3 < values[0]["walkability"] < 0.6 and 0.05 < values[0]["objectness"] < 0.15
    assert "n_humans" not in values[0], "the list has no person"


def test_tokenizers_have_as_many_classes_and_know_them(made: Root) -> None:
    config = json.loads((made.out / "tokenizers/tok_semseg/config.json").read_text())
    assert (config["n_labels"], config["classes"]) == (5, CLASSES["semseg"])
    record = ledger.read(made.recipe.root, "tokenizers", "tok_semseg")
    assert record is not None and 0 <= record.identity["quality"]["miou"] <= 1
    assert codecs.load_text(made.recipe.root).classes == ("ball", "box")


def test_columns_say_the_classes_again(made: Root) -> None:
    project = Project(made.recipe)
    specs = {spec.name: spec for spec in project.recipe.specs(codecs.load_text(made.recipe.root).vocab_size)}
    column = store.read(str(made.out / "tokens/det/a.parquet"))
    codec = codecs.load(specs["det"], project.codec_options(), project.root)
    (box,) = codec.decode(column.crop(0, 0))
    assert box["label"] == "ball"
    column = store.read(str(made.out / "tokens/tok_semseg/a.parquet"))
    assert column.valid.tolist() == [True] * 5 + [False]
    codec = codecs.load(specs["tok_semseg"], project.codec_options(), project.root)
    assert set(np.unique(codec.decode(column.crop(0, 0))).tolist()) <= {0, 1, 2, 3, 255}


def test_pages_and_inspect_name_the_classes(made: Root) -> None:
    page = Path(pages.write_gallery(Project(made.recipe))).read_text()
    assert "3 classes: floor" in page and "4 classes of the recipe: sky, floor, ball, box" in page
    console = Console(width=200, record=True, file=io.StringIO())
    for path in ("", "labels/semseg/a.parquet", "labels/semseg"):
        console.print(view(inspect.look(str(made.out / path))))
        assert "3 classes: floor" in console.export_text()
    tokenizer = inspect.look(str(made.out / "tokenizers/tok_semseg"))
    assert tokenizer.facts["classes"] == CLASSES["semseg"]


def _prints(folder: Path, classes: dict[str, Any]) -> dict[str, str]:
    project = Project(recipe_of(folder, classes))
    labels = {f"labels/{name}": value for name, value in project.label_prints.current.items()}
    return labels | {f"fits/{name}": value for name, value in project.fit_fingerprints.items()}


@pytest.mark.parametrize(
    ("classes", "changed"),
    [
        ({"semseg": "coco_panoptic", "det": "coco"}, set()),
        ({"semseg": list(COCO_PANOPTIC_CLASSES)}, set()),
        ({"semseg": CLASSES["semseg"]}, {"labels/semseg", "labels/metadata", "fits/tok_semseg"}),
        ({"det": CLASSES["det"]}, {"labels/det", "labels/metadata", "fits/text"}),
    ],
)
def test_a_list_makes_again_what_depends_on_it(tmp_path: Path, classes: dict[str, Any], changed: set[str]) -> None:
    (tmp_path / "a.tar").touch()
    before, after = _prints(tmp_path, {}), _prints(tmp_path, classes)
    # Boxes that are named in the recipe's options are of COCO here, so that both recipes load.
    assert {name for name in before if before[name] != after[name]} == changed


def test_another_order_is_another_list(made: Root) -> None:
    turned = CLASSES | {"semseg": CLASSES["semseg"][::-1]}
    project = Project(recipe_of(made.folder, turned))
    assert set(project.fitted) == {"text"} and "labels/semseg" in project.plan(project.label_outputs).tasks["a"].outputs


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (CLASSES | {"semseg": ["a", "b", "c", "d"]}, "its classes are sky, floor, ball, ..., and not the recipe's"),
        (CLASSES | {"semseg": ["sky", "floor"]}, "its n_labels is 5, tok_semseg needs 3"),
        ({"det": CLASSES["det"]}, "its n_labels is 5, tok_semseg needs 134"),
    ],
)
def test_tokenizers_of_other_classes_are_refused(made: Root, classes: dict[str, Any], expected: str) -> None:
    weights = {"tok_semseg": {"weights": str(made.out / "tokenizers/tok_semseg")}}
    with pytest.raises(RecipeError, match=expected):
        Project(recipe_of(made.folder, classes, tokenizers__each=weights))
    own = Project(recipe_of(made.folder, CLASSES, tokenizers__each=weights))
    assert own.recipe.tokenizer("tok_semseg").codebook_size == 64


class Beyond(Specialist):
    """Class maps with an id that the list does not have."""

    label: ClassVar[str] = "semseg"

    def __call__(self, items: list[Item]) -> list[np.ndarray]:
        assert self.class_names() == ("sky", "floor", "ball", "box") and self.class_names("det") == ("ball", "box")
        return [np.full((48, 64), int(item.key), np.uint8) for item in items]


def test_ids_beyond_the_list_are_rejects_of_any_specialist(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(data.tar(entries(6)))
    recipe = recipe_of(tmp_path, CLASSES)
    recipe.labels.specialists["semseg"] = {"specialist": f"{__name__}:Beyond"}
    (record,) = data.make(recipe, {"labels/semseg": data.outputs(recipe, tokens=False)["labels/semseg"]})
    reason = "semseg: the class {}, expected 0 to 3, or 255 for none"
    assert record.rejects == [{"key": key, "reason": reason.format(key)} for key in ("4", "5")]


@pytest.mark.parametrize(
    ("label", "options", "expected"),
    [
        ("det", {"specialist": "hog_people"}, "it finds the class person alone, and classes.det lacks it"),
        ("human_poses", {}, "it looks at boxes of the class person, which classes.det lacks; add it"),
        (
            "semseg",
            {"specialist": "member", "name": "s.png", "classes": {0: "sea"}},
            "there is no 'sea'; there are ball",
        ),
    ],
)
def test_specialists_that_need_other_classes_are_refused(
    tmp_path: Path, label: str, options: dict[str, Any], expected: str
) -> None:
    (tmp_path / "a.tar").touch()
    settings = data.settings(
        tmp_path / "out", str(tmp_path / "a.tar"), modalities=["rgb"], labels__keep=[label],
        labels__specialists={label: options}, generate__chains=[],
    )  # fmt: skip
    with pytest.raises(RecipeError, match=expected):
        Project(parse(settings | {"classes": CLASSES}))
