"""Samples from inputs that a person names: one file, a folder, a pattern, or a text file with a line for each sample.

    rgb=photo.jpg               one sample
    rgb=photos/                 a sample for each file
    rgb=photos/*.png            the same, of those that fit
    caption=captions.txt        a sample for each line
    caption="a red boat"        a text; beside several samples it is that of each

Files of several folders belong together by their names without suffix. Lines belong together by their order.
"""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...infra import storage
from ...modalities import LABELS, Form
from ...sensors.declared import SENSORS
from .. import patterns
from . import instruments
from .given import TEXT_FILES, Mistake, file_text, is_path

# Labels whose value may be the words themselves; everything else that is a text is a path.
WORDS = ("caption", "color_palette", "metadata")
# Labels of which a text file has one for each line.
LINES = ("caption", "color_palette")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_SHOWN = 60  # characters of a text that messages quote


@dataclass(frozen=True)
class Source:
    """Where one value comes from: its name for people, "photo.jpg", and what `labels.read` takes; what there is to say
    of how it was found is in `notes`."""

    name: str
    value: Any
    path: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GivenSample:
    """What one sample is given, by input name; `key` is unlike those of the others."""

    key: str
    values: dict[str, Source] = field(default_factory=dict)


def samples(inputs: Mapping[str, Any], labels: Mapping[str, str]) -> list[GivenSample]:
    """The samples that inputs are of.

    Args:
        inputs: name -> a value, or a path, folder, pattern or text file; a list of these is several samples, unless
            its label is a record, which is a list itself.
        labels: name -> label, whose values differ in what they may be.

    Raises:
        Mistake: nothing is there, or inputs have different numbers of samples.
    """
    if not inputs:
        return []
    lists = {name: _found(labels[name], given, name) for name, given in inputs.items()}
    several = {name: found for name, found in lists.items() if found.several}
    count = len(next(iter(several.values())).sources) if several else 1
    if any(len(found.sources) != count for found in several.values()):
        counts = ", ".join(f"{name} has {len(found.sources)} ({found.where})" for name, found in several.items())
        raise Mistake(f"{counts}; give as many of each, or one for all")
    order = _by_stem(several)
    keys = _keys(order, lists, count)
    made = []
    for i, key in enumerate(keys):
        values = {name: order[name][i] if name in order else found.sources[0] for name, found in lists.items()}
        made.append(GivenSample(key, values))
    return made


@dataclass(frozen=True)
class _Found:
    """Values of one input: `several` is False for one that goes with every sample."""

    sources: list[Source]
    several: bool
    where: str = ""

    @property
    def stems(self) -> list[str]:
        return [_stem(source.path) for source in self.sources]

    @property
    def are_files(self) -> bool:
        return all(source.path for source in self.sources)


def _found(label: str, given: Any, name: str) -> _Found:
    try:
        return _sources(label, given, name)
    except Mistake as mistake:
        raise Mistake(f"{name}: {mistake}") from None


def _sources(label: str, given: Any, name: str) -> _Found:
    if isinstance(given, list) and _are_several(label, given):
        parts = [_sources(label, one, name) for one in given]
        listed = [source for part in parts for source in part.sources]
        return _Found(listed, len(listed) > 1 or any(part.several for part in parts), "several inputs")
    if not is_path(given):
        return _Found([Source(name, given)], False)
    text = os.fspath(given)
    if label in LINES and text.endswith(TEXT_FILES):
        return _lines(label, text)
    if not storage.is_local(text) or text.lstrip()[:1] in ("[", "{"):
        return _Found([_one(label, text)], False)
    path = os.path.expanduser(text)
    # A caption may be the name of a folder by chance: only what is written as one is looked into.
    if os.path.isdir(path) and (not _is_words(label) or "/" in text):
        return _folder(label, path)
    if _is_words(label) and os.path.isfile(path) and not path.endswith((".json", *TEXT_FILES)):
        raise Mistake(f"{text} is a file; words are read from .txt files")
    if glob.has_magic(text) and not _is_words(label) and not os.path.exists(path):
        found = patterns.matching(path)
        if not found:
            raise Mistake(f"no file fits {text}; check the pattern")
        return _Found([_one(label, file) for file in found], True, text)
    return _Found([_one(label, text)], False)


