"""Statistics of `fourmill inspect` with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from fourmill.report.inspect import statistics


@pytest.mark.parametrize("values", [[3], [0, 1, 2, 2], list(range(100)), [5, 500]])
def test_histogram_bins_hold_every_value_once(values: list[int]) -> None:
    for kind in (np.int64, np.float64):
        found = statistics.histogram(np.array(values, kind))
        assert found is not None and sum(found["counts"]) == len(values)
        assert len(found["edges"]) == len(found["counts"]) + 1
        assert (found["min"], found["max"]) == (min(values), max(values))
    whole = statistics.histogram(np.array(values))
    assert whole is not None and len(set(np.diff(whole["edges"]).tolist())) == 1


def test_histogram_counts_what_is_not_finite() -> None:
    found = statistics.histogram([1.0, float("nan"), float("inf")])
    assert found is not None and found["not_finite"] == 2 and sum(found["counts"]) == 1
    assert statistics.histogram([]) is None
