"""What the figures are of: the GPU, and the software that drives it."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import torch
from gpu import Part, Place

from fourmill import __version__

ORDER = 0


def machine(place: Place) -> dict[str, Any]:
    versions = {"torch": torch.__version__, "fourmill": __version__}
    if place.device != "cuda":
        return versions
    properties = torch.cuda.get_device_properties(0)
    said = {"GPU": properties.name, "GiB": properties.total_memory / 2**30, "CUDA": str(torch.version.cuda)}
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        said["driver, clock, power"] = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return versions | said | {"cuDNN": str(torch.backends.cudnn.version())}


PARTS = [Part("machine", machine, 20)]
