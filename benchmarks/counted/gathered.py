"""What FSDP gathers on each of a recipe's GPUs: blocks and tables in bfloat16, all else in float32.

- largest: GB of the largest unit, which is gathered at once.
- held: GB that stay gathered from the begin of a step to its end.
"""

from __future__ import annotations

from functools import partial

from fourmill_tests.counted.gathered import gathered_bytes

from fourmill.train.pretrain.job import configured

from .training import job_of, load

TITLE = "What FSDP gathers"


def counted(name: str) -> dict[str, float]:
    """The columns of a recipe."""
    recipe = load(name)
    units = gathered_bytes(configured(job_of(recipe).specs, recipe.train.model))
    held = sum(size for unit, size in units.items() if unit == "" or "_embeddings" in unit)
    return {"largest": max(units.values()) / 1e9, "held": held / 1e9}


ROWS = {f"{name}, gathered": partial(counted, name) for name in ("4m7_l", "4m21_l", "4m7_xl", "4m21_xl")}
