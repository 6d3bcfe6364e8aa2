"""Clusters that do not start, or do not answer: a sentence, soon, and an exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fourmill_tests import data, runs
from fourmill_tests.cases import require

SLOW_START = (
    "The current node timed out during startup. This could happen because some of the raylet failed to startup or the "
    "GCS has become overloaded."
)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """One shard of one sample, of which the caption is kept."""
    chosen = {"modalities": ["rgb", "caption"], "labels__keep": ["caption"], "generate__chains": []}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data.settings(tmp_path / "out", data.good_shards(tmp_path / "s", 1, 1), **chosen)))
    return path


@pytest.mark.parametrize("verb", ["label", "run"])
def test_a_ray_that_starts_slowly_is_a_sentence(recipe: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine: Ray gives its head 30 s, and then raises a bare Exception (here it does so at once)."""
    import ray

    def slow(*_: Any, **__: Any) -> None:
        raise Exception(SLOW_START)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", slow)
    said = ""
    try:
        status = runs.command(verb, str(recipe))[0]
    except Exception as error:
        if SLOW_START not in str(error):
            raise
        status, said = -1, f"{type(error).__name__} leaves fourmill {verb} as a traceback"
    require(status in (1, 2), said)


@pytest.mark.slow
def test_plan_says_that_a_cluster_does_not_answer(recipe: Path) -> None:
    """`engine.address` of a machine that cannot be resolved: `plan` waits for some 15 minutes."""
    command = [sys.executable, "-m", "fourmill.cli", "plan", str(recipe), "--set", "engine.address=nohost.invalid:6379"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        require(False, "nothing is said within 30 s")
        return
    require(done.returncode == 2 and "engine.address" in done.stderr, f"{done.returncode}: {done.stderr[-300:]}")


@pytest.mark.parametrize("asked", [None, "1"])
def test_workers_start_without_uv_where_ray_was_imported(asked: str | None) -> None:
    """Ray reads the setting when it is imported: a program that did so first had workers that `uv run` starts again, in
    a copy of the working folder without its packages, where none ever comes up."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_UV_RUN_RUNTIME_ENV"}
    script = (
        "import ray\n"
        "from fourmill.infra.cluster import cluster\n"
        "ray.is_initialized = lambda: True\n"  # no cluster is needed to see what it would be started with
        "with cluster():\n"
        "    from ray._private import ray_constants\n"
        "    print(ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)\n"
    )
    asks = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": asked} if asked else {}
    done = subprocess.run([sys.executable, "-c", script], env=environment | asks, capture_output=True, text=True)
    assert done.stdout.split() == [str(asked == "1")], done.stderr


def test_a_start_that_failed_leaves_no_daemons() -> None:
    """The next attempt would share the cores with them: on a busy machine it then fails as well."""
    script = (
        "import os\n"
        "from pathlib import Path\n"
        "from fourmill.infra import cluster\n"
        "from ray._private.node import Node\n"
        "def children():\n"
        "    stats = (path.read_text().rpartition(')')[2].split() for path in Path('/proc').glob('[0-9]*/stat'))\n"
        "    return sum(int(stat[1]) == os.getpid() and stat[0] != 'Z' for stat in stats)\n"
        "def slow(self):\n"
        "    print('daemons:', children() > 0)\n"
        f"    raise Exception({SLOW_START!r})\n"
        "Node.start_ray_processes = slow\n"  # after those of the head
        "cluster.STARTS = 1\n"
        "try:\n"
        "    with cluster.cluster():\n"
        "        pass\n"
        "except cluster.ClusterError:\n"
        "    print('left:', children())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["daemons: True", "left: 0"], done.stdout + done.stderr
