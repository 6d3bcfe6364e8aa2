"""Lists of classes of a recipe's own: what may be in one, and the words that boxes say with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourmill import modalities
from fourmill import recipe as recipes
from fourmill.modalities import COCO_CLASSES, COCO_PANOPTIC_CLASSES
from fourmill.recipe import RecipeError
from fourmill.tokenize import class_lists, text_codecs
from fourmill.tokenize.codec import Options
from fourmill.tokenize.crops import Crop
from fourmill.tokenize.text.sentences import boxes_to_text, folded, text_to_boxes
from fourmill.tokenize.text.wordpiece import COORDINATES, NUM_SENTINELS, WordPiece

OWN = ("ball", "hard hat", "T-shirt", "B\u00e4r", "bear trap", "c++")


def recipe(classes: Any) -> recipes.Recipe:
    return recipes.parse({"root": "out", "samples": "a.tar", "classes": classes})


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ({}, {}),
        ({"det": "coco", "semseg": "coco_panoptic"}, {}),
        ({"det": list(COCO_CLASSES), "semseg": list(COCO_PANOPTIC_CLASSES)}, {}),
        ({"det": ["ball", "box"]}, {"det": ("ball", "box")}),
        ({"semseg": "coco"}, {"semseg": COCO_CLASSES}),
    ],
)
def test_lists_are_those_that_are_not_the_labels_own(classes: Any, expected: Any) -> None:
    assert recipe(classes).class_lists == expected


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ({"caption": ["a"]}, "classes: 'caption' is no label with classes; there are det, semseg"),
        ({"semsge": ["a"]}, "classes: 'semsge' is no label with classes; did you mean 'semseg'?"),
        ({"semseg": "coco_panoptc"}, "classes.semseg: there is no list 'coco_panoptc'; did you mean 'coco_panoptic'?"),
        ({"semseg": []}, "classes.semseg: the list is empty; name at least one class, or leave it out for COCO's"),
        ({"semseg": ["sky", ""]}, "classes.semseg: got the name ''; expected words with one space between them"),
        ({"det": [" ball"]}, "classes.det: got the name ' ball'; expected words with one space between them"),
        ({"det": ["ball", "ball"]}, "classes.det: 'ball' is there twice"),
        ({"det": ["bar", "B\u00e4r"]}, "classes.det: 'B\u00e4r' is there twice, as 'bar' too"),
        ({"det": ["v0=7"]}, "classes.det: 'v0=7' has a meaning of its own in sentences; choose another name"),
        ({"det": ["Point"]}, "classes.det: 'Point' has a meaning of its own in sentences; choose another name"),
        ({"det": ["[EOS]"]}, "classes.det: '[EOS]' has a meaning of its own in sentences; choose another name"),
        ({"semseg": [str(i) for i in range(255)]}, "classes.semseg: got 255 classes, expected at most 254"),
        ({"semseg": [True]}, "classes.semseg.list[str].0: Input should be a valid string, got True"),
    ],
)
def test_wrong_lists_are_refused_in_a_sentence(classes: Any, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(classes)
    assert expected in str(caught.value)


def test_numbers_of_classes_follow_the_lists() -> None:
    lists = {"semseg": ("a", "b"), "det": ("c",)}
    assert class_lists.n_labels("tok_semseg", lists) == 3 and class_lists.n_labels("tok_semseg", {}) == 134
    assert class_lists.n_labels("sam_mask", lists) == 2 and class_lists.n_labels("tok_rgb", lists) == 0
    assert recipe({"semseg": [str(i) for i in range(254)]}).class_lists["semseg"][-1] == "253"


@pytest.fixture(scope="module")
def words() -> WordPiece:
    return WordPiece.fit(["a red ball and a bear"], vocab_size=5_000, classes=OWN)


def test_each_class_is_one_word_in_any_case(words: WordPiece) -> None:
    first = 4 + NUM_SENTINELS + len(COORDINATES)
    ids = [int(words.encode(name, 9)[0]) for name in sorted(OWN)]
    assert ids == list(range(first, first + len(OWN)))
    for name in OWN:
        for spelt in (name, name.upper(), name.lower()):
            encoded = words.encode(f"v3=7 {spelt}", 9)
            assert len(encoded) == 3 and words.decode(encoded) == f"v3=7 {folded(name)}"
    assert len(words.encode("person", 9)) > 2, "COCO's are words like others"


BOX = st.lists(st.floats(0, 1), min_size=4, max_size=4).map(lambda c: [min(c[0], c[2]), min(c[1], c[3]), *_upper(c)])


def _upper(c: list[float]) -> list[float]:
    return [max(c[0], c[2]), max(c[1], c[3])]


@given(st.lists(st.tuples(BOX, st.sampled_from(OWN)), max_size=4))
def test_boxes_of_own_classes_come_back(words: WordPiece, boxes: list[tuple[list[float], str]]) -> None:
    label = [{"box": box, "label": name, "score": 1.0} for box, name in boxes]
    text = boxes_to_text(label, 100, 100, Crop(0, 0, 100, 100, False), classes=OWN)
    read = words.decode(words.encode(text, 256))
    assert read == folded(text)
    back = text_to_boxes(read, OWN)
    assert back == text_to_boxes(text, OWN)
    written = [one for one in label if one["box"][0] < one["box"][2] and one["box"][1] < one["box"][3]]
    assert sorted(one["label"] for one in back) == sorted(one["label"] for one in written)


def test_boxes_of_a_generated_sentence_have_scores(words: WordPiece) -> None:
    """What is broken has none, and takes no other's."""
    codec = text_codecs.Boxes(modalities.spec("det", image_size=224), Options(0, 224, 1), words)
    parts = [f"v0=1 v1=2 v2=300 v3=400 {OWN[0]}", "v0=5 v1=6", f"v0=9 v1=2 v2=3 v3=4 {OWN[1]}"]
    parts.append(f"v0=0 v1=0 v2=9 v3=9 {OWN[1]}")
    ids = [int(one) for part in parts for one in words.encode(part, 99)[:-1]]
    probability = [0.5, 0.5, 0.5, 0.5, 0.75, 0.1, 0.1, *[0.2] * 5, 0.5, 0.5, 0.5, 0.5, 0.25]
    found = codec.scored(ids, probability)
    assert [(one["label"], one["score"]) for one in found] == [(OWN[0], 0.75), (OWN[1], 0.25)]
    assert [{k: v for k, v in one.items() if k != "score"} for one in found] == codec.parse(" ".join(parts))
    assert codec.scored([], []) == []


