"""What answers and truth are compared by: one judge for each kind of label.

An *answer* and a *reference* are of one sample, in the frame of its crop and in the judge's own form; None where there
is none. A judge makes them of members of the source tar (`of_truth`) and of labels that were stored or decoded
(`of_label`), and says what the answers to all samples are worth (`statistic`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ....modalities import Form, Size
from ....tokenize.inputs import unit
from ...measures import forms, words
from ...measures.forms import DISTANCE, Sums
from ...measures.resample import Statistic, of_sums
from ...measures.words import Vocabulary
from ..ensemble import average
from . import truth
from .settings import Truth
from .truth import Frame


class Judge(Protocol):
    """measures: what `statistic` gives, the most usual one first."""

    @property
    def measures(self) -> tuple[str, ...]: ...

    def of_truth(self, data: bytes, frame: Frame) -> Any:
        """The reference of a sample from its member. ValueError if it is not what it should be.

        Args:
            frame: of the image.
        """

    def of_label(self, value: Any) -> Any:
        """An answer, or a reference, from a label in the frame of the crop."""

    def as_label(self, reference: Any) -> Any:
        """A reference as a label in the frame of the crop, for the tokenizer; None if it cannot be one."""

    def constant(self, references: Iterable[Any]) -> Any:
        """The answer that is best of those that look at nothing, from references of training samples."""

    def together(self, answers: Sequence[Any]) -> Any:
        """One answer of several to the same sample."""

    def statistic(self, answers: Sequence[Any], references: Sequence[Any]) -> Statistic | None:
        """What the answers are worth; None if no sample has both."""


def summed(parts: Sequence[Sums | None], summary: Any) -> Statistic | None:
    """A statistic of sums, where samples that have none add nothing."""
    some = next((part for part in parts if part is not None), None)
    if some is None:
        return None
    nothing = {name: np.zeros_like(value) for name, value in some.items()}
    return of_sums([nothing if part is None else part for part in parts], summary)


class Maps:
    """Depth, normals and classes. A reference is (values, valid), an answer values alone or the same."""

    def __init__(self, form: Form, size: Size, given: Truth | None, names: Sequence[str]) -> None:
        self.form, self.size, self.given = form, size, given
        # Distances that a scanner measured have a unit, relative depth has none.
        self._inverse = form is Form.DEPTH and given is not None and bool(given.inverse)
        self._measured_as = DISTANCE if form is Form.DEPTH and given is not None else form.value
        self.measures = _MEASURES[form]
        self._table = None if given is None else _class_table(given, names)

    def of_truth(self, data: bytes, frame: Frame) -> Any:
        assert self.given is not None
        values = truth.shown(truth.array(data, self.given.member), frame)
        if self.form is Form.CLASSES:
            return truth.classes(values, self.size, self._table), None
        if self.form is Form.NORMALS:
            return truth.normals(values, self.size)
        distances, valid = truth.depth(values, self.size)
        return (np.where(valid, 1 / np.where(valid, distances, 1), 0) if self._inverse else distances), valid

    def of_label(self, value: Any) -> Any:
        # Labels of depth are 0 near and 1 far, the inverse of distances is the largest where it is near.
        return (1 - value if self._inverse else value), None

    def as_label(self, reference: Any) -> Any:
        # Distances are no label of depth: what scale the labels have, their specialist knows.
        return None if self.form is Form.DEPTH else reference[0]

    def constant(self, references: Iterable[Any]) -> Any:
        """The mean of each pixel, of depth that is standardized; of classes each pixel's most frequent one."""
        if self.form is Form.CLASSES:
            votes = sum(np.eye(truth.NONE + 1, dtype=np.int32)[values] for values, _ in references)
            return np.asarray(votes)[..., : truth.NONE].argmax(-1).astype(np.uint8), None
        total, counts = np.zeros(1), np.zeros(1)
        for values, valid in references:
            known = np.ones(values.shape[:2], bool) if valid is None else valid
            if known.any():
                total = total + np.where(_as(known, values), self._centred(values, known), 0)
                counts = counts + known
        mean = total / np.maximum(_as(counts, total), 1)
        return (unit(mean) if self.form is Form.NORMALS else mean), None

    def _centred(self, values: np.ndarray, known: np.ndarray) -> np.ndarray:
        if self.form is not Form.DEPTH:
            return values
        standard = np.zeros(values.shape)
        standard[known] = forms.standardized(values[known].astype(np.float64))
        return standard

    def together(self, answers: Sequence[Any]) -> Any:
        return average(self.form, np.stack([values for values, _ in answers])[:, None])[0], None

    def statistic(self, answers: Sequence[Any], references: Sequence[Any]) -> Statistic | None:
        form, parts = self._measured_as, []
        for answer, reference in zip(answers, references, strict=True):
            known = answer is not None and reference is not None
            parts.append(forms.sums(form, answer[0], reference[0], reference[1]) if known else None)
        return summed(parts, lambda total: forms.summary(form, total))


