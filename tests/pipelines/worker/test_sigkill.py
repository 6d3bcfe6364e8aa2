"""kill -9 of the process that makes a shard, at moments that it does not choose, in a bucket; then again, until it is
done: the same bytes, and what was in chunks is not made again."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data
from fourmill_tests.s3 import S3

from fourmill import recipe as recipes
from fourmill.infra import storage
from fourmill.pipelines import chunk_files
from fourmill.report.check import check

SAMPLES, KILLS = 120, 2
WORK = "import sys; from fourmill import recipe; from fourmill_tests import data; r = recipe.load(sys.argv[1]); " + (
    "data.make(r, data.outputs(r))"
)


def rows_in_chunks(root: str) -> int:
    return chunk_files.rows_of(chunk_files.of_shard(root, "train-00000"))


def goes_on(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait while a process works, which has more to do."""
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_at_random_moments_cost_little(s3: S3, tmp_path: Path) -> None:
    root = storage.join(s3.bucket("sigkill"), "out")
    log, moment = tmp_path / "log", random.Random(7)
    options = {"modalities": ["rgb"], "labels__keep": ["canny_edge", "caption"], "generate__chains": []}
    counting = {"specialist": "fourmill_tests.specialists:CountingSlowly", "log": str(log), "seconds": 0.05}
    asked = data.settings(
        root, data.good_shards(tmp_path / "s", 1, SAMPLES), labels__specialists={"canny_edge": counting},
        engine__chunk_seconds=0.2, **options,
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(asked))
    kept = 0
    for _ in range(KILLS):
        process = subprocess.Popen([sys.executable, "-c", WORK, str(tmp_path / "recipe.yaml")])
        while rows_in_chunks(root) == kept:
            goes_on(process, 0.05)
        goes_on(process, moment.uniform(0.0, 0.7))
        process.kill()
        process.wait()
        kept = rows_in_chunks(root)
    assert 8 <= kept < SAMPLES
    seen = Counter(log.read_text().split())
    assert 4 <= kept < SAMPLES, "it was quicker, or slower, than it should be"
    subprocess.run([sys.executable, "-c", WORK, str(tmp_path / "recipe.yaml")], check=True)
    again = Counter(log.read_text().split()) - seen
    assert sum(again.values()) == SAMPLES - kept and max(again.values()) == 1
    assert max(seen.values()) <= 1 + KILLS

    plain = recipes.parse(asked | {"root": str(tmp_path / "out")})
    data.make(plain, data.outputs(plain))
    for name, content in data.columns(plain.root).items():
        assert storage.read_bytes(storage.join(root, name)) == content, name
    checked = check.check(root)
    assert not checked.broken and not checked.findings, checked.findings
