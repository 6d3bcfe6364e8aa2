"""Each worker stages its share of what all workers have: all of it in sum, as much as any other, nothing twice."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fourmill.train.staging import Stager, shares

SHAPES = st.lists(st.sampled_from([(), (0, 4), (1,), (7,), (5, 3), (64, 8), (300, 16), (2, 3, 4)]), min_size=1)


def tensors_of(shapes: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    values = [torch.arange(torch.Size(shape).numel()).reshape(shape).float() for shape in shapes]
    return {str(i): x + 1000 * i for i, x in enumerate(values)}


@given(SHAPES, st.integers(1, 9))
def test_shares_make_up_the_whole(shapes: list[tuple[int, ...]], world: int) -> None:
    tensors = tensors_of(shapes)
    found = {name: torch.full_like(x, -1) for name, x in tensors.items()}
    seen = []
    for rank in range(world):
        for chunk in shares(tensors, rank, world):
            here = tuple(slice(o, o + n) for o, n in zip(chunk.offset, chunk.values.shape, strict=True))
            found[chunk.name][here] = chunk.values
            seen += [(chunk.name, chunk.offset)]
            assert chunk.size == tensors[chunk.name].shape
    assert len(seen) == len(set(seen)) and {name for name, _ in seen} == set(tensors)
    assert all(torch.equal(found[name], x) for name, x in tensors.items())


@given(SHAPES, st.integers(1, 9))
def test_shares_are_equal_but_for_a_row(shapes: list[tuple[int, ...]], world: int) -> None:
    tensors = tensors_of(shapes)
    staged = []
    for rank in range(world):
        stager = Stager(rank, world)
        stager.stage(tensors)
        staged.append(stager.bytes)
    row = max((x.nbytes // len(x) if x.ndim and len(x) else x.nbytes for x in tensors.values()), default=0)
    assert sum(staged) == sum(x.nbytes for x in tensors.values())
    assert max(staged) <= sum(staged) / world + row + 1


def test_a_copy_does_not_change_with_the_weights() -> None:
    x = torch.zeros(4)
    (chunk,) = Stager(0, 1).stage({"x": x}).values()
    x += 1
    assert not chunk.values.any()
