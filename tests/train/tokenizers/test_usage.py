from __future__ import annotations

import numpy as np
import pytest

from fourmill.train.tokenizers.usage import perplexity, usage


def test_perplexity_counts_codes_that_are_used_equally() -> None:
    assert perplexity(np.full(64, 7)) == pytest.approx(64)
    assert perplexity(np.array([5, 0, 0])) == pytest.approx(1)
    assert perplexity(np.zeros(4)) == 0
    assert 1 < perplexity(np.array([9, 1])) < 2


def test_usage_counts_ids_that_occur() -> None:
    assert usage(np.array([5, 0, 5, 0])) == {"size": 4, "used": 2, "share": 0.5, "perplexity": 2.0, "tokens": 10}
