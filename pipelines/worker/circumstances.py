"""Where and by what outputs are made, as their records say it for people years later: nothing depends on it."""

from __future__ import annotations

import os
import platform
import secrets
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ... import __version__
from ...tokenize.codec import Codec
from ..specialists.base import Specialist


def of_worker(specialists: Mapping[str, Specialist], coders: Iterable[Codec], device: str) -> dict[str, Any]:
    """Versions, device, kind of machine, the weights of each specialist, and in what tokenizers encode, after these
    are set up."""
    made: dict[str, Any] = {"fourmill": __version__, "device": device, "host": _host()}
    # What has not been imported has not been used, and its import takes seconds.
    if (torch := sys.modules.get("torch")) is not None:
        made |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
        if device.startswith("cuda"):
            made["device"] = torch.cuda.get_device_name(device)
    weights = {label: with_ for label, one in specialists.items() if (with_ := one.made_with(device))}
    tokenizers = {name: with_ for coder in coders for name, with_ in coder.made_with().items()}
    return made | ({"specialists": weights} if weights else {}) | ({"tokenizers": tokenizers} if tokenizers else {})


def of_attempt() -> dict[str, Any]:
    """When, and a mark that tells one attempt at a shard from another."""
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "attempt": secrets.token_hex(4)}


def _host() -> str:
    """The kind of machine, not its name: "Linux x86_64, 2 cores, AMD EPYC"."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    parts = [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores", model]
    return ", ".join(part for part in parts if part)
