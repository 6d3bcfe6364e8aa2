"""What a caption names: things of a list, and their colours, found by whole words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from .forms import Sums

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+")
_REACH = 3  # words before a name in which its colour may stand: "red shiny metal ball"


class Vocabulary:
    """Names, with the words that say each.

    Args:
        names: name -> what says it, of one or several words ("fire hydrant"); so does the plural with s or es.
        colours: words for colours.
    """

    def __init__(self, names: Mapping[str, Sequence[str]], colours: Sequence[str] = ()) -> None:
        self._words = {tuple(_split(word)): name for name, words in names.items() for word in words}
        self._longest = max(map(len, self._words), default=0)
        self._colours = {colour.lower() for colour in colours}

    def names(self, text: str) -> frozenset[str]:
        """The names that a text says."""
        return frozenset(name for name, _ in self._found(_split(text)))

    def colours(self, text: str) -> frozenset[str]:
        """ "red ball" for each name with a colour among the few words before it: the nearest one, or two with an "and"
        between them ("a red and white ball").
        """
        words, described = _split(text), set()
        before = 0
        for name, place in self._found(words):
            near = [i for i in range(max(before, place - _REACH), place) if words[i] in self._colours]
            if near:
                last = near[-1]
                described.add(f"{words[last]} {name}")
                if last - 2 >= before and words[last - 1] == "and" and words[last - 2] in self._colours:
                    described.add(f"{words[last - 2]} {name}")
            before = place + 1
        return frozenset(described)

    def _found(self, words: Sequence[str]) -> list[tuple[str, int]]:
        """Names and where they begin, in order; the longest name at a place counts ("hot dog" is no dog)."""
        found, place = [], 0
        while place < len(words):
            for length in range(min(self._longest, len(words) - place), 0, -1):
                name = self._name(words[place : place + length])
                if name is not None:
                    found.append((name, place))
                    place += length - 1
                    break
            place += 1
        return found

    def _name(self, words: Sequence[str]) -> str | None:
        last = words[-1]
        for ending in ("", "s", "es"):
            if last.endswith(ending):
                name = self._words.get((*words[:-1], last.removesuffix(ending)))
                if name is not None:
                    return name
        return None


def _split(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def sums(predicted: frozenset[str], true: frozenset[str]) -> Sums:
    """What of one sample adds up: names that are right, said, and there."""
    counts = {"right": len(predicted & true), "said": len(predicted), "there": len(true)}
    return {name: np.asarray(count, np.float64) for name, count in counts.items()}


def summary(total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`f1`, `precision` and `recall` over the names of all samples; NaN where there is none."""
    right, said, there = (total[name] for name in ("right", "said", "there"))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"f1": 2 * right / (said + there), "precision": right / said, "recall": right / there}
