"""Where an export may go."""

from __future__ import annotations

from collections.abc import Callable

from ...infra import storage


def check(dest: str, root: str, is_ours: Callable[[list[str]], bool]) -> None:
    """ValueError if files of an export cannot go to a place.

    Args:
        is_ours: whether a folder that holds these names is an export of the same kind.
    """
    if storage.absolute(dest).rstrip("/") == storage.absolute(root).rstrip("/"):
        raise ValueError("--out is the root itself; name another folder")
    if storage.is_file(dest):
        raise ValueError(f"--out {dest} is a file; name a folder, which may be new")
    names = storage.list_names(dest)
    if names and not is_ours(names):
        raise ValueError(f"--out {dest} holds other files ({', '.join(names[:3])}); name a new or an empty folder")
