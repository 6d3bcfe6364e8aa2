"""Captions name what is clearly there, in its colour and on its side."""

from __future__ import annotations

import re

import numpy as np
import pytest
from fourmill_tests.tiny import scenes

from fourmill.pipelines.scenes import kinds
from fourmill.pipelines.scenes.captions import Caption, caption, relations
from fourmill.pipelines.scenes.render import Rendered, render
from fourmill.pipelines.scenes.seen import seen
from fourmill.pipelines.scenes.world import Scene

SHAPE_WORDS = {word: shape for shape, row in kinds.SHAPES.items() for word in row.words}
MATERIAL_WORDS = [word for row in kinds.MATERIALS.values() for word in row.words if word]
THING = re.compile(
    rf"({'|'.join(kinds.COLOURS)})( and (?:white|black))?((?: (?:{'|'.join(MATERIAL_WORDS)}))*)"
    rf" ({'|'.join(SHAPE_WORDS)})(?:e?s)?\b"
)
SIDES = {"to the left of": -1, "left of": -1, "to the right of": 1, "right of": 1}

Case = tuple[Scene, Rendered, Caption]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    made = []
    for clutter in ("simple", "medium", "cluttered"):
        for scene in scenes.drawn(30, clutter, seed=11):
            rendered = render(scene, 48)
            made.append((scene, rendered, caption(scene, rendered)))
    return made


def test_only_what_is_clear_is_named(cases: list[Case]) -> None:
    for scene, rendered, said in cases:
        clear = {one.thing.id for one in seen(scene, rendered) if one.clear}
        assert set(said.named) <= clear and (said.named or not clear)


def test_every_phrase_is_true_of_a_thing_that_is_named(cases: list[Case]) -> None:
    found = 0
    for scene, _, said in cases:
        named = [thing for thing in scene.things if thing.id in said.named]
        matches = THING.finditer(said.text)
        phrases = {(match[1], (match[2] or " and ").split()[-1], SHAPE_WORDS[match[4]]) for match in matches}
        true = {(thing.colour, thing.second or "and", thing.shape) for thing in named}
        assert phrases == true, said.text
        found += len(phrases)
    assert found > 150


def test_sides_are_those_of_the_instance_map(cases: list[Case]) -> None:
    checked = set()
    for scene, rendered, said in cases:
        middle = {i: np.nonzero(rendered.instances == i)[1].mean() for i in said.named}
        depth = {i: np.median(rendered.depth[rendered.instances == i]) for i in said.named}
        for relation in said.relations:
            one, other = relation.one, relation.other
            holds = {
                "left": middle[one] < middle[other], "right": middle[one] > middle[other],
                "front": depth[one] < depth[other], "behind": depth[one] > depth[other],
                "on": scene.things[one - 1].support == other,
            }  # fmt: skip
            assert holds[relation.kind], said.text
            checked.add(relation.kind)
    assert checked >= {"left", "right", "front", "behind"}


def test_the_text_says_the_relation() -> None:
    """A red ball on the left of a blue box: whichever form is drawn, the words have these sides."""
    ball = scenes.thing("ball", (-0.8, 0.4, 0.0), (0.4, 0.4, 0.4), colour="red", id=1, size="medium")
    box = scenes.thing("box", (0.8, 0.4, 0.0), (0.4, 0.4, 0.4), colour="blue", id=2, size="medium")
    scene = scenes.scene(ball, box)
    rendered = render(scene, 48)
    sides = set()
    for index in range(60):
        object.__setattr__(scene, "index", index)
        text = caption(scene, rendered).text
        for words, side in SIDES.items():
            match = re.search(rf"(red|blue) \S+ (?:is |stands |lies )?{words} an? (?:matte )?(red|blue)", text)
            if match:
                assert match[1] != match[2] and (match[1] == "red") == (side < 0), text
                sides.add(side)
        if "on the left" in text:
            assert text.index("red") < text.index("on the left") < text.index("blue") < text.index("on the right")
    assert sides == {-1, 1}


def test_relations_hold_in_both_directions(cases: list[Case]) -> None:
    inverse = {"left": "right", "right": "left", "front": "behind", "behind": "front"}
    for scene, rendered, _ in cases[:20]:
        found = {(r.one, r.kind, r.other) for r in relations(seen(scene, rendered))}
        assert {(b, inverse[kind], a) for a, kind, b in found if kind != "on"} == {r for r in found if r[1] != "on"}


def test_captions_are_english_and_varied(cases: list[Case]) -> None:
    texts = [said.text for _, _, said in cases]
    assert len(set(texts)) == len(texts)
    assert len({text.split()[0] for text in texts}) > 4
    for text in texts:
        assert text[0].isupper() and text.isascii() and "  " not in text and not re.search(r"[ ,][.,]|\.\.", text)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
        assert len(text.split()) < 70


def test_numbers_count_what_shows(cases: list[Case]) -> None:
    numbers = ["no", "one", "two", "three", "four", "five", "six"]
    counted = 0
    for scene, rendered, said in cases:
        match = re.match(rf"({'|'.join(numbers)}) (objects|things) ", said.text.lower())
        if match:
            counted += 1
            assert numbers.index(match[1]) == len(seen(scene, rendered)) == len(said.named)
    assert counted > 3
