"""How many tokens each step of parallel decoding fills, and at which temperature. Formulas of apple/ml-4m."""

from __future__ import annotations

import math

import numpy as np

TOKEN_SCHEDULES = ("cosine", "linear")


def token_schedule(name: str, steps: int, tokens: int) -> np.ndarray:
    """Tokens filled at each step: int64 (steps,), non-negative, summing to `tokens`.

    "linear" fills the same number at each step, the rest going to the first ones; "cosine" (MaskGIT, section 3.3)
    starts with few, while little is known.

    Raises:
        ValueError: unknown name, or no step.
    """
    if steps < 1:
        raise ValueError(f"steps: got {steps}, expected at least 1")
    if name == "linear":
        return np.array([tokens // steps + (i < tokens % steps) for i in range(steps)], dtype=np.int64)
    if name != "cosine":
        raise ValueError(f"token schedule: got {name!r}, expected one of {', '.join(TOKEN_SCHEDULES)}")
    masked = [0.5 * (1 + math.cos(math.pi * i / steps)) for i in range(steps + 1)]
    counts, left = [], tokens
    # Rounded step by step, as apple/ml-4m does; what rounding leaves goes to the last step.
    for i in range(steps - 1):
        counts.append(min(round(tokens * (masked[i] - masked[i + 1])), left))
        left -= counts[-1]
    return np.array([*counts, left], dtype=np.int64)


def temperature_schedule(name: str, temperature: float, counts: np.ndarray) -> np.ndarray:
    """The temperature at each step of a token schedule `counts`: float64 (steps,).

    "constant"; "linear", in proportion to the tokens still missing before the step; "onex:MIN" or "onex:MIN:POWER"
    (power 0.5 if left out), from `temperature` down to MIN along 1 / x^power, times the share missing after the step.

    Raises:
        ValueError: unknown name or malformed numbers.
    """
    total, done = counts.sum(), np.cumsum(counts)
    if name == "constant":
        return np.full(len(counts), float(temperature))
    if name == "linear":
        return np.asarray(temperature * (1 - (done - counts) / total))
    lowest, power = _onex(name)
    # apple/ml-4m samples the curve at as many points as there are tokens, and takes the first ones: kept for parity.
    x = np.linspace(1, 100, max(total, len(counts)))[: len(counts)] ** -power
    decay = (x - 100.0**-power) / (1 - 100.0**-power)
    return np.asarray(lowest + (temperature - lowest) * decay * (1 - done / total))


def check_temperature_schedule(name: str) -> str:
    """The name of a temperature schedule as it is; ValueError if it is none."""
    temperature_schedule(name, 1.0, np.ones(1, dtype=np.int64))
    return name


def _onex(name: str) -> tuple[float, float]:
    parts = name.split(":")
    try:
        if parts[0] != "onex" or len(parts) not in (2, 3):
            raise ValueError(name)
        lowest, power = float(parts[1]), float(parts[2]) if len(parts) == 3 else 0.5
    except ValueError:
        raise ValueError(
            f"temperature schedule: got {name!r}, expected constant, linear, onex:MIN or onex:MIN:POWER"
        ) from None
    if not (0 <= lowest < math.inf and 0 < power < math.inf):
        raise ValueError(f"temperature schedule {name!r}: expected finite numbers, MIN >= 0 and POWER > 0")
    return lowest, power
