"""Which members of a shard are one sample.

Keys follow WebDataset: the name up to the first dot of its last component, folders included (a leading "./" is not),
and the rest, in lower case, is the extension: `a.jpg` with `a.depth.npy` is the sample `a`. A member of a known
extension (`jpg`, `txt`, `json`, ...) makes a sample; all others are members of it that specialists may read
(members.py).

Where no member of a WebDataset key has a known extension, but some end in one, that rule would lose them all. They are

- keys with dots (`img.001.jpg` with `img.001.txt`, `1.2.840.0.jpg`): names are split at the last dot;
- or named parts of one sample, WebDataset's form for several (`a.image.jpg` with `a.caption.txt`): names are split at
  the last but one. So it is where texts never stand beside an image under one key with dots, and do under one with a
  part less; or where members of further extensions stand under such a key alone (`a.image.jpg` with `a.cls`).

Beside plain members (`v1.jpg`, `v1.txt`) versions that have an image and a text of their own (`v1.1.jpg`, `v1.1.txt`)
are samples as well.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from ..modalities import LABELS, WINDOW

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
TEXT_EXTENSIONS = ("txt", "json")
KNOWN_EXTENSIONS = (*IMAGE_EXTENSIONS, *TEXT_EXTENSIONS)

_WEBDATASET_META = re.compile(r"__[^/]*__($|/)")  # names that WebDataset reserves for itself
_VERSION = re.compile(r"(\.\d+)+\..+")  # what follows the key: 1.jpg, 2.840.0.txt, 1.depth.npy
_MOST_PARTS = 64  # named parts of one key; more are keys that share their beginning
IMAGE_PARTS = ("image", "img", "rgb", "photo", "picture", "input")  # parts that are the image, by rank
_TEXTS = ("caption", "text", "prompt", "txt")
_OBJECTS = ("json", "meta", "metadata", "info")


@dataclass(frozen=True, slots=True)
class Member:
    """Bytes [offset, offset + size) of the uncompressed tar; `problem` says why not to use them, "" if all is well."""

    name: str
    offset: int
    size: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SourceSample:
    """The members of one key, by extension in lower case.

    members: of known extensions; at most one of them is an image. others: all further ones, such as "depth.npy".
    """

    key: str
    members: dict[str, Member]
    others: dict[str, Member] = field(default_factory=dict)

    @property
    def image(self) -> str:
        """The extension of its image, or "" if it has none."""
        return next((extension for extension in self.members if extension in IMAGE_EXTENSIONS), "")


@dataclass
class Index:
    """What a shard holds.

    samples: in the order in which their first member of a known extension appears.
    rejects: (key, reason) for each entry that cannot be used, key "" for the shard as a whole. They concern entries:
        a sample with a rejected second image is still a sample.
    ignored: entries that nothing reads unless a specialist asks for them: those of a sample counted by extension, those
        of none by last suffix ("" for none).
    parts: named parts that are a sample's image, text or object ("image.jpg"), counted.
    regrouped: the first release gave other keys: they lost some, or took parts of a sample for samples.
    is_table: samples are rows of a table, and members are its columns.
    """

    samples: list[SourceSample] = field(default_factory=list)
    rejects: list[tuple[str, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    regrouped: bool = False
    is_table: bool = False


def group(members: list[Member], every_key: bool = False) -> Index:
    """The samples of a shard, from its members in the order of the tar.

    Args:
        every_key: by WebDataset's rule alone: each key is a sample, whatever its members are. A scene of rasters has
            no member of a known extension, and a map `a.lulc.png` is no image of `a`.
    """
    names, regrouped = (_plain(members), False) if every_key else _names(members)
    result = Index(regrouped=regrouped)
    samples: dict[str, SourceSample] = {}
    others: list[tuple[str, str, Member]] = []
    for member, name in zip(members, names, strict=True):
        key, extension = name.key, name.extension
        if member.problem:
            shown = key or member.name
            result.rejects.append((shown.encode("utf-8", "backslashreplace").decode(), member.problem))
        elif not key or not name.makes_sample or _WEBDATASET_META.match(member.name):
            others.append((key, extension, member))
        else:
            sample = samples.setdefault(key, SourceSample(key, {}))
            if extension not in KNOWN_EXTENSIONS:  # a named part
                others.append((key, extension, member))
            elif reason := _add(sample, extension, member):
                result.rejects.append((key, reason))
    for key, extension, member in others:  # which samples there are is known now
        if key not in samples or not extension:
            result.ignored[extension.rpartition(".")[2]] += 1
            continue
        result.ignored[extension] += 1
        if samples[key].others.setdefault(extension, member) is not member:
            result.rejects.append((key, f"duplicate key: a second .{extension} is ignored"))
    for sample in samples.values() if not every_key else ():
        for extension in _take_parts(sample):
            result.parts[extension] += 1
            result.ignored[extension] -= 1
    result.ignored, listed = +result.ignored, len(samples)
    result.samples = _join_forms(samples, result.rejects)
    result.regrouped |= len(result.samples) < listed
    return result


@dataclass(frozen=True, slots=True)
class _Name:
    """A member's key and extension, and whether it makes a sample."""

    key: str
    extension: str
    makes_sample: bool


