"""Jobs of a real cluster with a token, recipe and samples on S3, submitted from another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data
from fourmill_tests.clusters import nodes
from fourmill_tests.processes.asking import SOCKET
from fourmill_tests.s3 import S3

from fourmill.infra import storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5a" * 32}
BUCKET, SECRET = "submitted", "this-is-secret"  # the server takes any key


@dataclass(frozen=True)
class Cluster:
    """url: of the dashboard. address: for nodes. environment: of those who submit."""

    url: str
    address: str
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "fourmill.cli", *arguments, "--address", self.url]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """A verb in a process of its own, which may be forked: exit status, stdout, stderr."""
        forked = {name: value for name, value in os.environ.items() if name == SOCKET}
        done = subprocess.run(self.command(*arguments), env=self.environment | forked, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def jobs(self) -> list[dict[str, str]]:
        """The newest first."""
        return json.loads(self.run("jobs", "list", "--json")[1])


@pytest.fixture(scope="module")
def cluster(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("head")
    # Not the home of the tests: the token comes from the environment alone.
    environment = nodes.environment(HOME=str(home), AWS_SECRET_ACCESS_KEY=SECRET, **TOKEN)
    port = nodes.free_port()
    with nodes.head(home / "log", environment, f"--dashboard-port={port}") as address:
        yield Cluster(f"http://127.0.0.1:{port}", address, environment)


@pytest.fixture(scope="module")
def samples(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    bucket = s3.bucket(BUCKET)
    paths = data.good_shards(tmp_path_factory.mktemp("shards"), 2, 4)
    urls = [storage.join(bucket, "s", Path(path).name) for path in paths]
    for path, url in zip(paths, urls, strict=True):
        storage.put(url, Path(path).read_bytes())
    return urls


def written(folder: Path, root: str, samples: list[str], seconds: float = 0.3) -> str:
    """A recipe of one label by the tests' own specialist, in two files."""
    slow = {"specialist": "fourmill_tests.specialists:Slow", "seconds": seconds}
    chosen = {"modalities": ["tok_canny_edge"], "labels__keep": ["canny_edge"], "generate__chains": []}
    settings = data.settings(root, samples, labels__specialists={"canny_edge": slow}, **chosen)
    (folder / "labels.yaml").write_text(yaml.safe_dump({"labels": settings.pop("labels")}))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"include": "labels.yaml"} | settings))
    return str(folder / "recipe.yaml")


def columns(root: str) -> dict[str, bytes]:
    labels = storage.list_below(storage.join(root, "labels"))
    return {url.partition("/labels/")[2]: storage.read_bytes(url) for url in labels}


@pytest.fixture(scope="module")
def quiet(samples: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The labels of a local run without a cluster."""
    from fourmill import recipe

    folder = tmp_path_factory.mktemp("quiet")
    loaded = recipe.load(written(folder, str(folder / "out"), samples))
    data.make(loaded, data.outputs(loaded, tokens=False))
    return columns(str(folder / "out"))


def _heed_hangups() -> None:
    """A suite that runs under nohup ignores them, and so would its children."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_job_goes_on_when_the_terminal_is_closed(
    cluster: Cluster, samples: list[str], quiet: dict[str, bytes], tmp_path: Path
) -> None:
    root = f"s3://{BUCKET}/out"
    recipe = written(tmp_path, root, samples)
    command = cluster.command("submit", recipe, "--stage", "label")
    process = subprocess.Popen(
        command, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=_heed_hangups,
    )  # fmt: skip
    said = []
    for line in process.stdout or ():
        said.append(line)
        if line.startswith("job "):  # it is followed from here on: the job's own lines may come when it has ended
            process.send_signal(signal.SIGHUP)
    assert process.wait() == 128 + signal.SIGHUP, said
    name = said[0].split()[1].rstrip(":")
    (line,) = (line for line in said if f"the job goes on: `fourmill jobs logs {name}" in line)
    assert f"fourmill jobs stop {name}" in line
    status, out, _ = cluster.run("jobs", "logs", name, "--follow")
    assert status == 0 and "what was done" in out and out.count("Running entrypoint") == 1
    assert columns(root) == quiet
    # The same again finds all there: no job.
    before = len(cluster.jobs())
    status, out, _ = cluster.run("submit", recipe, "--stage", "label")
    assert status == 0 and "no job is submitted" in out and len(cluster.jobs()) == before
    _no_secret_is_shown(cluster, name)


