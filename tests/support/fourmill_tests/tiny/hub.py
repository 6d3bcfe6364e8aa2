"""A server on loopback that speaks as much of the Hugging Face hub's API as looking at models takes: information on a
repository with its files, and headers of files; gated, missing, slow and failing ones as well."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Model:
    """files: name -> bytes. licence: "" states none. trouble: a status of every answer, "late", or "". commit: what a
    revision stands for that is none itself."""

    files: dict[str, int]
    licence: str = "apache-2.0"
    licence_name: str = ""
    gated: bool = False
    private: bool = False
    revisions: tuple[str, ...] = ("main",)
    sizes: bool = True  # its list of files says how large they are
    trouble: str = ""
    commit: str = COMMIT
    hides: bool = False  # a gated one shows not even its list of files
    message: str = ""  # that it refuses with
    sums: dict[str, str] = field(default_factory=dict)  # SHA-256 of files, by name


@dataclass
class Hub:
    """models: by id; of spaces "spaces/org/name". tokens: that are known; "" stands for none. readers: those that gated
    and private models are shown to."""

    models: dict[str, Model] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {"", "hf_good", "hf_reader"})
    readers: set[str] = field(default_factory=lambda: {"hf_reader"})
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    knows_blobs: bool = True  # the parameter that asks for sizes
    ended: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, path: str, token: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) as the hub's, where this says something of models."""
        self.requests.append((method, path))
        path, _, query = unquote(path).partition("?")
        if query and not self.knows_blobs:
            return 404, {}, b""
        info = re.fullmatch(r"/api/(?:models/|(?=spaces/))((?:spaces/)?[^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/((?:spaces/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = info or file
        if path == "/api/whoami-v2":
            return (200 if token in self.tokens else 401), {}, b"{}"
        model = self.models.get(match[1]) if match else None
        if model and model.hides and token not in self.readers:
            return (403 if token in self.tokens and token else 401), {"X-Error-Message": model.message}, b""
        if token not in self.tokens:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        if match is None or model is None:
            return (404 if token else 401), {"X-Error-Code": "RepoNotFound"}, b""
        if model.trouble == "late":
            self.ended.wait(60)
        if model.trouble.isdecimal():
            return int(model.trouble), {}, b"busy"
        if model.private and token not in self.readers:
            return (404 if token else 401), {"X-Error-Code": "RepoNotFound"}, b""
        if (match[2] or "main") not in (*model.revisions, model.commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if info:
            return (
                200,
                {"Content-Type": "application/json"},
                json.dumps(self._info(match[1], model, match[2] or "")).encode(),
            )
        return self._head(model, match[3], token)

    def _info(self, name: str, model: Model, revision: str) -> dict[str, Any]:
        card = {"license": model.licence} if model.licence else {}
        card |= {"license_name": model.licence_name} if model.licence_name else {}
        files: list[dict[str, Any]] = [
            {"rfilename": n}
            | ({"size": size} if model.sizes else {})
            | ({"lfs": {"sha256": model.sums[n], "size": size}} if n in model.sums else {})
            for n, size in model.files.items()
        ]
        return {
            "id": name,
            "sha": revision if re.fullmatch("[0-9a-f]{40}", revision) else model.commit,
            "gated": model.gated,
            "cardData": card,
            "siblings": files,
            "tags": [],
        }

    def _head(self, model: Model, file: str, token: str) -> tuple[int, dict[str, str], bytes]:
        if model.gated and token not in self.readers:
            return (403 if token else 401), {"X-Error-Code": "GatedRepo"}, b""
        if file not in model.files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        size = str(model.files[file])
        return 302, {"Location": "http://127.0.0.1:9/storage", "X-Linked-Size": size, "X-Repo-Commit": COMMIT}, b""


@contextmanager
def alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """`serve` as the only hub: without a token of this machine, and with an empty cache."""
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        yield server


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def _answer(self) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, headers, body = hub.answer(self.command, self.path, token)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(BrokenPipeError):  # nobody waits for a late answer
                    self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