def _split(name: str) -> tuple[str, str]:
    """WebDataset's (key, extension)."""
    folder, base = posixpath.split(name)
    stem, _, extension = base.partition(".")
    return posixpath.join(folder, stem) if stem else "", extension.lower()


def _plain(members: list[Member]) -> list[_Name]:
    """Keys and extensions as WebDataset has them; a member without an extension makes no sample."""
    return [_Name(key, extension, bool(extension)) for key, extension in (_split(member.name) for member in members)]


def _names(members: list[Member]) -> tuple[list[_Name], bool]:
    """The key and extension of each member, and whether any was read otherwise before."""
    plain = [_split(member.name) for member in members]
    names = [_Name(key, extension, extension in KNOWN_EXTENSIONS) for key, extension in plain]
    settled = {key for key, extension in plain if extension in KNOWN_EXTENSIONS}
    odd: dict[str, list[int]] = defaultdict(list)  # of keys of which no member is plain, and known
    for row, (key, _) in enumerate(plain):
        if key not in settled or _VERSION.fullmatch(members[row].name[len(key) :]):
            odd[key].append(row)  # beside `v1.jpg` the version `v1.1.jpg` is another key, if it has a text as well
    readings = {key: _Reading([(row, members[row].name) for row in rows]) for key, rows in odd.items() if key}
    readings = {key: one for key, one in readings.items() if key not in settled or one.is_versions()}
    parts = {part for reading in readings.values() if reading.is_parts() for part in reading.parts()}
    regrouped = False
    for reading in readings.values():
        for row, key, extension, makes_sample in reading.split(parts):
            names[row] = _Name(key, extension, makes_sample)
            # Before, only a key of whose members all had a known suffix had dots; then a member is its last suffix.
            regrouped |= bool(reading.further) or extension not in KNOWN_EXTENSIONS or reading.is_beside(settled)
    return names, regrouped


class _Reading:
    """The members of one WebDataset key, none of which is plain and known: keys with dots, or named parts?"""

    def __init__(self, rows: Iterable[tuple[int, str]]) -> None:
        self.known: list[tuple[int, str, str]] = []  # row, name without its last suffix, that suffix
        self.further: list[tuple[int, str]] = []
        for row, name in rows:
            folder, base = posixpath.split(name)
            stem, _, suffix = base.rpartition(".")
            if "." in stem and suffix.lower() in KNOWN_EXTENSIONS:
                self.known.append((row, posixpath.join(folder, stem), suffix.lower()))
            else:
                self.further.append((row, name))

    def is_parts(self) -> bool:
        """Whether its members are named parts, by themselves."""
        if not self.known:
            return False
        stems = [key for _, key, _ in self.known]
        if self._is_complete(stems) or any(_key_of(name, set(stems)) for _, name in self.further):
            return False  # keys with dots, as a text beside an image, or a further member, shows
        before = [stem.rpartition(".")[0] for stem in stems]
        if max(Counter(before).values()) > _MOST_PARTS:
            return False
        # Images alone, or texts alone, are keys with dots, unless something stands beside them under the key before.
        return self._is_complete(before) or bool(self.further)

    def is_versions(self) -> bool:
        """Whether some of its keys with dots have an image and a text: they are samples, whatever is beside them."""
        return self._is_complete(key for _, key, _ in self.known)

    def is_beside(self, settled: Collection[str]) -> bool:
        """Whether the key before the first dot is another sample's."""
        return any(_split(name)[0] in settled for _, name, _ in self.known)

    def _is_complete(self, keys: Iterable[str]) -> bool:
        """Whether some key has an image and a text, if the known members have these keys."""
        kinds: dict[str, set[bool]] = defaultdict(set)
        for key, (_, _, suffix) in zip(keys, self.known, strict=True):
            kinds[key].add(suffix in IMAGE_EXTENSIONS)
        return any(len(of_key) == 2 for of_key in kinds.values())

    def parts(self) -> set[str]:
        return {key.rpartition(".")[2] for _, key, _ in self.known}

    def split(self, parts: set[str]) -> Iterable[tuple[int, str, str, bool]]:
        """(row, key, extension, whether it makes a sample) of each member, as far as it is not WebDataset's.

        Args:
            parts: that other keys of the shard have; a key with one of two parts is read as they are.
        """
        if not self.known:
            return
        named = self.is_parts() or (self.parts() <= parts and not self._is_complete(key for _, key, _ in self.known))
        keys = set()
        for row, stem, suffix in self.known:
            key, _, part = stem.rpartition(".") if named else (stem, "", "")
            keys.add(key)
            yield row, key, f"{part.lower()}.{suffix}" if named else suffix, True
        for row, name in self.further:
            if key := _key_of(name, keys):
                yield row, key, name[len(key) + 1 :].lower(), False


