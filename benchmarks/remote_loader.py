"""The loader on an object store that answers slowly: how long training would wait, and what is asked of the store.

    python benchmarks/remote_loader.py [--milliseconds 50] [--rate 1500] [--rows 4096] [--shards 8] [--batch 256]
        [--seconds 20] [--gigabytes 4]

An S3 server (moto) on loopback, in a process of its own, answers each request after some time and counts requests and
bytes. The store holds random tokens of 4M-7 at 224 px, with 2 crops. A consumer takes a batch, is busy as long as a
step at `rate` samples/s takes, and takes the next one; the time before the first batch is printed apart. Bytes are
compared with those of the column chunks that the samples lie in which were consumed or asked for ahead: what a loader
reads that reads nothing twice. Then the same samples are read by a new loader, as after a restart, and those of the
next epoch, which shows other crops of half of the row groups: what the cache on this disk (of `gigabytes`) has is not
needed. With `--gigabytes 0` there is no cache, and all is needed each time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from circumstances import state
from loader import CROPS, masking_of, specs_of, write_store

from fourmill.infra import footers, storage
from fourmill.train.data.cache import CacheOptions
from fourmill.train.data.groups import ShardRows
from fourmill.train.data.loader import LoaderOptions, TokenLoader

BUCKET = "tokens"
SERVER = """
import logging, sys, threading, time
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
seconds, counts = float(sys.argv[1]), {"requests": 0, "bytes": 0}
moto, lock, on = DomainDispatcherApplication(create_backend_app), threading.Lock(), threading.Event()
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/counts":
        on.set()
        body = ("%(requests)d %(bytes)d" % counts).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    if on.is_set():
        time.sleep(seconds)
    def started(status, headers, *more):
        if on.is_set() and environ["REQUEST_METHOD"] == "GET":
            with lock:
                counts["bytes"] += int(dict(headers).get("Content-Length", 0))
        return start_response(status, headers, *more)
    with lock:
        counts["requests"] += on.is_set()
    return moto(environ, started)
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


def counts(port: int) -> tuple[int, int]:
    """Requests and bytes so far; from the first call on, the server is slow and counts."""
    requests, bytes_ = storage.read_bytes(f"http://127.0.0.1:{port}/counts").split()
    return int(requests), int(bytes_)


def upload(folder: Path) -> None:
    """Copy a store to the bucket."""
    fs, _ = storage.filesystem(f"s3://{BUCKET}")
    fs.call_s3("create_bucket", Bucket=BUCKET)
    for path in sorted(folder.rglob("*.parquet")):
        storage.put(f"s3://{BUCKET}/{path.relative_to(folder)}", path.read_bytes())


def needed(folder: Path, loader: TokenLoader, first: int, samples: int) -> dict[tuple[str, int, int, str], int]:
    """Column chunks that hold some samples of a run, keys and the crops that are shown, and how many bytes each has."""
    blocks, chunks_of = loader.order.blocks(np.arange(first, first + samples)), {}
    for group, epoch in {visit for block in blocks for visit in block.visits}:
        shard, index = divmod(group, len(loader.order.group_rows) // len(list((folder / "caption").iterdir())))
        crop = int(loader.order.crops((group, epoch))[0] % CROPS)
        for spec in loader.specs:
            chunks = pq.read_metadata(folder / spec.name / f"{shard:05d}.parquet").row_group(index)
            fields = {
                chunks.column(i).path_in_schema.split(".")[0]: chunks.column(i) for i in range(chunks.num_columns)
            }
            shown = f"crop{crop}" if f"crop{CROPS - 1}" in fields else "crop0"
            for field in ("key", shown):
                chunks_of[spec.name, shard, index, field] = fields[field].total_compressed_size
    return chunks_of


def consume(loader: TokenLoader, first_sample: int, args: argparse.Namespace) -> tuple[float, float, int]:
    """Seconds before the first batch, seconds waited after it, and batches."""
    begin = time.perf_counter()
    batches = loader.batches(0, args.batch, start_sample=first_sample)
    next(batches)
    first, waited, taken = time.perf_counter() - begin, 0.0, 1
    end = time.perf_counter() + args.seconds
    while time.perf_counter() < end:
        time.sleep(args.batch / args.rate)
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
        taken += 1
    batches.close()
    return first, waited, taken


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milliseconds", type=float, default=50.0, help="that each request takes at least")
    parser.add_argument("--rate", type=float, default=1500.0, help="samples/s of the consumer alone")
    parser.add_argument("--rows", type=int, default=4096, help="of each shard")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of the cache on this disk")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    shards = [ShardRows(f"{i:05d}", args.rows) for i in range(args.shards)]
    command = [sys.executable, "-c", SERVER, str(args.milliseconds / 1000)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
            os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
            os.environ |= dict.fromkeys(names, "benchmark")
            write_store(Path(folder), shards)
            upload(Path(folder))
            names_of = [spec.name for spec in specs_of(pixels=False)]
            shards = [replace(one, footers=_sums(Path(folder), one.name, names_of)) for one in shards]
            rows = measure(Path(folder), port, shards, args)
        finally:
            server.kill()
    print(f"4M-7, batches of {args.batch}, {args.shards} shards of {args.rows}, {args.milliseconds:g} ms a request\n")
    print("| read | consumer, samples/s | first batch after, s | waiting, % | requests | MB read | of those needed |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def _sums(folder: Path, shard: str, modalities: Sequence[str]) -> dict[str, str]:
    """Of the footers of a shard's columns, as the ledger has them."""
    return {name: footers.digest_at(str(folder / name / f"{shard}.parquet")) for name in modalities}


def measure(folder: Path, port: int, shards: list[ShardRows], args: argparse.Namespace) -> list[str]:
    """The rows of the table."""
    specs, rows, kept = specs_of(pixels=False), [], dict[tuple[str, int, int, str], int]()
    with tempfile.TemporaryDirectory() as place:
        options = LoaderOptions(cache=CacheOptions(place, args.gigabytes))
        for name, epoch in (("first epoch", 0), ("the same, restarted", 0), ("second epoch", 1)):
            before = counts(port)
            loader = TokenLoader(f"s3://{BUCKET}", shards, specs, masking_of(specs), 0, options)
            start = epoch * loader.epoch_size
            first, waited, taken = consume(loader, start, args)
            after = counts(port)
            # What it has asked for by now, some of it for later batches.
            ahead = loader.options.prefetch + loader._read_ahead(args.batch)
            chunks = needed(folder, loader, start, (taken + ahead) * args.batch)
            count = sum(size for chunk, size in chunks.items() if chunk not in kept)
            kept |= chunks if args.gigabytes else {}
            requests, read = (now - then for now, then in zip(after, before, strict=True))
            share = f"{read / count:.2f}" if count else "nothing needed"
            rows.append(
                f"| {name} | {args.rate:,.0f} | {first:.1f} | {100 * waited / args.seconds:.0f} | {requests:,} | "
                f"{read / 1e6:.1f} | {share} |"
            )
    return rows


if __name__ == "__main__":
    main()
