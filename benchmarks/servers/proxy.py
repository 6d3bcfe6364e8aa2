"""A proxy between an S3 client and its server that answers as real stores do on bad days, at random by seed.

    python benchmarks/servers/proxy.py UPSTREAM_PORT --seed 0 --rate 0.1 [--port 0]

It prints its port. Which request is disturbed, and how, follows from the seed, the request's method and path, and how
often that was asked for: the same for any order of the threads that ask.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

IN_A_ROW = 3  # disturbed answers to one request: any client that tries four times gets through
SLOW_SECONDS = 2.0
ENDLESS_SECONDS = 600.0  # longer than any client waits for an answer
HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "date", "server"}
CODES = {409: "OperationAborted", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}
# What may happen to a request, and how often in comparison. "lost": it was done, and the answer never came.
KINDS = {"503": 3, "500": 2, "429": 1, "409": 2, "drop": 3, "lost": 2, "truncate": 3, "slow": 1, "stale": 2}


@dataclass
class Faults:
    """What becomes of requests.

    rate: the share of requests that are disturbed. endless: how many requests get no answer for `ENDLESS_SECONDS`.
    """

    seed: int = 0
    rate: float = 0.1
    endless: int = 1
    count: Counter[str] = field(default_factory=Counter)  # requests by method and path, then disturbed ones by kind
    _row: Counter[str] = field(default_factory=Counter)
    _seen: dict[str, tuple[int, list[tuple[str, str]], bytes]] = field(default_factory=dict)  # listings by path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def kind(self, method: str, path: str) -> str:
        """What happens to this request, "" for nothing."""
        name = f"{method} {path}"
        with self._lock:
            self.count[name] += 1
            digest = hashlib.sha256(f"{self.seed} {name} {self.count[name]}".encode()).digest()
            share, choice = (int.from_bytes(digest[i : i + 4], "big") / 2**32 for i in (0, 4))
            if share >= self.rate or self._row[name] >= IN_A_ROW:
                self._row[name] = 0
                return ""
            possible = [kind for kind, weight in KINDS.items() for _ in range(weight) if _fits(kind, method, path)]
            kind = possible[int(choice * len(possible))]
            if kind == "drop" and self.endless > 0 and method == "GET":
                self.endless -= 1
                kind = "endless"
            self._row[name] += kind != "stale"
            self.count[kind] += 1
            return kind

    def listing(self, path: str, answer: tuple[int, list[tuple[str, str]], bytes]) -> None:
        with self._lock:
            self._seen[path] = answer

    def before(self, path: str) -> tuple[int, list[tuple[str, str]], bytes] | None:
        """What was listed the last time."""
        with self._lock:
            return self._seen.get(path)


def _fits(kind: str, method: str, path: str) -> bool:
    if kind == "409":
        return method in ("PUT", "DELETE", "POST")
    if kind == "truncate":
        return method == "GET"
    return kind != "stale" or (method == "GET" and "list-type" in path)


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    faults: Faults
    upstream: int

    def do_GET(self) -> None:
        body = self._body()
        kind = self.faults.kind(self.command, self.path)
        if kind.isdecimal():
            return self._refuse(int(kind))
        if kind == "drop":
            return self._hang_up()
        if kind == "endless":
            time.sleep(ENDLESS_SECONDS)
            return self._hang_up()
        if kind == "slow":
            time.sleep(SLOW_SECONDS)
        old = self.faults.before(self.path) if kind == "stale" else None
        status, headers, data = old or self._forward(body)
        if "list-type" in self.path and old is None:
            self.faults.listing(self.path, (status, headers, data))
        if kind == "lost":
            return self._hang_up()
        self._answer(status, headers, data, cut=kind == "truncate" and len(data) > 1)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing: thousands of lines."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_HEADERS} | {"Connection": "close"}
        headers["Content-Length"] = str(len(body))
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in HOP_HEADERS]
            return answer.status, kept, answer.read()
        except OSError:  # the server was killed
            return 503, [], b""
        finally:
            connection.close()

    def _refuse(self, status: int) -> None:
        text = f"<Error><Code>{CODES[status]}</Code><Message>Please try again.</Message></Error>"
        self._answer(status, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else text.encode())

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        self.send_response(status)
        given = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" or "content-length" not in given:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A client that has gone."""


def serve(upstream: int, faults: Faults, port: int = 0) -> Server:
    """A proxy that is ready to serve (`serve_forever`); its port is `server_port`."""
    handler = type("Handler", (Handler,), {"faults": faults, "upstream": upstream})
    return Server(("127.0.0.1", port), handler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("upstream", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--endless", type=int, default=1)
    args = parser.parse_args()
    server = serve(args.upstream, Faults(args.seed, args.rate, args.endless), args.port)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
