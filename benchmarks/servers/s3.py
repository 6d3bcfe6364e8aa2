"""An S3 server for measurements: objects in memory, listings that take linear time, requests counted.

moto, the server of the tests, goes through all keys for each page of a listing. This one has the few requests that s3fs
makes of fourmill: GET (ranges), HEAD, PUT (If-None-Match), DELETE and the listing of a prefix; credentials are not
looked at.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import urllib.request
from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET, PAGE = "scale", 1000
_address = os.environ.get("SCALE_S3", "")  # of a server that this process, or its parent, has started


class Objects:
    """The keys of one bucket in order, with their contents."""

    def __init__(self) -> None:
        self.lock, self.keys, self.data, self.requests = Lock(), list[str](), dict[str, tuple[bytes, str]](), 0

    def put(self, key: str, data: bytes, if_absent: bool) -> bool:
        with self.lock:
            if key in self.data and if_absent:
                return False
            if key not in self.data:
                insort(self.keys, key)
            self.data[key] = data, hashlib.md5(data).hexdigest()
            return True

    def delete(self, key: str) -> None:
        with self.lock:
            if self.data.pop(key, None) is not None:
                del self.keys[bisect_left(self.keys, key)]

    def page(self, prefix: str, delimiter: str, after: str) -> tuple[list[str], list[str], str]:
        """Keys and common prefixes of a listing, and after what it goes on, "" at its end."""
        keys, folders = list[str](), list[str]()
        with self.lock:
            at = bisect_left(self.keys, max(prefix, after))
            while at < len(self.keys) and (key := self.keys[at]).startswith(prefix):
                if len(keys) + len(folders) == PAGE:
                    return keys, folders, key
                head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                if found:
                    folders.append(prefix + head + delimiter)
                    at = bisect_left(self.keys, prefix + head + chr(ord(delimiter) + 1))
                else:
                    keys.append(key)
                    at += 1
        return keys, folders, ""


OBJECTS = Objects()
DATE = formatdate(usegmt=True)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one packet: its body would wait 40 ms for the acknowledgement of its head
    disable_nagle_algorithm = True

    def handle_expect_100(self) -> bool:
        goes_on = super().handle_expect_100()
        self.wfile.flush()
        return goes_on

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _asked(self) -> tuple[str, dict[str, str]]:
        """The key, "" for the bucket, and the query."""
        OBJECTS.requests += 1
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        return unquote(url.path).lstrip("/").partition("/")[2], query

    def do_GET(self) -> None:
        if self.path == "/counted":
            self._answer(200, str(OBJECTS.requests).encode())
            return
        key, query = self._asked()
        if key:
            self._object(key)
            return
        keys, folders, more = OBJECTS.page(
            query.get("prefix", ""), query.get("delimiter", ""), query.get("continuation-token", "")
        )
        rows = [
            f"<Contents><Key>{escape(one)}</Key><LastModified>2026-11-30T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{OBJECTS.data[one][1]}&quot;</ETag><Size>{len(OBJECTS.data[one][0])}</Size></Contents>"
            for one in keys
        ]
        rows += [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders]
        rows += [f"<NextContinuationToken>{escape(more)}</NextContinuationToken>"] if more else []
        text = (
            f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{''.join(rows)}</ListBucketResult>"
        )
        self._answer(200, text.encode(), Content_Type="application/xml")

    def do_HEAD(self) -> None:
        key, _ = self._asked()
        if key and key not in OBJECTS.data:
            self._answer(404)
            return
        data, tag = OBJECTS.data.get(key, (b"", ""))
        self._answer(200, b"", Content_Length=str(len(data)), ETag=f'"{tag}"', Last_Modified=DATE)

    def _object(self, key: str) -> None:
        if key not in OBJECTS.data:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", Content_Type="application/xml")
            return
        data, tag = OBJECTS.data[key]
        headers = {"ETag": f'"{tag}"', "Last_Modified": DATE}
        asked = self.headers.get("Range", "")
        if not asked.startswith("bytes="):
            self._answer(200, data, **headers)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin = int(first) if first else len(data) - int(last)
        end = min(int(last) + 1, len(data)) if first and last else len(data)
        headers["Content_Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        self._answer(206, data[begin:end], **headers)

    def do_PUT(self) -> None:
        key, _ = self._asked()
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if key and not OBJECTS.put(key, data, self.headers.get("If-None-Match") == "*"):
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>", Content_Type="application/xml")
            return
        self._answer(200, ETag=f'"{hashlib.md5(data).hexdigest()}"')

    def do_DELETE(self) -> None:
        key, _ = self._asked()
        OBJECTS.delete(key)
        self._answer(204)


@contextmanager
def serving() -> Iterator[str]:
    """The URL of an empty bucket, until the end of the block; its address is in the environment of later processes."""
    global _address
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    _address = f"http://127.0.0.1:{int(process.stdout.readline())}"
    os.environ |= {
        "SCALE_S3": _address, "AWS_ENDPOINT_URL": _address, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }  # fmt: skip
    try:
        yield f"s3://{BUCKET}"
    finally:
        process.kill()
        process.wait()
        _address = ""


def counted() -> int | None:
    """Requests so far; None if there is no server."""
    if not _address:
        return None
    with urllib.request.urlopen(f"{_address}/counted") as answer:
        return int(answer.read())


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
