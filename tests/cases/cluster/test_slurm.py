"""The script for Slurm on two nodes: namespaces of processes and networks, with a cable between them.

`srun` and `scontrol` are stood in for; the script, `ray symmetric-run` and both Rays are real. In a namespace of
processes `ray stop`, with which it ends, sees no other Ray of this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data, runs
from fourmill_tests.clusters import nodes

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(900)]
HEAD, OTHER = "10.77.213.1", "10.77.213.2"
SCONTROL = "#!/bin/bash\nseq --format=node%.0f 0 20000\n"  # more than a pipe holds: who stops reading ends it
# A node has its own /tmp/ray, as a machine would.
SRUN = """#!/bin/bash
for word in "$@"; do [[ "$word" == --nodelist=node0 ]] && { echo HEAD; exit; }; done
while [[ "$1" == --* ]]; do shift; done
on() {
  ip netns exec "NAMES$1" unshare --pid --fork --mount-proc --kill-child \\
    bash -c 'mount --bind "$0" /tmp/ray && exec "$@"' "FOLDER/ray$1" "${@:2}"
}
on 1 "$@" > FOLDER/other.log 2>&1 &
on 0 "$@"
status=$?
wait $! || exit
exit $status
"""


@pytest.fixture
def allocation(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a job with two nodes."""
    names, folder = f"fourmill{os.getpid()}-", tmp_path
    ends = [f"fm{os.getpid()}a"[-15:], f"fm{os.getpid()}b"[-15:]]
    steps = [f"ip netns add {names}{i}" for i in (0, 1)]
    steps.append(f"ip link add {ends[0]} netns {names}0 type veth peer name {ends[1]} netns {names}1")
    for i, address in enumerate((HEAD, OTHER)):
        steps += [f"ip -n {names}{i} addr add {address}/24 dev {ends[i]}", f"ip -n {names}{i} link set {ends[i]} up"]
        steps.append(f"ip -n {names}{i} link set lo up")
    try:
        if not shutil.which("ip") or not shutil.which("unshare") or os.geteuid():
            pytest.skip("namespaces need root, ip and unshare")
        for step in steps:
            if subprocess.run(step.split(), capture_output=True).returncode:
                pytest.skip(f"no namespaces here: {step}")
        Path("/tmp/ray").mkdir(exist_ok=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / "bin").mkdir(exist_ok=True)
            written = text.replace("HEAD", HEAD).replace("NAMES", names).replace("FOLDER", str(folder))
            (folder / "bin" / name).write_text(written)
            (folder / "bin" / name).chmod(0o755)
        for name in ("ray0", "ray1", "home"):
            (folder / name).mkdir()
        yield nodes.environment(
            HOME=str(folder / "home"), PATH=os.pathsep.join([str(folder / "bin"), nodes.BIN, os.environ["PATH"]]),
            SLURM_JOB_ID="77", SLURM_JOB_NUM_NODES="2", SLURM_JOB_NODELIST="node[0-1]", SLURM_CPUS_PER_TASK="1",
        )  # fmt: skip
    finally:
        for i in (0, 1):
            subprocess.run(["ip", "netns", "del", f"{names}{i}"], capture_output=True)


def test_a_stage_runs_on_both_nodes(allocation: dict[str, str], tmp_path: Path) -> None:
    data.good_shards(tmp_path / "s", 4, 2)
    slow = {"specialist": "fourmill_tests.specialists:Slow", "seconds": 2.0}
    settings = data.settings(
        tmp_path / "out", "s/train-*.tar", modalities=["tok_canny_edge"], labels__keep=["canny_edge"],
        generate__chains=[], labels__specialists={"canny_edge": slow},
    )  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    script = str(tmp_path / "job.sh")
    asked = ["--stage", "label", "--manifest", "slurm", "--nodes", "2", "--for", "cpux1", "--out", script]
    status, _, err = runs.command("submit", str(recipe), "--set", f"samples.train={tmp_path}/s/train-*.tar", *asked)
    assert status == 0, err
    done = subprocess.run(["bash", script], env=allocation, cwd=tmp_path, capture_output=True, text=True)
    if nodes.SLOW_START in done.stdout + done.stderr:
        pytest.skip("Ray does not start on cores as busy as these")
    assert done.returncode == 0 and "what was done" in done.stdout, done.stdout + done.stderr
    assert len(list((tmp_path / "out/labels/canny_edge").glob("*.parquet"))) == 4
    # Workers of a job, whose number is in the names of their logs, were started on the second node as well.
    assert list((tmp_path / "ray1").glob("session_*/logs/worker-*-0[0-9]000000-*.out"))
