from __future__ import annotations

from fourmill.report.inspect import files


def test_statistics_are_read_from_few_row_groups_spread_evenly() -> None:
    footers = [files.Footer(f"f{i}", 10, (100, 100), (1000, 1000), {}) for i in range(4)]
    assert files.choose(footers, 10_000, 10**6) == {i: [0, 1] for i in range(4)}
    assert files.choose(footers, 400, 10**6) == {0: [0], 1: [0], 2: [0], 3: [0]}
    assert files.choose(footers, 10_000, 1) == {0: [0]}  # one, however large
