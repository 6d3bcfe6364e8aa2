"""Whether this machine can run the fourmill that a job brought: run on the head, and on nodes, before anything else.

Here are standard library and `packaging` alone, so that it can say what is missing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Iterator

NAMES = "FOURMILL_CREDENTIALS"  # environment variables, by name, that were set where a job was submitted


def lacking() -> list[str]:
    """What fourmill needs and this Python does not have, in words."""
    try:
        about = importlib.metadata.distribution("fourmill")
    except importlib.metadata.PackageNotFoundError:
        return []
    return list(_lacking(about))


def _lacking(about: importlib.metadata.Distribution) -> Iterator[str]:
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        yield "packaging, as all that fourmill depends on"
        return
    python = about.metadata["Requires-Python"] or ""
    if not SpecifierSet(python).contains(platform.python_version(), prereleases=True):
        yield f"Python {python}, and this is {platform.python_version()}"
    for need in map(Requirement, about.requires or []):
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{need.name}{need.specifier}, which is not installed"
            continue
        if not need.specifier.contains(version, prereleases=True):
            yield f"{need.name}{need.specifier}, and {version} is installed"


def names() -> list[str]:
    """The variables that were set where the job was submitted."""
    return [name for name in os.environ.get(NAMES, "").split(",") if name]


def unset(variables: Iterable[str]) -> list[str]:
    """Those that are not set here."""
    return [name for name in variables if name not in os.environ]


def main() -> int:
    """Say on stderr what is missing; returns the exit status."""
    if missing := lacking():
        print(
            f"fourmill: {sys.executable} on the head lacks what fourmill needs: {'; '.join(missing)}. Start Ray there "
            "in an environment that has it, and with the environment's bin first on PATH (an image of infra/Dockerfile "
            "has all of it)",
            file=sys.stderr,
        )
        return 2
    if missing := unset(names()):
        print(f"not set on the head, and set where the job was submitted: {', '.join(missing)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
