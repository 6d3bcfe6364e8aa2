"""A finished text tokenizer in place of a fit: of another root, or published.

4M's own is one file, text_tokenizer_4m_wordpiece_30k.json, of apple/ml-4m (fourm/utils/tokenizer/trained) and of the
space EPFL-VILAB/4M on the Hugging Face hub: `spaces/EPFL-VILAB/4M`. Only JSON is fetched and read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ...modalities import COCO_CLASSES
from . import sensor_sentences
from .wordpiece import COORDINATES, WordPiece

FILE = "tokenizer.json"
FILES = (FILE, "config.json", "sums.json", "text_tokenizer*.json")
_HUB_ID = re.compile(r"(?:spaces/)?\w[\w.-]*/\w[\w.-]*", re.ASCII)


def place(weights: str) -> str:
    """Where a finished text tokenizer is, as any worker finds it: an absolute path of this machine, of its
    file or a folder of ours, or a hub id.

    ValueError if it is neither.
    """
    path = Path(weights).expanduser()
    if path.exists():
        return str(_file(path).resolve())
    if _HUB_ID.fullmatch(weights) is None:
        raise ValueError("there is no such file or folder, and it is no hub id of the form org/name or spaces/org/name")
    return weights


def load(weights: str, revision: str | None = None) -> WordPiece:
    """The vocabulary at a `place`: a folder of `fourmill fit`, a folder with one text tokenizer, its file, or a hub id.

    Args:
        revision: branch, tag or commit on the hub; None is its main branch.

    ValueError if there is none.
    """
    path = Path(weights).expanduser()
    return WordPiece.load(_file(path if path.exists() else _fetched(weights, revision)))


def problem(words: WordPiece, classes: Sequence[str] | None, sentences: bool, sensors: bool = False) -> str:
    """Why a vocabulary cannot serve a recipe, "" if it can.

    Args:
        classes: of boxes, None if the recipe has none.
        sentences: whether labels are written as sentences: numbers are words of their own there.
        sensors: whether labels of sensors are, which have fewer needs.
    """
    if sensors and (why := sensor_sentences.problem(words)):
        return why
    needed = [*(COORDINATES if sentences else ()), *(classes or ())]
    if missing := [word for word in needed if word not in words]:
        return f"it has no word {missing[0]!r}, which sentences of labels need; use 4M's vocabulary, or one of ours"
    if classes is None or list(classes) == list(words.classes):
        return ""
    there = "those of COCO" if words.classes == COCO_CLASSES else ", ".join(words.classes[:3]) + ", ..."
    return f"its classes of boxes are {there}, and not the recipe's; see classes"


def _file(path: Path) -> Path:
    """The file, or the folder of ours, that `WordPiece.load` reads."""
    if path.is_file() or (path / FILE).is_file():
        return path
    found = sorted(path.glob("text_tokenizer*.json")) or sorted(path.glob("*.json"))
    if len(found) != 1:
        what = f"{len(found)} files, {found[0].name} ..." if found else "none"
        raise ValueError(f"expected one text tokenizer in {path}, a {FILE}, got {what}; name the file")
    return found[0]


def _fetched(name: str, revision: str | None) -> Path:
    from ..ml4m import fetch

    if _HUB_ID.fullmatch(name) is None:
        raise ValueError(f"{name}: there is no such file or folder, and it is no hub id")
    return fetch(name, revision, list(FILES))
