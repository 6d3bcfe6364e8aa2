"""How the ids of a vocabulary are used: counts of ids to a few numbers, without PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np


def perplexity(counts: np.ndarray) -> float:
    """exp(entropy) of the use of codes: the number of codes that, used equally, would say as much; 0 without any."""
    counts = np.asarray(counts, np.float64)
    used = counts[counts > 0] / max(counts.sum(), 1.0)
    return float(np.exp(-(used * np.log(used)).sum())) if used.size else 0.0


def usage(counts: np.ndarray) -> dict[str, Any]:
    """How much of a vocabulary is used: counts (vocab_size,) -> size, used, share, perplexity, tokens."""
    used = int((counts > 0).sum())
    return {
        "size": counts.size,
        "used": used,
        "share": used / counts.size,
        "perplexity": perplexity(counts),
        "tokens": int(counts.sum()),
    }
