"""Token store against tars of .npy files: bytes and samples/s, one process, data in the page cache.

    python benchmarks/store.py [--samples 10000] [--tokens 196] [--vocab 16384] [--repeats 5]

The named reference is the layout of apple/ml-4m: a WebDataset tar for each modality and shard, one .npy file (int16 or
wider) for each sample. Both are written and read here. Token ids are uniformly random, the worst case for compression.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from circumstances import state

from fourmill.modalities import Kind
from fourmill.tokenize.store import ROW_GROUP, Column, ColumnReader, ColumnSpec, encode_column, read


def npy_tar(keys: list[str], tokens: np.ndarray) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for key, row in zip(keys, tokens, strict=True):
            file = io.BytesIO()
            np.save(file, row)
            member = tarfile.TarInfo(f"{key}.npy")
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)
    return sink.getvalue()


def read_npy_tar(path: Path) -> int:
    with tarfile.open(path) as tar:
        files = (tar.extractfile(member) for member in tar)
        return sum(len(np.load(io.BytesIO(file.read()))) for file in files if file)


def list_parquet(keys: list[str], tokens: np.ndarray) -> bytes:
    """The obvious Parquet: list<uint16>."""
    sink = io.BytesIO()
    flat = pa.array(tokens.reshape(-1))
    ends = pa.array(np.arange(len(tokens) + 1) * tokens[0].size, pa.int32())
    table = pa.table({"key": keys, "tokens": pa.ListArray.from_arrays(ends, flat)})
    pq.write_table(table, sink, row_group_size=ROW_GROUP, compression="zstd", use_dictionary=False)
    return sink.getvalue()


def read_list_parquet(path: Path) -> int:
    return len(pq.read_table(path, use_threads=False)["tokens"].combine_chunks().values.to_numpy())


def read_groups(path: Path) -> list[Column]:
    """As the loader does: the footer once, then one row group at a time."""
    reader = ColumnReader(path)
    return [reader.read([group]) for group in range(reader.num_row_groups)]


def best_seconds(action: Callable[[], Any], repeats: int) -> float:
    """Of several runs: a shared machine only ever adds time."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=196)
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, args.vocab, (args.samples, 1, args.tokens)).astype(np.uint16)
    keys = [f"{i:09d}" for i in range(args.samples)]
    spec = ColumnSpec("tok_rgb", Kind.GRID, crops=1, length=args.tokens, vocab_size=args.vocab)
    layouts: dict[str, tuple[Callable[[], bytes], Callable[[Path], Any]]] = {
        "tar of .npy (reference)": (lambda: npy_tar(keys, tokens), read_npy_tar),
        "Parquet list<uint16>": (lambda: list_parquet(keys, tokens), read_list_parquet),
        "token store, whole file": (lambda: encode_column(spec, keys, list(tokens)), read),
        "token store, by row group": (
            lambda: encode_column(spec, keys, list(tokens)),
            read_groups,
        ),
    }
    print(f"{args.samples} samples of {args.tokens} ids below {args.vocab}, best of {args.repeats}\n")
    print("| layout | bytes/sample | ratio | written/s | read/s | ratio |")
    print("|---|---|---|---|---|---|")
    base: tuple[float, float] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for title, (write, reader) in layouts.items():
            data = write()
            path = Path(folder) / "column"
            path.write_bytes(data)
            size = len(data) / args.samples
            speed = args.samples / best_seconds(partial(reader, path), args.repeats)
            base = base or (size, speed)
            written = args.samples / best_seconds(write, 2)
            ratios = size / base[0], speed / base[1]
            print(f"| {title} | {size:.0f} | {ratios[0]:.2f} | {written:,.0f} | {speed:,.0f} | {ratios[1]:.0f} |")


if __name__ == "__main__":
    main()
