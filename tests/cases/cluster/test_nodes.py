"""A cluster that `ray start` made: it is found, and the loss of a node ends no stage."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data
from fourmill_tests.cases import require
from fourmill_tests.clusters import nodes

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(900)]
TOKEN = {"RAY_AUTH_MODE": "token"}
QUICK_TO_MISS = {
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}  # fmt: skip


@dataclass(frozen=True)
class Head:
    """A head node of one CPU. On Ray 2.60 it asks for a token as soon as ~/.ray/auth_token exists, which fourmill's own
    local Ray writes, and drivers do not send it (ray#64755)."""

    address: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("home")
    environment = nodes.environment(HOME=str(home), **QUICK_TO_MISS)
    token = "from ray._private.authentication import authentication_token_setup as t; t.generate_and_save_token()"
    subprocess.run([sys.executable, "-c", token], env=environment, check=True)
    with nodes.head(home / "log", environment, "--include-dashboard=false") as address:
        yield Head(address, environment)


def test_a_started_cluster_is_found(head: Head) -> None:
    """docs: `ray start --head`, then engine.address=auto."""
    connect = (
        f"from fourmill.infra.cluster import cluster\nwith cluster({head.address!r}) as ray: print(len(ray.nodes()))"
    )
    done = subprocess.run([sys.executable, "-c", connect], env=head.environment, capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr or "ImportError" in done.stderr:
        raise RuntimeError(done.stderr)
    require(done.returncode == 0, f"a cluster that `ray start` made: {done.stderr.strip()[-300:]}")


def test_a_lost_node_ends_no_stage(head: Head, tmp_path: Path) -> None:
    """Two nodes of one CPU; one is preempted and not replaced. The actor that takes the dead one's place can never be
    placed, yet shards are given to it."""
    slow = {"specialist": "fourmill_tests.specialists:Slow", "seconds": 0.25}
    settings = data.settings(
        tmp_path / "out", data.good_shards(tmp_path / "s", 6, 4), modalities=["tok_canny_edge"],
        labels__keep=["canny_edge"], generate__chains=[], engine__address=head.address,
        labels__specialists={"canny_edge": slow},
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    ledger = tmp_path / "out/ledger/labels/canny_edge"
    with nodes.node(tmp_path / "node.log", head.environment | TOKEN, f"--address={head.address}") as other:
        command = [sys.executable, "-m", "fourmill.cli", "label", str(tmp_path / "recipe.yaml")]
        with (tmp_path / "label.log").open("wb") as log:
            stage = subprocess.Popen(command, env=head.environment, stdout=log, stderr=log)
        try:
            while len(list(ledger.glob("train-*.json"))) < 2:
                if stage.poll() is not None:
                    raise RuntimeError((tmp_path / "label.log").read_text())
                time.sleep(0.1)
            nodes.kill(other)
            ended = _wait_while_it_moves(stage, ledger)
        finally:
            if stage.poll() is None:
                stage.send_signal(signal.SIGKILL)
            stage.wait()
    done = len(list(ledger.glob("train-*.json")))
    require(ended, f"{done} of 6 shards are done, and the stage waits for an actor that cannot be placed")


def _wait_while_it_moves(stage: subprocess.Popen[bytes], ledger: Path, patience: float = 45.0) -> bool:
    """Whether a stage ends; False as soon as it has committed nothing for so many seconds."""
    before, last = -1, time.monotonic()
    while stage.poll() is None:
        now = len(list(ledger.glob("train-*.json")))
        if now != before:
            before, last = now, time.monotonic()
        if time.monotonic() - last > patience:
            return False
        time.sleep(0.2)
    return True
