"""A real S3 server (moto) on loopback that notes what is asked of it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fourmill.infra import storage


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

    def bucket(self, name: str) -> str:
        """A new bucket's URL."""
        url = f"s3://{name}"
        fs, _ = storage.filesystem(url)
        fs.call_s3("create_bucket", Bucket=name)  # s3fs.mkdir fails in us-east-1
        return url


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
        if log.refuses:
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            body = b"" if environ["REQUEST_METHOD"] == "HEAD" else body
            start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
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