def test_classes_that_the_recipe_lacks_are_refused() -> None:
    box = {"box": [0, 0, 1, 1], "label": "person", "score": 1.0}
    with pytest.raises(ValueError, match=r"^det: got the class 'person'; expected one of the 6 classes of the recipe$"):
        boxes_to_text([box], 10, 10, Crop(0, 0, 10, 10, False), classes=OWN)


def test_a_saved_vocabulary_knows_its_classes(words: WordPiece, tmp_path: Path) -> None:
    words.save(tmp_path / "own")
    assert WordPiece.load(tmp_path / "own").classes == OWN
    coco = WordPiece.fit(["a dog"], vocab_size=5_000)
    coco.save(tmp_path / "coco")
    assert WordPiece.load(tmp_path / "coco").classes == COCO_CLASSES == coco.classes
    assert "classes" not in (tmp_path / "coco" / "config.json").read_text()
    assert words.fingerprint() != coco.fingerprint()
    (tmp_path / "own" / "config.json").write_text('{"classes": "ball"}')
    (tmp_path / "own" / "sums.json").unlink()
    with pytest.raises(ValueError, match="names no list of classes; fit it again"):
        WordPiece.load(tmp_path / "own")


def test_254_classes_fit_into_the_smallest_vocabulary() -> None:
    names = [f"class {i}" for i in range(254)]
    small = WordPiece.fit(["a"], vocab_size=4_700, max_alphabet=40, classes=names)
    ids = np.array([small.encode(name, 3)[0] for name in names])
    assert len(set(ids.tolist())) == 254
