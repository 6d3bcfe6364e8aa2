"""Captions of rendered scenes: plain English from a small grammar, true of what the image shows.

Only things that are clear (seen.Seen.clear) are named. Left and right are those of the viewer, by the middle of the
visible pixels; in front and behind are by depth; on top is by what a thing stands on. A caption is a pure function of
the scene and its truth: its random numbers are the scene's own, apart from those that drew it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

from ...infra.explain import listing
from . import kinds
from .draw import generator
from .render import Rendered
from .seen import Seen, grounds, seen
from .world import Scene, Surface

MOST_NAMED = 5
_ASIDE = 0.12  # of the image's width, from which something is left of something else
_BEYOND = 0.4  # metres, from which something is behind something else
_NEAR = 0.25  # of the image's width: what is in front of something is not far aside of it
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "front": ("in front of",),
    "behind": ("behind",),
    "on": ("on top of", "on"),
}


@dataclass(frozen=True)
class Relation:
    """`kind` (a key of left, right, front, behind, on) of the thing `one` to the thing `other`, by instance."""

    one: int
    kind: str
    other: int


@dataclass(frozen=True)
class Caption:
    """The text, and what it says: the instances that it names and the relations between them."""

    text: str
    named: tuple[int, ...]
    relations: tuple[Relation, ...] = ()


def caption(scene: Scene, rendered: Rendered) -> Caption:
    """The caption of a scene, as it is rendered."""
    return _Writer(scene, rendered).write()


def relations(shown: Sequence[Seen]) -> list[Relation]:
    """Every relation that clearly holds between two of the things shown, each in both directions."""
    found = []
    for one, other in permutations(shown, 2):
        aside = one.centre[0] - other.centre[0]
        stacked = one.thing.support == other.thing.id or other.thing.support == one.thing.id
        if one.thing.support == other.thing.id:
            found.append(Relation(one.thing.id, "on", other.thing.id))
        if stacked:
            continue
        if abs(aside) >= _ASIDE:
            found.append(Relation(one.thing.id, "right" if aside > 0 else "left", other.thing.id))
        if abs(one.depth - other.depth) >= _BEYOND and abs(aside) < _NEAR:
            found.append(Relation(one.thing.id, "behind" if one.depth > other.depth else "front", other.thing.id))
    return found


class _Writer:
    def __init__(self, scene: Scene, rendered: Rendered) -> None:
        self.scene = scene
        self.rng = generator(scene.seed, scene.split, scene.index, purpose=1)
        everything = seen(scene, rendered)
        clear = sorted((one for one in everything if one.clear), key=lambda one: -one.pixels)
        self.shown = clear[:MOST_NAMED]
        self.complete = len(self.shown) == len(everything)
        self.grounds = grounds(rendered)
        # The same words for the same thing throughout a caption.
        self.phrases = {one.thing.id: self.phrase(one) for one in self.shown}

    def write(self) -> Caption:
        forms = [self.listing, self.listing, self.sentence]
        if len(self.shown) > 1:
            forms += [self.related, self.related, self.related, self.placed]
        if self.complete and len(self.shown) > 1:
            forms += [self.counted] * 3
        text, said = forms[int(self.rng.integers(len(forms)))]()
        text = text[0].upper() + text[1:]
        if self.rng.random() < 0.35 and not text.endswith("."):
            return Caption(text, self.named(text, said), tuple(said))
        return Caption(text.removesuffix(".") + ".", self.named(text, said), tuple(said))

    def named(self, text: str, said: Sequence[Relation]) -> tuple[int, ...]:
        """All that are shown are listed, but for captions of relations alone."""
        if not said:
            return tuple(one.thing.id for one in self.shown)
        return tuple(dict.fromkeys(i for relation in said for i in (relation.one, relation.other)))

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def phrase(self, one: Seen) -> str:
        """Noun phrase without an article: "small shiny red ball"."""
        thing = one.thing
        size = thing.size if thing.size != "medium" and self.rng.random() < 0.75 else ""
        shape, word = self.pick(kinds.SHAPES[thing.shape].words), self.pick(thing.look.words)
        colour = f"{thing.colour} and {thing.second}" if thing.second else thing.colour
        if thing.look.pattern or thing.material == "metal":
            words = [size, colour, word, shape]
        else:
            words = [size, word if self.rng.random() < 0.6 else "", colour, shape]
        return " ".join(filter(None, words))

    def ground(self) -> str:
        """Where it all is: "on a grey tiled floor in front of a beige wall"; "" if nothing of it is to be said."""
        parts = []
        if kinds.FLOOR in self.grounds and self.rng.random() < 0.9:
            parts.append(f"on {_with_article(_surface(self.scene.floor, kinds.FLOOR_PATTERNS))} floor")
        if kinds.WALL in self.grounds and self.rng.random() < 0.7:
            wall = f"{_with_article(_surface(self.scene.walls[0], kinds.WALL_PATTERNS))} wall"
            parts.append(f"{self.pick(['in front of', 'before'])} {wall}")
        if kinds.SKY in self.grounds and self.rng.random() < 0.6:
            parts.append(f"under {self.scene.sky.words}")
        return " ".join(parts)

    def listed(self, order: Sequence[Seen]) -> str:
        """ "a red ball, two blue cones and a box"."""
        counts: dict[str, int] = {}
        for one in order:
            counts[self.phrases[one.thing.id]] = counts.get(self.phrases[one.thing.id], 0) + 1
        return listing([_with_article(p) if n == 1 else f"{_NUMBERS[n]} {_plural(p)}" for p, n in counts.items()])

    def listing(self) -> tuple[str, list[Relation]]:
        if not self.shown:
            return self.empty()
        what = self.listed(self.shown)
        opening = self.pick(["{}", "{}", "a picture of {}", "there is {}", "we see {}", "a scene with {}"])
        if opening.startswith("there is") and not what.startswith(("a ", "an ")):
            opening = "there are {}"
        return " ".join(filter(None, [opening.format(what), self.ground()])), []

    def sentence(self) -> tuple[str, list[Relation]]:
        """Two sentences: the things, and what is around them."""
        if not self.shown:
            return self.empty()
        around = []
        if kinds.FLOOR in self.grounds:
            around.append(f"the floor is {_surface(self.scene.floor, kinds.FLOOR_PATTERNS, joined=' and ')}")
        if kinds.WALL in self.grounds:
            around.append(f"the wall is {_surface(self.scene.walls[0], kinds.WALL_PATTERNS, joined=' and ')}")
        text = listing(around)
        return f"{self.listed(self.shown)}. {text[:1].upper()}{text[1:]}".strip(". ") + ".", []

    def counted(self) -> tuple[str, list[Relation]]:
        """All that there is, with its number."""
        where = self.ground() or "in the picture"
        noun = self.pick(["objects", "things"])
        return f"{_NUMBERS[len(self.shown)]} {noun} {where}: {self.listed(self.shown)}", []

    def placed(self) -> tuple[str, list[Relation]]:
        """From left to right, where gaps are wide enough."""
        row = sorted(self.shown[:3], key=lambda one: one.centre[0])
        gaps = [right.centre[0] - left.centre[0] for left, right in pairwise(row)]
        if min(gaps) < _ASIDE:
            return self.related()
        sides = ["on the left", "in the middle", "on the right"] if len(row) == 3 else ["on the left", "on the right"]
        parts = [f"{_with_article(self.phrases[o.thing.id])} {side}" for o, side in zip(row, sides, strict=True)]
        said = [Relation(a.thing.id, "left", b.thing.id) for a, b in pairwise(row)]
        where = self.ground()
        return listing(parts) + (self.pick([" ", ", "]) + where if where else ""), said

    def related(self) -> tuple[str, list[Relation]]:
        """One or two relations, between things that are called by different words."""
        options = [r for r in relations(self.shown) if self.phrases[r.one] != self.phrases[r.other]]
        if not options:
            return self.listing()
        first = options[int(self.rng.integers(len(options)))]
        verb = self.pick(["is", "stands", "lies"]) if self.rng.random() < 0.6 else ""
        text = self.clause(first, verb, "a")
        said = [first]
        more = [r for r in options if r.other == first.one and r.one != first.other]
        unclear = sum(self.phrases[i] == self.phrases[first.one] for i in self.phrases) > 1
        if more and not unclear and self.rng.random() < 0.5:
            second = more[int(self.rng.integers(len(more)))]
            said.append(second)
            following = self.clause(second, "is", "the")
            return f"{text}. {following[0].upper()}{following[1:]}.", said
        return " ".join(filter(None, [text, self.ground() if self.rng.random() < 0.7 else ""])), said

    def clause(self, relation: Relation, verb: str, article: str) -> str:
        """ "a red ball is behind a blue box"; `article` is the one of the other thing."""
        other = self.phrases[relation.other]
        other = _with_article(other) if article == "a" else f"the {other}"
        one = _with_article(self.phrases[relation.one])
        return " ".join(filter(None, [one, verb, self.pick(_WORDS[relation.kind]), other]))

    def empty(self) -> tuple[str, list[Relation]]:
        """Nothing can be made out."""
        return f"a scene {self.ground() or 'with things that are hard to make out'}", []


def _surface(surface: Surface, patterns: dict[str, str], joined: str = " ") -> str:
    return joined.join(filter(None, [surface.colour, patterns[surface.pattern]]))


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _plural(phrase: str) -> str:
    return f"{phrase}es" if phrase.endswith("x") else f"{phrase}s"
