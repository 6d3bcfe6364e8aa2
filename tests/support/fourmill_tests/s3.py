"""A real S3 server (moto) on loopback that notes what is asked of it."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fourmill.infra import storage

CODES = {"409": "OperationAborted", "429": "TooManyRequests", "500": "InternalError", "503": "SlowDown"}
LATE_SECONDS = 1.0


@dataclass(frozen=True)
class Request:
    """One request: the path is /bucket/key; `query` tells multipart uploads; `copies` whether it copies an object."""

    method: str
    path: str
    query: str
    if_none_match: str
    copies: bool


@dataclass
class S3:
    requests: list[Request] = field(default_factory=list)
    refuses: bool = False  # every access, with 403
    refuses_writes: bool = False  # those that change something
    conditions: str = ""  # what becomes of If-None-Match: "501" is refused, "ignored" is not looked at
    troubles: deque[str] = field(default_factory=deque)  # of the next requests: a status, "drop", "lost", "cut", "late"
    keeps_headers: bool = False
    headers: list[dict[str, str]] = field(default_factory=list)  # of requests, while they are kept

    def bucket(self, name: str) -> str:
        """A new bucket's URL."""
        url = f"s3://{name}"
        fs, _ = storage.filesystem(url)
        fs.call_s3("create_bucket", Bucket=name)  # s3fs.mkdir fails in us-east-1
        return url


def _refusal(status: str, code: str, environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = f"<Error><Code>{code}</Code><Message>{status}</Message></Error>".encode()
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else body
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def _troubled(kind: str, app: Any, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """An answer with this trouble."""
    if kind.isdecimal():
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        yield from _refusal(f"{kind} Trouble", CODES[kind], environ, start_response)
        return
    if kind == "late":
        threading.Event().wait(LATE_SECONDS)
    body = b"" if kind == "drop" else b"".join(app(environ, start_response))
    if kind == "cut":
        yield body[: len(body) // 2]
    if kind in ("drop", "lost", "cut"):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError
    yield body


@contextmanager
def serve() -> Iterator[S3]:
    """Serve until the end of the block, with address and credentials in the environment, also of child processes."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    log = S3()
    moto = DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        log.requests.append(
            Request(
                environ["REQUEST_METHOD"],
                environ["PATH_INFO"],
                environ["QUERY_STRING"],
                environ.get("HTTP_IF_NONE_MATCH", ""),
                "HTTP_X_AMZ_COPY_SOURCE" in environ,
            )
        )
        if log.keeps_headers:
            log.headers.append({k[5:].lower().replace("_", "-"): v for k, v in environ.items() if k[:5] == "HTTP_"})
        if "HTTP_IF_NONE_MATCH" in environ and environ["REQUEST_METHOD"] == "PUT":
            if log.conditions == "501":
                return _refusal("501 Not Implemented", "NotImplemented", environ, start_response)
            if log.conditions == "ignored":
                del environ["HTTP_IF_NONE_MATCH"]
        if log.troubles:
            return _troubled(log.troubles.popleft(), moto, environ, start_response)
        if log.refuses or (log.refuses_writes and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")):
            return _refusal("403 Forbidden", "AccessDenied", environ, start_response)
        return moto(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in address}
    os.environ.update(address)
    try:
        yield log
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        server.shutdown()
        thread.join()
