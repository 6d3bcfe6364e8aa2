"""What a machine has: the one at hand, or one named NAMExCOUNT (h200x8, cpux16), for `init` and `plan`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..train.flops import PEAK_FLOPS, peak_flops

GIB = 2**30
CORE_FLOPS = 20e9  # FLOP/s of training in float32 on one core: 18 to 30 on server CPUs of 2019 to 2024
GPU_SHARE = 0.3  # of a GPU's peak that training reaches; small models and the loader keep it from more


@dataclass(frozen=True)
class Gpu:
    """memory: GiB. flops: peak in bfloat16 (float32 without `bf16`), FLOP/s of the data sheet."""

    memory: float
    flops: float
    bf16: bool = True


GPUS = {
    "b200": Gpu(180, PEAK_FLOPS["B200"]),
    "h200": Gpu(141, PEAK_FLOPS["H200"]),
    "h100": Gpu(80, PEAK_FLOPS["H100"]),
    "a100": Gpu(80, PEAK_FLOPS["A100"]),
    "a100-40": Gpu(40, PEAK_FLOPS["A100"]),
    "l40s": Gpu(48, PEAK_FLOPS["L40S"]),
    "l4": Gpu(24, PEAK_FLOPS["L4"]),
    "a10": Gpu(24, PEAK_FLOPS["A10"]),
    "rtx4090": Gpu(24, PEAK_FLOPS["RTX 4090"]),
    "mi300x": Gpu(192, PEAK_FLOPS["MI300X"]),
    "v100": Gpu(32, 15.7e12, bf16=False),
    "t4": Gpu(16, 8.1e12, bf16=False),
}
# What a node has for each GPU, and for each core without one, by the usual offers of clouds.
CORES_A_GPU, MEMORY_A_GPU, MEMORY_A_CORE = 12, 120.0, 4.0


@dataclass(frozen=True)
class Machine:
    """name: as a person would say it. memory: GiB of main memory. gpu: of each of `gpus`."""

    name: str
    cores: int
    memory: float
    gpus: int = 0
    gpu: Gpu | None = None

    @property
    def flops(self) -> float:
        """FLOP/s that training sustains on all devices together: an assumption, for the choice of sizes."""
        return self.gpus * self.gpu.flops * GPU_SHARE if self.gpu else self.cores * CORE_FLOPS

    @property
    def worker_memory(self) -> float:
        """GiB that one training worker may take: a GPU's, or half of the main memory."""
        return self.gpu.memory if self.gpu else self.memory / 2

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPUs of {self.gpu.memory:.0f} GiB" if self.gpu else ", no GPU"
        return f"{self.name}: {self.cores} cores, {self.memory:.0f} GiB of memory{gpus}"


def named(text: str) -> Machine:
    """The machine of NAMExCOUNT. ValueError for a name that is not in the table."""
    known = ", ".join(f"{name}xN" for name in (*GPUS, "cpu"))
    parts = re.fullmatch(r"([a-z0-9-]+?)x([1-9][0-9]{0,4})", text.lower())
    name, count = (parts[1], int(parts[2])) if parts else ("", 0)
    if name == "cpu":
        return Machine(text, count, count * MEMORY_A_CORE)
    if name not in GPUS:
        raise ValueError(f"--for: got {text!r}, expected one of {known}; N is how many GPUs (of cpu: cores) there are")
    return Machine(text, count * CORES_A_GPU, count * MEMORY_A_GPU, count, GPUS[name])


def here() -> Machine:
    """This machine, as far as this process may use it."""
    cores, memory = _cores(), _memory()
    gpus = _gpus()
    return Machine("this machine", cores, memory, len(gpus), gpus[0] if gpus else None)


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def _memory() -> float:
    """GiB: of the machine, or of the container if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = _read(path).strip()
        if limit.isdigit():
            total = min(total, int(limit))
    return total / GIB


def _gpus() -> list[Gpu]:
    # torch takes seconds to import; without a driver there is nothing that it could see.
    if not any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return []
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = properties.major >= 8 or torch.version.hip is not None
        peak = peak_flops(properties.name) or (100e12 if bf16 else 10e12)
        found.append(Gpu(properties.total_memory / GIB, peak, bf16))
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