_MEASURES: dict[Form, tuple[str, ...]] = {
    Form.NORMALS: ("mean_degrees", "median_degrees", *(f"below_{limit:g}" for limit in forms.SHARES)),
    Form.DEPTH: ("l1", "abs_rel", "delta1"),
    Form.CLASSES: ("miou", "accuracy"),
}


def _as(flat: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(H, W) with the axes that values (H, W, ...) have."""
    return flat.reshape(flat.shape + (1,) * (values.ndim - flat.ndim))


def _class_table(given: Truth, names: Sequence[str]) -> dict[int, int] | None:
    """The label's class of each id of the file. ValueError for a name that the label does not have."""
    if given.classes is None:
        return None
    place = {name: number for number, name in enumerate(names)}
    if unknown := [name for name in given.classes if name is not None and name not in place]:
        raise ValueError(
            f"evaluate.truth: the label has no class {', '.join(map(repr, unknown[:5]))}; it has {', '.join(names[:9])}"
            f"{', ...' if len(names) > 9 else ''}; null stands for none"
        )
    return {number: place[name] for number, name in enumerate(given.classes) if name is not None}


class Captions:
    """What captions name. A reference, and an answer, is (names, names with colours)."""

    measures = ("f1", "colour_f1", "precision", "recall", "colour_precision", "colour_recall")

    def __init__(self, given: Truth | None, names: Sequence[str], colours: Sequence[str]) -> None:
        self.given = given
        self._names = {name: [name] for name in names}
        if given is not None:
            self._names |= {name: [name, *more] for name, more in given.words.items()}
        self.vocabulary = Vocabulary(self._names, colours)

    def of_truth(self, data: bytes, frame: Frame) -> Any:
        assert self.given is not None
        objects = [one for one in seen_objects(data, self.given) if one[0] in self._names]
        described = (f"{colour} {name}" for name, colours in objects for colour in colours)
        return frozenset(name for name, _ in objects), frozenset(described)

    def of_label(self, value: Any) -> Any:
        return self.vocabulary.names(str(value)), self.vocabulary.colours(str(value))

    def as_label(self, reference: Any) -> Any:
        return None  # a caption cannot be made of what it names

    def constant(self, references: Iterable[Any]) -> Any:
        """The most frequent set of names, and of names with colours."""
        both = list(references)
        return tuple(Counter(one[i] for one in both).most_common(1)[0][0] for i in (0, 1))

    def together(self, answers: Sequence[Any]) -> Any:
        """What more than half of the answers say."""
        votes = [Counter(word for answer in answers for word in answer[i]) for i in (0, 1)]
        return tuple(frozenset(word for word, n in of.items() if 2 * n > len(answers)) for of in votes)

    def statistic(self, answers: Sequence[Any], references: Sequence[Any]) -> Statistic | None:
        parts: list[Sums | None] = []
        for answer, reference in zip(answers, references, strict=True):
            if answer is None or reference is None:
                parts.append(None)
                continue
            names, colours = (words.sums(answer[i], reference[i]) for i in (0, 1))
            parts.append(names | {f"colour_{key}": value for key, value in colours.items()})
        return summed(parts, _caption_measures)


def _caption_measures(total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    colours = words.summary({key.removeprefix("colour_"): total[key] for key in total if key.startswith("colour_")})
    return words.summary(total) | {f"colour_{key}": value for key, value in colours.items()}


def seen_objects(data: bytes, given: Truth) -> list[tuple[str, list[str]]]:
    """Name and colours of each object that can be seen. ValueError if the JSON has none."""
    value = truth.record(data, given.member)
    try:
        objects = value[given.objects] if given.objects else value
        seen = [one for one in objects if not given.visible or (one[given.visible] or 0) > given.least]
        return [(str(one[given.name]), [str(one[key]) for key in given.colours if one.get(key)]) for one in seen]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{given.member}: it has no list of objects with {given.name!r} ({type(error).__name__}: {error}); see "
            "evaluate.truth.caption"
        ) from None
