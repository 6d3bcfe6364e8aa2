"""Copies of tensors in host memory, which are written while training goes on: of each worker its share alone.

Shards (FSDP) are shares already. What all workers have alike (DDP) is a line of rows, tensor after tensor, that is cut
into as many equal parts as there are workers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.staging import AsyncStager

from ..model.fourm import FourM


@dataclass(frozen=True)
class Part:
    """Rows of a tensor that a model holds on their own, from `begin`; a checkpoint has all `rows` as one, `name`."""

    name: str
    begin: int
    rows: int

    def __str__(self) -> str:
        return f"{self.name}[{self.begin}:/{self.rows}]"

    @classmethod
    def of(cls, name: str) -> Part | None:
        """Of the name of a tensor, None if it is whole."""
        found = re.fullmatch(r"(.+)\[(\d+):/(\d+)\]", name)
        return found and cls(found[1], int(found[2]), int(found[3]))


def names_of(model: FourM) -> dict[str, str]:
    """What checkpoints call each parameter of a model, by its name there; see `Part`."""
    names = {name: name for name, _ in model.named_parameters()}
    for side in ("encoder_embeddings", "decoder_embeddings"):
        tables = list(getattr(model, side).tables())
        rows = sum(len(table) for _, table, _, _ in tables)
        if len(tables) > 1:
            names |= {f"{side}.{name}": str(Part(f"{side}.tokens", begin, rows)) for name, _, begin, _ in tables}
    return names


@dataclass(frozen=True)
class Chunk:
    """A part of a tensor that one worker writes.

    name, size: of the whole tensor.
    offset: where the part begins in it.
    values: the part.
    """

    name: str
    size: torch.Size
    offset: tuple[int, ...]
    values: Tensor

    @classmethod
    def of(cls, name: str, size: torch.Size, offset: tuple[int, ...], values: Tensor) -> Chunk:
        """Of a tensor that may be a `Part` of one."""
        part = Part.of(name)
        if part is None:
            return cls(name, size, offset, values)
        return cls(part.name, torch.Size((part.rows, *size[1:])), (part.begin + offset[0], *offset[1:]), values)


def shares(tensors: Mapping[str, Tensor], rank: int, world: int) -> Iterator[Chunk]:
    """What one of `world` workers writes of tensors that are sharded (DTensor) or equal on all of them."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    alike = {name: x for name, x in tensors.items() if not isinstance(x, DTensor)}
    for name, x in tensors.items():
        if isinstance(x, DTensor):
            _, offset = compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)
            values: Tensor = x.to_local().detach()
            if values.numel():
                yield Chunk.of(name, x.shape, tuple(offset), values)
    total, begin = sum(x.nbytes for x in alike.values()), 0
    first, last = total * rank // world, total * (rank + 1) // world
    for name, x in alike.items():
        if not x.nbytes or not x.ndim:
            # All of it where it begins; what is empty at the end of the line is the last worker's.
            mine = first <= begin < last or (begin == total and rank == world - 1)
            start, stop = 0, int(mine)
        else:
            row = x.nbytes // len(x)  # a row belongs to the worker in whose part it begins
            start, stop = (min(max(-(-(edge - begin) // row), 0), len(x)) for edge in (first, last))
        if start < stop:
            values = x.detach() if not x.nbytes or not x.ndim else x.detach()[start:stop]
            yield Chunk.of(name, x.shape, (start, *[0] * (x.ndim - 1))[: x.ndim], values)
        begin += x.nbytes


class Stager(AsyncStager):
    """Copies what one worker writes to host memory.

    Of a GPU it is a copy beside training, to pinned memory that is kept for the next checkpoint: `wait` before weights
    change. On a CPU it is a copy at once.

    Attributes:
        bytes: of the last copy.
    """

    _synchronize_after_execute = False

    def __init__(self, rank: int, world: int) -> None:
        self._rank, self._world, self.bytes = rank, world, 0
        self._kept: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._stream: torch.cuda.Stream | None = None
        self._copied: torch.cuda.Event | None = None

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        chunks = list(shares(state_dict, self._rank, self._world))
        self.bytes = sum(chunk.values.nbytes for chunk in chunks)
        device = next((chunk.values.device for chunk in chunks if chunk.values.is_cuda), None)
        if device is None:
            return _by_index(Chunk(c.name, c.size, c.offset, c.values.clone()) for c in chunks)
        self._stream = self._stream or torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            staged = _by_index(Chunk(c.name, c.size, c.offset, self._pinned(c)) for c in chunks)
        self._copied = self._stream.record_event()
        return staged

    def _pinned(self, chunk: Chunk) -> Tensor:
        place = chunk.name, chunk.offset
        if place not in self._kept:
            self._kept[place] = torch.empty_like(chunk.values, device="cpu", pin_memory=True)
        return self._kept[place].copy_(chunk.values, non_blocking=True)

    def wait(self) -> None:
        """Have the device finish the copy before what is launched from now on."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)

    def synchronize_staging(self) -> None:
        return None

    def close(self) -> None:
        return None

    def finish(self) -> None:
        """Return when the copy is complete."""
        if self._copied is not None:
            self._copied.synchronize()


def _by_index(chunks: Iterable[Chunk]) -> dict[str, Any]:
    return {f"{chunk.name}@{chunk.offset}": chunk for chunk in chunks}


class Planner(SavePlanner):
    """Each worker writes the chunks that its stager has copied."""

    def __init__(self, stager: Stager) -> None:
        self._stager = stager
        self._chunks: dict[tuple[str, tuple[int, ...]], Chunk] = {}

    def set_up_planner(
        self, state_dict: dict[str, Any], storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        self._chunks = {(chunk.name, chunk.offset): chunk for chunk in state_dict.values()}

    def create_local_plan(self) -> SavePlan:
        return SavePlan([_item(chunk) for chunk in self._chunks.values()])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        self._stager.finish()
        index = write_item.index
        return self._chunks[index.fqn, tuple(index.offset or ())].values


def _item(chunk: Chunk) -> WriteItem:
    part = ChunkStorageMetadata(torch.Size(chunk.offset), chunk.values.size())
    data = TensorWriteData(part, TensorProperties.create_from_tensor(chunk.values), chunk.size)
    return WriteItem(MetadataIndex(chunk.name, torch.Size(chunk.offset)), WriteItemType.SHARD, None, data)
