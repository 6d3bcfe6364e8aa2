"""A recipe's own lists of classes: which names the ids of a class map have, and which words boxes may say.

A list is a name for each id, in order. Where a recipe gives none, the lists are COCO's, and nothing says so: records,
files and fingerprints name a list only if it is another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..infra.explain import nearest
from ..modalities import CLASS_NAMES, COCO_CLASSES, COCO_PANOPTIC_CLASSES, LABELS, NO_CLASS, TOKENIZERS, Form
from ..sensors.sensor import Sensor
from .text.sentences import folded
from .text.wordpiece import SENTENCE_WORDS

PRESETS: dict[str, tuple[str, ...]] = {"coco": COCO_CLASSES, "coco_panoptic": COCO_PANOPTIC_CLASSES}
MOST = NO_CLASS - 1  # ids 0 to 253: a tokenizer has one more class, for none, and they are one byte
BOXES = "det"  # the label whose classes are words of sentences

_WORD_OF_ITS_OWN = re.compile(r"v[0-3]=\d{1,3}|\[\w+\]", re.ASCII | re.IGNORECASE)


def resolve(given: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The lists of a recipe, by label, less those that are the label's own anyway.

    Args:
        given: by label the names in the order of their ids, or the name of one of `PRESETS`.

    Raises:
        ValueError: a label has no classes, or a list has names that are empty, twice there, or have another meaning.
    """
    lists = {}
    for label, names in given.items():
        known = [name for name, one in LABELS.items() if one.form is Form.CLASSES or name == BOXES]
        if label not in known:
            raise ValueError(f"classes: {label!r} is no label with classes{nearest(label, known)}")
        if isinstance(names, str):
            if names not in PRESETS:
                raise ValueError(f"classes.{label}: there is no list {names!r}{nearest(names, PRESETS)}")
            names = PRESETS[names]
        _check(label, names)
        if tuple(names) != CLASS_NAMES.get(label):
            lists[label] = tuple(names)
    return lists


def of_sensors(sensors: Mapping[str, Sensor]) -> dict[str, tuple[str, ...]]:
    """The lists of a recipe's sensors that are class maps, by label; errors as of `resolve`."""
    lists = {name: one.class_names for name, one in sensors.items() if one.form is Form.CLASSES}
    for name, names in lists.items():
        _check(name, names)
    return lists


def of_tokenizer(name: str, lists: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The names of the ids that a fitted tokenizer reads, () if they are its label's own, or if it reads none."""
    entry = TOKENIZERS[name]
    # Masks are classes inside of records: there are two, and no list names them.
    return lists.get(entry.label, ()) if LABELS[entry.label].form is Form.CLASSES else ()


def n_labels(name: str, lists: Mapping[str, tuple[str, ...]]) -> int:
    """Classes of a tokenizer's class maps, "none" among them as class 0; 0 for other forms."""
    names = of_tokenizer(name, lists)
    return len(names) + 1 if names else TOKENIZERS[name].n_labels


def _check(label: str, names: Sequence[str]) -> None:
    where = f"classes.{label}"
    if not names:
        raise ValueError(f"{where}: the list is empty; name at least one class, or leave it out for COCO's")
    if len(names) > MOST:
        raise ValueError(f"{where}: got {len(names)} classes, expected at most {MOST}")
    seen: dict[str, str] = {}
    for name in names:
        if not name or " ".join(name.split()) != name:
            raise ValueError(f"{where}: got the name {name!r}; expected words with one space between them")
        if other := seen.get(folded(name)):
            raise ValueError(f"{where}: {name!r} is there twice" + (f", as {other!r} too" if other != name else ""))
        seen[folded(name)] = name
        if label == BOXES and (folded(name) in SENTENCE_WORDS or _WORD_OF_ITS_OWN.fullmatch(name)):
            raise ValueError(f"{where}: {name!r} has a meaning of its own in sentences; choose another name")
