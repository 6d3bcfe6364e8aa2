"""What a recipe's words for shards stand for: files, folders, globs and brace patterns, here and on remote storage.

Only what is no name of something that is there is a pattern: `run[1]/*.tar` are the tars of the folder `run[1]`, if
there is one. A name that means itself, whatever is there, has its signs in brackets, `run[[]1]/a[{]b[}].tar`: so are
names written that no person has written as patterns (`literal`).
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from fsspec.utils import glob_translate

from ..infra import storage
from ..infra.secrets import public

TAR_SUFFIX = re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)
SHARD_SUFFIX = re.compile(r"\.(tar|tar\.gz|tgz|parquet)$", re.IGNORECASE)
_OF_FOLDERS = (".tar", ".parquet")  # img2dataset has a .parquet of URLs beside each .tar
_BRACES = re.compile(r"\{(?!\])([^{}]*)(?<!\[)\}")  # "[{]" and "[}]" are signs of a name
_SIGN, _WRITTEN = re.compile(r"[*?[{}]"), re.compile(r"\[([*?[{}])\]")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def literal(url: str) -> str:
    """A name as a pattern that means it alone."""
    return _SIGN.sub(lambda sign: f"[{sign[0]}]", url)


def spelled(pattern: str) -> str | None:
    """The name that a pattern of `literal` means; None of any other."""
    meant = _WRITTEN.sub(r"\1", pattern)
    return meant if meant != pattern and literal(meant) == pattern else None


def braces(pattern: str) -> list[str]:
    """The strings that a string with brace patterns stands for; the left pattern varies slowest."""
    folder = _named_with_braces(pattern) if "{" in pattern and storage.is_local(pattern) else ""
    return [folder + rest for rest in _expanded(pattern[len(folder) :])]


def _named_with_braces(pattern: str) -> str:
    """The longest beginning of a local pattern, up to a slash or its end, that is there under its own name."""
    ends = [i for i, character in enumerate(pattern) if character == "/"]
    for end in [len(pattern), *reversed(ends)]:
        if "{" in pattern[:end] and os.path.lexists(os.path.expanduser(storage.local_path(pattern[:end]))):
            return pattern[:end]
    return ""


def _expanded(pattern: str) -> list[str]:
    for match in _BRACES.finditer(pattern):
        if alternatives := _alternatives(match[1]):
            head, tail = pattern[: match.start()], _expanded(pattern[match.end() :])
            return [head + middle + end for middle in alternatives for end in tail]
    return [pattern]


def _alternatives(body: str) -> list[str]:
    """What may stand in place of {body}; none if it is no pattern (`{}`, `{a}`), as in a shell."""
    if bounds := _RANGE.fullmatch(body):
        first, last = bounds.groups()
        padded = any(len(bound) > 1 and bound.startswith("0") for bound in (first, last))
        width = max(len(first), len(last)) if padded else 0
        step = 1 if int(first) <= int(last) else -1
        return [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)]
    return body.split(",") if "," in body else []


def find(pattern: str) -> list[str]:
    """The URLs that one string without braces names, sorted; local ones are absolute. ValueError if there are none."""
    name = spelled(pattern)
    find_in = _find_local if storage.is_local(pattern) else _find_remote
    urls, otherwise = find_in(pattern if name is None else name, name is None)
    if not urls:
        raise ValueError(f"shards: nothing found at {public(pattern)!r}: {otherwise}")
    return urls


def remembered(pattern: str, known: Iterable[str]) -> list[str]:
    """Of URLs that were there once, those that one string without braces names: of its folder, or as its pattern says.

    Local ones are absolute. Of the web nothing is remembered: addresses may be signed.
    """
    if pattern.startswith(("http:", "https:")) or spelled(pattern) is not None:
        return []
    if storage.is_local(pattern):
        pattern = os.path.abspath(os.path.expanduser(storage.local_path(pattern)))
    bare = pattern.rstrip("/")
    if SHARD_SUFFIX.search(bare) and not glob.has_magic(bare):
        return []  # a name that is spelled out is asked for, whatever is there
    tars = [url for url in known if SHARD_SUFFIX.search(url)]
    found = [url for url in tars if posixpath.dirname(url) == bare]
    folder, rest = posixpath.split(bare)
    # The folder of a pattern is what it is in: its own signs may be part of names.
    for one in _readings(rest):
        found = found or [
            url for url in tars if posixpath.dirname(url) == folder and fnmatchcase(posixpath.basename(url), one)
        ]
    if not found and glob.has_magic(bare):
        matches = re.compile(glob_translate(bare)).match
        found = [url for url in tars if matches(url)]
    return sorted(found)


def _find_local(pattern: str, magic: bool) -> tuple[list[str], str]:
    # not resolved: a link's own name names the shard, not that of the blob it points to
    path = os.path.abspath(os.path.expanduser(storage.local_path(pattern)))
    if os.path.isdir(path):
        names = _shards_among(storage.list_names(path))
        return [os.path.join(path, name) for name in names], "there is no *.tar and no *.parquet in this folder"
    if os.path.exists(path):
        return [path], ""
    if magic and glob.has_magic(path):
        return matching(path), f"no file matches {path}"
    return [path] if SHARD_SUFFIX.search(path) else [], f"{path} is neither a folder nor a file"


def matching(path: str) -> list[str]:
    """The local files that a pattern stands for, sorted; the folder that it is in is none."""
    folder, rest = _literal_folder(path, os.path.isdir)
    found = (glob.glob(os.path.join(glob.escape(folder), one), recursive=True) for one in _readings(rest))
    return sorted(next(filter(None, found), []))


def _find_remote(pattern: str, magic: bool) -> tuple[list[str], str]:
    bare = without_query(pattern)
    has_magic = magic and glob.has_magic(bare)
    if has_magic and pattern.startswith(("http:", "https:")):
        fs, _ = storage.filesystem(pattern)
        return [fs.unstrip_protocol(name) for name in sorted(storage.ask(pattern, "glob"))], "no file matches it"
    if SHARD_SUFFIX.search(bare) and (not has_magic or storage.is_file(pattern)):
        return [pattern], ""
    names = _shards_among(storage.list_names(pattern))
    if names:
        return [storage.join(pattern, name) for name in names], ""
    if storage.is_file(pattern):
        return [pattern], ""
    if has_magic:
        return _find_by_pattern(pattern), "no file matches it"
    return [], "there is no file of this name, and no folder with a *.tar or *.parquet in it"


def _shards_among(names: Iterable[str]) -> list[str]:
    """The shards of a folder: its tars, or if it has none its Parquet files."""
    found = ([name for name in names if name.endswith(suffix)] for suffix in _OF_FOLDERS)
    return next(filter(None, found), [])


def _find_by_pattern(pattern: str) -> list[str]:
    fs, path = storage.filesystem(pattern)
    folder, rest = _literal_folder(path, lambda one: bool(storage.ask(fs.unstrip_protocol(one), "isdir")))
    if "/" not in rest:
        below = storage.ask(fs.unstrip_protocol(folder), "ls", detail=False)
    elif glob.has_magic(folder):
        # fsspec's own glob would take the folder for a pattern as well.
        below = storage.ask(fs.unstrip_protocol(folder), "find")
    else:
        below = storage.ask(pattern, "glob")
    start = len(folder.rstrip("/")) + 1
    for one in _readings(rest):
        matches = re.compile(glob_translate(one)).match
        if found := sorted(name for name in below if matches(name[start:])):
            return [fs.unstrip_protocol(name) for name in found]
    return []


def _readings(pattern: str) -> list[str]:
    """A pattern, and what it is if its brackets are part of names."""
    return [pattern, pattern.replace("[", "[[]")] if "[" in pattern else [pattern]


def _literal_folder(path: str, is_folder: Callable[[str], bool]) -> tuple[str, str]:
    """The folder that a pattern is in, and the rest. What is there under its own name is no pattern ("run[1]")."""
    folder, rest = posixpath.split(path)
    while glob.has_magic(folder) and not is_folder(folder):
        folder, last = posixpath.split(folder)
        rest = posixpath.join(last, rest)
    return folder, rest


def stem(url: str) -> str:
    """The name of a shard's file without what says its kind."""
    return SHARD_SUFFIX.sub("", posixpath.basename(without_query(url)))


def without_query(url: str) -> str:
    """A web address without what follows its path."""
    return url.split("?")[0] if url.startswith(("http:", "https:")) else url
