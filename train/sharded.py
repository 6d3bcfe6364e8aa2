"""Checkpoints that all workers write and any number of workers reads: torch.distributed.checkpoint on any storage.

ROOT/runs/NAME/FINGERPRINT/checkpoints/step-00001000/{ATTEMPT-00000-0.safetensors, ..., complete.json}

torch plans who reads which part of which tensor, and writes while training goes on; each worker writes its share
(staging.py). Files and index are ours: safetensors and JSON, no pickles (docs/decisions.md, "Sharded checkpoints").
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future as ConcurrentFuture
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_loader import load as load_state_dict
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from ..infra import storage, sums
from ..infra.formats import header as headers
from . import checkpoint
from .checkpoint import Checkpoint
from .staging import Part, Planner, Stager

# torch warns if there is no process group; one process that loads a model needs none.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

_MOVE_AWAY = "; if its files are damaged, move the folder away to go on from the one before"
PART_BYTES = 1 << 30  # of one file: a worker holds so much memory once more while it writes


class Saver:
    """Writes the checkpoints of a run beside training.

    Every worker has one and calls it at the same steps.

    Args:
        folder: URL of the run's checkpoints.
        keep: complete ones that are kept.
    """

    def __init__(self, folder: str, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self.notes: list[str] = []  # sentences for the user, on damaged checkpoints
        # A group of its own: its collectives run in a thread beside those of training. gloo: tensors in host memory.
        self.group: dist.ProcessGroup | None = None
        if dist.is_initialized():
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)  # of all workers, this one among them
            self.group = group
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.stager = Stager(rank, world)
        self._writing: ConcurrentFuture[Any] | None = None

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint that is not damaged, or None; see `checkpoint.newest`.

        Worker 0 looks it up for all: while an earlier attempt is still writing, each worker could see another one.
        """
        if self.group is None:
            return checkpoint.newest(self._folder, self.notes)
        step = torch.tensor(-1)
        if dist.get_rank(self.group) == 0 and (latest := checkpoint.newest(self._folder, self.notes)):
            step.fill_(latest.step)
        dist.broadcast(step, src=0, group=self.group)
        newest = int(step)
        return Checkpoint(newest, checkpoint.step_url(self._folder, newest)) if newest >= 0 else None

    def save(self, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Begin to write a checkpoint. Waits for the one before it.

        Call `stager.wait` before the tensors change: a GPU copies them beside other work.

        Args:
            tensors: of this worker, sharded (DTensor) or equal on all workers.
            state: further values, as JSON; those of worker 0 are written.
        """
        self.wait()  # one save at a time: each holds a copy of all tensors of this worker in host memory
        writer = _Writer(self._folder, step, state, self._keep)
        with _readable_errors("write", checkpoint.step_url(self._folder, step)):
            started = async_save(
                dict(tensors),
                storage_writer=writer,
                planner=Planner(self.stager),
                process_group=self.group,
                async_stager=self.stager,
                no_dist=self.group is None,
            )
        assert isinstance(started, ConcurrentFuture)
        self._writing = started

    def check(self) -> None:
        """OSError if the last checkpoint could not be written, as far as is known; does not wait."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint is complete. OSError if it could not be written."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            with _readable_errors("write", self._folder):
                writing.result()


def load(saved: Checkpoint, tensors: dict[str, torch.Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Fill `tensors` (sharded in whatever way) with those of a checkpoint.

    Args:
        group: of the workers that read it, all of which must call this; None for this process alone.

    Raises:
        OSError: it cannot be read, or has other tensors.
        ValueError: its files are damaged.
    """
    with _readable_errors("read", saved.url, _MOVE_AWAY):
        load_state_dict(
            dict(tensors), storage_reader=_Reader(saved, tensors), process_group=group, no_dist=group is None
        )


@contextmanager
def _readable_errors(verb: str, url: str, advice: str = "") -> Iterator[None]:
    """Turn torch's CheckpointException, which holds the errors of all workers, into an OSError, or into a ValueError if
    the content of files is wrong: another attempt would fail in the same way."""
    try:
        yield
    except CheckpointException as error:
        failures = [(rank, failure[0]) for rank, failure in sorted(error.failures.items())]
        kind = ValueError if all(isinstance(cause, ValueError) for _, cause in failures) else OSError
        causes = "; ".join(f"worker {rank}: {cause!r}" for rank, cause in failures)
        # From the first of them: its number tells a full disk from what may be over soon (infra/faults.py).
        raise kind(f"{url}: cannot {verb} the checkpoint: {causes}{advice}") from failures[0][1]


class _Writer(StorageWriter):
    def __init__(self, folder: str, step: int, state: dict[str, Any], keep: int) -> None:
        super().__init__()
        self._folder, self._step, self._state, self._keep = folder, step, state, keep
        self._url = checkpoint.step_url(folder, step)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        # Files are named by the attempt: a worker that outlives its attempt cannot write into a later one's files.
        attempt = secrets.token_hex(4)
        return [
            dataclasses.replace(plan, storage_data=f"{attempt}-{rank:05d}", planner_data=plan.planner_data)
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        from safetensors.torch import save

        results = []
        for number, part in enumerate(_parts(plan.items)):
            name = f"{plan.storage_data}-{number}.safetensors"
            tensors: dict[str, torch.Tensor] = {}
            places: list[dict[str, Any]] = []
            for i, item in enumerate(part):
                tensor = planner.resolve_data(item)
                assert isinstance(tensor, torch.Tensor) and item.tensor_data is not None
                tensors[str(i)] = tensor.detach().cpu().contiguous()
                chunk = item.tensor_data.chunk
                places.append({"file": name, "key": str(i), "offsets": list(chunk.offsets), "sizes": list(chunk.sizes)})
            data = save(tensors)
            (header, start), view = _header(io.BytesIO(data), name), memoryview(data)
            whole = checkpoint.put(storage.join(self._url, name), data)
            for place in places:
                begin, end = header[place["key"]]["data_offsets"]
                place |= {"sum": sums.of(view[start + begin : start + end]), "whole": whole}
            # The first tensor of a file counts for the whole file, with header and padding.
            counted = [len(data)] + [0] * (len(part) - 1)
            results += [
                WriteResult(item.index, size, place) for item, size, place in zip(part, counted, places, strict=True)
            ]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        # Called on one worker when all have written: the marker it writes completes the checkpoint.
        tensors: dict[str, dict[str, Any]] = {}
        sizes: dict[str, int] = {}
        whole: dict[str, str] = {}
        for result in (one for worker in results for one in worker):
            saved = metadata.state_dict_metadata[result.index.fqn]
            assert isinstance(saved, TensorStorageMetadata)
            dtype = str(saved.properties.dtype).removeprefix("torch.")
            entry = {"dtype": dtype, "shape": list(saved.size), "chunks": []}
            place = dict(result.storage_data)
            file = place["file"]
            whole[file] = place.pop("whole")
            tensors.setdefault(result.index.fqn, entry)["chunks"].append(place)
            sizes[file] = sizes.get(file, 0) + result.size_in_bytes
        checkpoint.mark(
            self._folder,
            self._step,
            {"files": sizes, "sums": whole, "state": self._state, "tensors": tensors},
            self._keep,
        )

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


def _parts(items: Sequence[WriteItem]) -> Iterator[list[WriteItem]]:
    """The items of one worker, in files of at most PART_BYTES; a larger tensor has a file of its own."""
    part: list[WriteItem] = []
    size = 0
    for item in items:
        assert item.tensor_data is not None, f"{item.index.fqn} is no tensor"
        nbytes = item.tensor_data.chunk.sizes.numel() * item.tensor_data.properties.dtype.itemsize
        if part and size + nbytes > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += nbytes
    if part:
        yield part


class _Reader(StorageReader):
    def __init__(self, saved: Checkpoint, wanted: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._url, self._tensors = saved.url, dict(saved.marker()["tensors"])
        for name, tensor in wanted.items():
            part = Part.of(name)
            if part is not None and part.name in self._tensors:
                self._tensors[name] = _cut(self._tensors[part.name], part, tensor.shape)
        self._places: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {
            (name, tuple(chunk["offsets"])): chunk for name, entry in self._tensors.items() for chunk in entry["chunks"]
        }

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        pass

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return Metadata({name: _metadata(entry) for name, entry in self._tensors.items()})

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        files: dict[str, list[tuple[ReadItem, dict[str, Any]]]] = {}
        for item in plan.items:
            place = self._places[_key(item.storage_index)]
            files.setdefault(place["file"], []).append((item, place))
        for name, wanted in files.items():
            # Tensors one at a time: a worker needs the memory of one part beside its own tensors.
            with storage.open_binary(storage.join(self._url, name)) as file:
                header = _header(file, name)
                for item, place in wanted:
                    tensor = _read_tensor(file, *header, place, name)[place.get("rows", ...)]
                    begin, size = item.storage_offsets, item.lengths
                    piece = tensor[tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))]
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(piece)
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


def _key(index: MetadataIndex) -> tuple[str, tuple[int, ...]]:
    return index.fqn, tuple(index.offset or ())


def _cut(entry: dict[str, Any], part: Part, shape: torch.Size) -> dict[str, Any]:
    """The entry of a part of a tensor, of this shape, from that of the whole; "rows": those of a chunk that it has."""
    chunks = []
    for chunk in entry["chunks"] if entry["shape"] == [part.rows, *shape[1:]] else ():
        (offset, *rest), (size, *sizes) = chunk["offsets"], chunk["sizes"]
        first, last = max(offset, part.begin), min(offset + size, part.begin + shape[0])
        if first < last:
            at, rows = [first - part.begin, *rest], slice(first - offset, last - offset)
            chunks.append(chunk | {"offsets": at, "cut": [last - first, *sizes], "rows": rows})
    return entry | {"shape": list(shape), "chunks": chunks}


def _metadata(entry: dict[str, Any]) -> TensorStorageMetadata:
    chunks = [
        ChunkStorageMetadata(torch.Size(c["offsets"]), torch.Size(c.get("cut", c["sizes"]))) for c in entry["chunks"]
    ]
    return TensorStorageMetadata(TensorProperties(getattr(torch, entry["dtype"])), torch.Size(entry["shape"]), chunks)


# Names of dtypes in safetensors; parameters, moments and averages have no others.
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def _header(file: Any, name: str) -> tuple[dict[str, Any], int]:
    """The tensors that a safetensors file holds, and where its data begin. ValueError if it is none."""
    try:
        found = headers.read(file)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return found.tensors, found.start


def _read_tensor(file: Any, header: dict[str, Any], start: int, place: dict[str, Any], name: str) -> torch.Tensor:
    """One tensor, read by its byte range: an object store sends no more than that. ValueError if it is not the one that
    was written."""
    try:
        entry = header[place["key"]]
        begin, end = entry["data_offsets"]
        dtype, shape = _DTYPES[entry["dtype"]], [int(size) for size in entry["shape"]]
        file.seek(start + begin)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name}: its header is damaged") from None
    data = bytearray(file.read(end - begin))
    if len(data) != end - begin:
        raise ValueError(f"{name}: {len(data)} bytes of a tensor, expected {end - begin}; the file was cut")
    known = place.get("sum")  # not in checkpoints of older releases
    if (
        shape != list(place["sizes"])
        or math.prod(shape) * dtype.itemsize != len(data)
        or known not in (None, sums.of(data))
    ):
        raise ValueError(f"{name}: a tensor is damaged")
    tensor = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return tensor.reshape(shape)