def _are_several(label: str, given: list[Any]) -> bool:
    """Whether a list is of inputs, rather than what a record says itself."""
    if not given or not all(is_path(one) for one in given):
        return False
    record = LABELS[label].form.is_record and label != "caption"
    return not record or all(os.fspath(one).endswith((".json", *TEXT_FILES)) or "=" in one for one in given)


def _is_words(label: str) -> bool:
    """Whether a text may be a value of a label, and no path: a caption, coordinates, a date."""
    return label in WORDS or LABELS[label].form in (Form.COORDINATES, Form.TIME)


def _one(label: str, text: str) -> Source:
    suffix = posixpath.splitext(text)[1].lower()
    if _is_words(label) and suffix not in (".json", *TEXT_FILES):
        return Source(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...", text)
    if text.lstrip()[:1] in ("[", "{"):
        return Source("its JSON", text)
    path = os.path.expanduser(text) if storage.is_local(text) else text
    return Source(posixpath.basename(text.rstrip("/")), path, path)


def _folder(label: str, path: str) -> _Found:
    suffixes = _suffixes(label)
    names = [name for name in sorted(os.listdir(path)) if not name.startswith(".")]
    names = [name for name in names if os.path.isfile(os.path.join(path, name))]
    fitting = [name for name in names if posixpath.splitext(name)[1].lower() in suffixes]
    if not fitting:
        raise Mistake(f"the folder {path} has no file that ends in {', '.join(suffixes)}; name one that has")
    sources = [_file(label, os.path.join(path, name)) for name in fitting]
    if others := [name for name in names if name not in fitting]:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        files = "another file of the folder is" if len(others) == 1 else f"{len(others)} other files of the folder are"
        note = f"{files} not read ({shown})"
        sources[0] = replace(sources[0], notes=(note,))
    return _Found(sources, True, path)


def _suffixes(label: str) -> tuple[str, ...]:
    """Of the files of a folder that are values of a label."""
    form = LABELS[label].form
    if label in SENSORS and not form.is_record:
        return instruments.suffixes()
    if form.is_record:
        return (".json", *(TEXT_FILES if _is_words(label) else ()), *(PICTURES if label == "sam_instance" else ()))
    return (".npy",) if form in (Form.FEATURES, Form.VECTOR, Form.SEQUENCE) else (*PICTURES, ".npy")


def _file(label: str, path: str) -> Source:
    """A file of a folder is one sample, of texts as well."""
    if _is_words(label) and path.endswith(TEXT_FILES):
        return Source(os.path.basename(path), file_text(path), path)
    return _one(label, path)


def _lines(label: str, text: str) -> _Found:
    path = os.path.expanduser(text) if storage.is_local(text) else text
    lines = [line.strip() for line in file_text(path).splitlines() if line.strip()]
    if not lines:
        raise Mistake(f"there is no line in {text}; write one for each sample")
    return _Found([_one_line(line) for line in lines], len(lines) > 1, text)


def _one_line(line: str) -> Source:
    return Source(line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "...", line)


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def _by_stem(several: Mapping[str, _Found]) -> dict[str, list[Source]]:
    """The values of several samples in one order: files by their names, in the order of the first input."""
    files = {name: found for name, found in several.items() if found.are_files}
    ordered = {name: found.sources for name, found in several.items()}
    if len(files) < 2:
        return ordered
    first, *others = files
    stems = files[first].stems
    for name in others:
        by_stem = dict(zip(files[name].stems, files[name].sources, strict=True))
        if lacking := [stem for stem in stems if stem not in by_stem]:
            raise Mistake(
                f"{files[name].where} has no file {lacking[0]} for {first}, {files[first].where}; files of one sample "
                "have the same name without suffix"
            )
        ordered[name] = [by_stem[stem] for stem in stems]
    return ordered


def _keys(order: Mapping[str, Sequence[Source]], lists: Mapping[str, _Found], count: int) -> list[str]:
    """The name of the first file of each sample, or its number where names are missing or not unique."""
    sources = next((found for found in order.values() if all(s.path for s in found)), None)
    if sources is None and count == 1:
        sources = next((found.sources for found in lists.values() if found.sources[0].path), None)
    keys = [_stem(source.path) for source in sources] if sources is not None else []
    return keys if len(set(keys)) == count else [f"{i:04d}" for i in range(count)]
