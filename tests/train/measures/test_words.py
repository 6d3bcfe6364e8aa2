"""What captions name."""

from __future__ import annotations

import numpy as np
import pytest

from fourmill.train.measures import forms, words
from fourmill.train.measures.words import Vocabulary

NAMES = {"ball": ["ball", "sphere"], "box": ["box"], "dog": ["dog"], "hot dog": ["hot dog"], "bus": ["bus"]}
VOCABULARY = Vocabulary(NAMES, ["red", "blue", "grey"])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A red ball, left of two boxes.", {"ball", "box"}),
        ("SPHERES and buses", {"ball", "bus"}),
        ("a hot dog on a plate", {"hot dog"}),
        ("a dog and a hot dog", {"dog", "hot dog"}),
        ("a football in a mailbox", set()),
        ("", set()),
    ],
)
def test_names_are_whole_words(text: str, names: set[str]) -> None:
    assert VOCABULARY.names(text) == names


@pytest.mark.parametrize(
    ("text", "described"),
    [
        ("a red shiny metal ball on a grey floor", {"red ball"}),
        ("a red ball and a blue box", {"red ball", "blue box"}),
        ("a red ball and a box", {"red ball"}),  # the colour of the ball is not that of the box
        ("a red and blue box", {"red box", "blue box"}),
        ("two small red and grey striped boxes", {"red box", "grey box"}),
        ("a ball and blue boxes", {"blue box"}),
        ("something red, far away, behind the dog", set()),
    ],
)
def test_a_colour_belongs_to_the_next_name(text: str, described: set[str]) -> None:
    assert VOCABULARY.colours(text) == described


def test_f1_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    said, there = rng.random((2, 9, 5)) < 0.4
    sets = [[frozenset(np.flatnonzero(row).astype(str)) for row in rows] for rows in (said, there)]
    total = forms.add([words.sums(*pair) for pair in zip(*sets, strict=True)])
    assert words.summary(total)["f1"] == pytest.approx(f1_score(there, said, average="micro"))
    nothing = words.sums(frozenset(), frozenset())
    assert np.isnan(words.summary(nothing)["f1"])