def _no_secret_is_shown(cluster: Cluster, name: str) -> None:
    """Whatever Ray says of the job holds the names of credentials, and none of their values."""
    import requests

    headers = {"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"}
    answer = requests.get(f"{cluster.url}/api/jobs/{name}", headers=headers, timeout=60)
    assert answer.status_code == 200
    assert "AWS_SECRET_ACCESS_KEY" in answer.json()["runtime_env"]["env_vars"]["FOURMILL_CREDENTIALS"]
    for text in (answer.text, cluster.run("jobs", "show", name)[1], cluster.run("jobs", "logs", name)[1]):
        assert text and SECRET not in text and TOKEN["RAY_AUTH_TOKEN"] not in text


def test_a_job_that_fails_gives_its_status(cluster: Cluster, samples: list[str], tmp_path: Path) -> None:
    recipe = written(tmp_path, "s3://there-is-no-such-bucket/out", samples)
    status, out, err = cluster.run("submit", recipe, "--stage", "label")
    assert status == 2 and "root: cannot write below s3://there-is-no-such-bucket/out" in out
    assert "has failed, exit status 2" in err
    assert cluster.jobs()[0]["exit_code"] == 2 and cluster.jobs()[0]["state"] == "failed"


def test_a_detached_job_is_stopped(cluster: Cluster, samples: list[str], tmp_path: Path) -> None:
    recipe = written(tmp_path, f"s3://{BUCKET}/stopped", samples, 60.0)
    status, out, _ = cluster.run("submit", recipe, "--stage", "label", "--detach")
    name = out.split()[1].rstrip(":")
    assert status == 0 and f"fourmill jobs logs {name} --follow" in out
    assert cluster.jobs()[0]["job"] == name and cluster.jobs()[0]["state"] in ("pending", "running")
    _, again, said = cluster.run("submit", recipe, "--stage", "label", "--detach")
    assert f"job {name} (label) is at the same root already\n" in said
    assert cluster.run("jobs", "stop", again.split()[1].rstrip(":"))[0] == 0
    status, out, _ = cluster.run("jobs", "stop", name)
    assert status == 0 and f"job {name} was stopped" in out
    assert cluster.run("jobs", "logs", name, "--follow")[0] == 128 + signal.SIGTERM
    assert cluster.run("jobs", "stop", name)[0] == 0  # again is no error


def test_a_node_without_credentials_is_named(cluster: Cluster, samples: list[str], tmp_path: Path) -> None:
    """Its workers would label, and lose what they have made."""
    root = f"s3://{BUCKET}/unreached"
    without = {k: v for k, v in cluster.environment.items() if not k.startswith("AWS_")} | {
        "AWS_EC2_METADATA_DISABLED": "1"
    }
    with nodes.node(tmp_path / "node.log", without, f"--address={cluster.address}"):
        status, out, _ = cluster.run("submit", written(tmp_path, root, samples), "--stage", "label")
    assert status == 2 and "1 of 2 nodes cannot be used" in out, out
    assert "Not set there, and set where the job was started: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in out
    assert not storage.list_below(root + "/labels")


def test_what_cannot_be_asked_is_a_sentence(cluster: Cluster, tmp_path: Path) -> None:
    def said(address: str, **variables: str) -> str:
        kept = {name: value for name, value in cluster.environment.items() if not name.startswith("RAY_AUTH")}
        command = [sys.executable, "-m", "fourmill.cli", "jobs", "list", "--address", address]
        environment = kept | {"HOME": str(tmp_path)} | variables
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    assert "asks for a token, and this machine has none: set RAY_AUTH_MODE=token" in said(cluster.url)
    assert "refuses the token of this machine" in said(cluster.url, RAY_AUTH_TOKEN="c4" * 32)
    assert "what answers there does not speak HTTP" in said(f"http://{cluster.address}", **TOKEN)
    assert "what answers there is no Jobs API" in said(os.environ["AWS_ENDPOINT_URL"], **TOKEN)
    assert "Connection refused" in said(f"http://127.0.0.1:{nodes.free_port()}", **TOKEN)
    assert "it needs `ray[default]` there" in said(f"http://127.0.0.1:{nodes.free_port()}", **TOKEN)
