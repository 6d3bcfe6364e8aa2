"""Which worker is slow, by what each does before it waits for the others."""

from __future__ import annotations

from functools import reduce
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fourmill.train.pretrain import pace
from fourmill.train.pretrain.pace import Pace, said


def test_the_slowest_worker_is_named() -> None:
    paces = [Pace(waited) for waited in (1.0, 5.0, 2.0)]
    tables: list[Tensor] = []
    for rank, one in enumerate(paces):
        one.shares(10.0, rank, 3, lambda table: tables.append(table) or table)  # type: ignore[func-returns-value]
    whole = reduce(torch.add, tables)
    values = paces[0].shares(10.0, 0, 3, lambda _: whole)
    assert values == pytest.approx({"data_wait_share": 0.5, "slowest_worker": 1.0, "lag_share": 0.3})
    assert said(values) == ["waits for data 50% of the time", "worker 1 is the slowest, by 30% of the time"]


def test_one_worker_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((10.0, 12.5))
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: next(now)))
    one = Pace(1.0)
    with one.forward("cpu"):
        pass
    assert one.seconds == 3.5
    values = one.shares(4.0, 0, 1, lambda table: table)
    assert values == {"data_wait_share": 0.25} and said(values, 0.5) == []
