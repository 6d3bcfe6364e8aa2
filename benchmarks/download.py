"""URLs a second of fourmill's fetcher and of img2dataset, from one web server of this machine, and their memory.

    python benchmarks/download.py [--urls 20000] [--side 640] [--fetchers fourmill img2dataset]

The server is a process of its own that answers from memory; all URLs are of one host, and limits by host and robots.txt
are off for both. Each fetcher has one process, makes images smaller to 256 pixels, encodes JPEGs of quality 95 and
writes the same files. Seconds are those of the work, without the start of the process: from the first slice's beginning
to the last one's end, as the statistics of the slices say. Memory is the most that the process and its children held
in the first third of their time, and in the last.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from circumstances import state

SLICE = 1000
CONNECTIONS = 64
SERVER = """
import asyncio, sys
bodies = [open(name, "rb").read() for name in sys.argv[1:]]
head = b"HTTP/1.1 200 OK\\r\\nContent-Type: image/jpeg\\r\\nContent-Length: %d\\r\\n\\r\\n%s"
answers = [head % (len(body), body) for body in bodies]

class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        while (end := self.data.find(b"\\r\\n\\r\\n")) >= 0:
            head, self.data = self.data[:end], self.data[end + 4:]
            number = int(head.split(b" ", 2)[1].rpartition(b"/")[2].partition(b".")[0])
            self.transport.write(answers[number % len(answers)])
            if b"connection: close" in head.lower():
                self.transport.close()

async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def photos(folder: Path, side: int, count: int = 40) -> list[str]:
    """JPEGs with edges and noise, as photos have them."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        small = rng.integers(0, 256, (12, 16, 3), np.uint8)
        pixels = cv2.resize(small, (side * 4 // 3, side), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(pixels.astype(np.int16) + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        path = folder / f"{i}.jpg"
        cv2.imwrite(str(path), noisy, [cv2.IMWRITE_JPEG_QUALITY, 88])
        paths.append(str(path))
    return paths


@contextmanager
def server(images: Sequence[str]) -> Iterator[int]:
    """The port of a web server in a process of its own."""
    process = subprocess.Popen([sys.executable, "-c", SERVER, *images], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


class Memory:
    """MiB that a process and its children hold, looked at while it runs."""

    def __init__(self, pid: int) -> None:
        self.seen: list[float] = []
        self._pid, self._end = pid, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._end.wait(0.2):
            self.seen.append(sum(map(_resident, [self._pid, *_children(self._pid)])))

    def close(self) -> tuple[float, float]:
        """The most in the first third of the time, and in the last."""
        self._end.set()
        self._thread.join()
        third = max(1, len(self.seen) // 3)
        return max(self.seen[:third], default=0.0), max(self.seen[-third:], default=0.0)


def _resident(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * resource.getpagesize() / 2**20


def _children(pid: int) -> list[int]:
    try:
        found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*found, *(below for one in found for below in _children(one))]


def ours(table: Path, out: Path, urls: int) -> None:
    """In this process: what an actor of the engine does, two slices at a time."""
    from concurrent.futures import ThreadPoolExecutor

    from fourmill.pipelines.download import download
    from fourmill.pipelines.download.settings import Download
    from fourmill.pipelines.download.worker import DownloadJob, DownloadWorker
    from fourmill.pipelines.engine.job import NO_HINTS

    settings = Download(
        table=str(table), out=str(out), shard_size=min(SLICE, urls), allow=["127.0.0.1"], per_host=None, robots=False,
        connections=CONNECTIONS,
    )  # fmt: skip
    sliced = download.slice_table(settings)
    worker = DownloadWorker(DownloadJob(settings, sliced.columns, 100_000_000, "fourmill-benchmark"))
    worker.setup("cpu")
    with ThreadPoolExecutor(2) as two:
        list(two.map(lambda task: worker.run(task, NO_HINTS), download.tasks(settings, sliced).values()))
    worker.close()


def by_img2dataset(table: Path, out: Path, urls: int) -> list[str]:
    options = {
        "url_list": table, "input_format": "csv", "url_col": "url", "caption_col": "caption", "output_folder": out,
        "output_format": "webdataset", "processes_count": 1, "thread_count": CONNECTIONS, "image_size": 256,
        "resize_mode": "keep_ratio", "resize_only_if_bigger": True, "number_sample_per_shard": min(SLICE, urls),
        "extract_exif": False, "timeout": 30,
    }  # fmt: skip
    tool = ["uv", "tool", "run", "--from", "img2dataset==1.47.0", "img2dataset"]
    return [*tool, *(f"--{name}={value}" for name, value in options.items())]


def run(fetcher: str, table: Path, out: Path, urls: int) -> tuple[int, float, float, float, float]:
    """(samples, seconds, CPU seconds, most MiB early, most MiB late)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = by_img2dataset(table, out, urls) if fetcher == "img2dataset" else [
        sys.executable, __file__, "--only", str(table), str(out), "--urls", str(urls)
    ]  # fmt: skip
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    memory = Memory(process.pid)
    said, _ = process.communicate()
    early, late = memory.close()
    if process.returncode:
        raise RuntimeError(f"{fetcher} ended with {process.returncode}: {said[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    stats = [json.loads(path.read_text()) for path in sorted(out.glob("*_stats.json"))]
    samples = sum(one["successes"] for one in stats)
    assert samples == urls, f"{fetcher}: {samples} of {urls} samples"
    seconds = max(one["end_time"] for one in stats) - min(one["start_time"] for one in stats)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return samples, seconds, cpu, early, late


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--urls", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=640, help="shorter side of the images in pixels")
    parser.add_argument("--rounds", type=int, default=1, help="fetchers take turns so often")
    parser.add_argument("--fetchers", nargs="+", default=["fourmill", "img2dataset"])
    parser.add_argument("--only", nargs=2, metavar=("TABLE", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.only:
        ours(Path(args.only[0]), Path(args.only[1]), args.urls)
        return
    state(__file__, arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = photos(folder, args.side)
        size = sum(map(os.path.getsize, images)) / len(images)
        print(f"{args.urls:,} URLs of one host, images of {args.side} px and {size / 1000:.0f} kB")
        print("| round | fetcher | URLs/s | CPU seconds | MiB early | MiB late |")
        print("|---|---|---|---|---|---|")
        with server(images) as port:
            table = folder / "table.csv"
            with open(table, "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["url", "caption"])
                writer.writerows((f"http://127.0.0.1:{port}/{i}.jpg", f"caption {i}") for i in range(args.urls))
            for turn in range(args.rounds):
                for fetcher in args.fetchers:
                    out = folder / "out"
                    samples, seconds, cpu, early, late = run(fetcher, table, out, args.urls)
                    figures = f"{samples / seconds:,.0f} | {cpu:,.1f} | {early:,.0f} | {late:,.0f}"
                    print(f"| {turn} | {fetcher} | {figures} |", flush=True)
                    shutil.rmtree(out)


if __name__ == "__main__":
    main()
