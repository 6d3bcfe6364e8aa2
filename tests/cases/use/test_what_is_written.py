"""What is written is readable by those who should read it, and by them alone."""

from __future__ import annotations

import functools
import http.server
import os
import stat
import threading
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data, runs
from fourmill_tests.cases import require
from fourmill_tests.engine import inline

from fourmill.model.published import ml4m

GOLDEN = Path(__file__).parents[2] / "golden"


def test_saved_weights_follow_the_umask(tmp_path: Path) -> None:
    """Whatever mode the library that writes them gives its files."""
    before = os.umask(0o022)
    try:
        ml4m.save(ml4m.load(str(GOLDEN / "fm7_swiglu_nobias")), tmp_path / "x")
    finally:
        os.umask(before)
    mode = stat.S_IMODE((tmp_path / "x/model.safetensors").stat().st_mode)
    require(mode & 0o044 == 0o044, f"mode {mode:o}")


def test_secrets_in_urls_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Presigned URLs are the only way to give credentials for http: they are in no file below root and not printed."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    inline(monkeypatch)
    data.good_shards(tmp_path / "s", 1, 2)
    handler = functools.partial(Quiet, directory=str(tmp_path / "s"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        urls = [f"{here}/train-0000{i}.tar?X-Amz-Signature=S3CR3T" for i in (0, 1)]
        chosen = {"modalities": ["rgb", "caption"], "labels__keep": ["caption"], "generate__chains": []}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(data.settings(tmp_path / "out", urls, **chosen)))
        commands = [["label", str(tmp_path / "r.yaml")], ["status", str(tmp_path / "r.yaml")], ["inspect", urls[0]]]
        said = [runs.command(*command) for command in [*commands, ["inspect", urls[1]], ["view", urls[0]]]]
        out, err = ("".join(one[i] for one in said) for i in (1, 2))
        server.shutdown()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    if not files:
        raise RuntimeError(out + err)
    written = [path.name for path in files if b"S3CR3T" in path.read_bytes()]
    printed = "S3CR3T" in "".join((out + err).split())
    require(not written and not printed, f"written to {written}, printed: {printed}")