def _key_of(name: str, keys: set[str]) -> str:
    """The longest of the keys that a member's name begins with, "" if there is none."""
    end = len(name)
    while (end := name.rfind(".", 0, end)) > 0:
        if name[:end] in keys:
            return name[:end]
    return ""


def _add(sample: SourceSample, extension: str, member: Member) -> str:
    """Add a member unless its place is taken; then the reason."""
    if extension in sample.members:
        return f"duplicate key: a second .{extension} is ignored"
    if extension in IMAGE_EXTENSIONS and sample.image:
        return f"several images: .{extension} is ignored, .{sample.image} came first"
    sample.members[extension] = member
    return ""


def _take_parts(sample: SourceSample) -> list[str]:
    """Let named parts be the image, text and object of a sample that has no image; the extensions of these parts.

    Of several images the one counts that is named so, else the first that is not named as a label.
    """
    if sample.image or not sample.others:
        return []
    pictures = [one for one in sample.others if one.rpartition(".")[2] in IMAGE_EXTENSIONS]
    is_named = not sample.members or len(pictures) == 1  # of several beside a plain text, one must be called an image
    chosen = [
        _choose(sample, IMAGE_EXTENSIONS, IMAGE_PARTS, is_named),
        _choose(sample, ("txt",), _TEXTS, is_named) if "txt" not in sample.members else "",
        _choose(sample, ("json",), _OBJECTS, is_named) if "json" not in sample.members else "",
    ]
    if not is_named and not chosen[0]:
        return []
    taken = [extension for extension in chosen if extension]
    for extension in taken:
        sample.members[extension.rpartition(".")[2]] = sample.others[extension]
    return taken


def _choose(sample: SourceSample, suffixes: tuple[str, ...], preferred: tuple[str, ...], or_any: bool) -> str:
    pairs = [extension.rpartition(".") for extension in sample.others]
    parts = {part: f"{part}.{suffix}" for part, _, suffix in reversed(pairs) if part and suffix in suffixes}
    for part in preferred:
        if part in parts:
            return parts[part]
    # No file is a window: that label came when a picture of this name was already the image of its sample.
    others = [extension for part, extension in reversed(parts.items()) if part not in LABELS or part == WINDOW]
    return others[0] if others and or_any else ""


def _join_forms(samples: dict[str, SourceSample], rejects: list[tuple[str, str]]) -> list[SourceSample]:
    """The samples; those whose keys are one text in two Unicode forms (macOS writes e and an accent apart) are one, if
    they have different members."""
    by_form: dict[str, str] = {}
    for key, sample in list(samples.items()):
        if key.isascii():
            continue
        first = samples[by_form.setdefault(unicodedata.normalize("NFC", key), key)]
        if first is sample:
            continue
        both = (first.members.keys() & sample.members.keys()) or (first.image and sample.image)
        if both:
            rejects.append((key, "key: another sample has it in another Unicode form; both are kept"))
            continue
        first.members.update(sample.members)
        for extension, member in sample.others.items():
            first.others.setdefault(extension, member)
        del samples[key]
    return list(samples.values())
