"""Manifests against KubeRay's own schema, in which no field may be misspelt; the script for Slurm; the Dockerfile."""

from __future__ import annotations

import copy
import gzip
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fourmill_tests import data, runs

from fourmill import __version__
from fourmill.infra.submission import manifests
from fourmill.infra.submission.manifests import Group, Wanted

ROOT = Path(__file__).parents[3]
SCHEMAS = {"RayJob": "rayjobs", "RayCluster": "rayclusters"}
FREE = ("labels", "requests", "limits", "rayStartParams", "metadata")  # whose names are anybody's, or checked apart


def strict(node: Any) -> Any:
    """A schema in which only fields that it names may be there: the API server drops others without a word."""
    if isinstance(node, dict):
        node = {name: strict(one) for name, one in node.items()}
        if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
            node.setdefault("additionalProperties", False)
        return node
    return [strict(one) for one in node] if isinstance(node, list) else node


def schema(kind: str) -> Any:
    path = Path(__file__).parent / "kuberay" / f"{SCHEMAS[kind]}.v1.json.gz"
    return strict(json.loads(gzip.decompress(path.read_bytes())))


def problems(manifest: dict[str, Any]) -> list[str]:
    found = jsonschema.Draft202012Validator(schema(manifest["kind"])).iter_errors(manifest)
    return [f"{error.json_path}: {error.message[:200]}" for error in found]


def wanted(**changes: Any) -> Wanted:
    groups = [Group("gpu", 1, 4, 24, 240, 2)]
    files = {"recipe.yaml": "root: s3://b/out\nsamples: s3://b/a.tar\n", "own/depth.py": "x = 1\n"}
    values = {
        "name": "fourmill-run-out", "command": ["run", "--update"], "groups": groups, "image": "reg/fourmill:1",
        "ray": "2.60.0", "files": files, "variables": ["AWS_SECRET_ACCESS_KEY"], "queue": "team", "spot": True,
    }  # fmt: skip
    return Wanted(**(values | changes))


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


def test_a_job_is_what_kuberay_takes() -> None:
    config_map, job = documents(manifests.ray_job(wanted()))
    assert problems(job) == [] and job["apiVersion"] == "ray.io/v1"
    spec = job["spec"]
    assert spec["entrypoint"] == "python -m fourmill.cli run --update /job/recipe.yaml"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team" and spec["suspend"] is True
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True and cluster["authOptions"] == {"mode": "token"}
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (1, 1, 4)
    pod = group["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"cpu": "24", "memory": "240Gi", "nvidia.com/gpu": "2"}
    assert {one["key"] for one in pod["tolerations"]} >= {"cloud.google.com/gke-spot", "nvidia.com/gpu"}
    assert "tolerations" not in cluster["headGroupSpec"]["template"]["spec"]  # the head must stay
    # Every node has the recipe and the modules, at their paths.
    (files,) = (volume["configMap"] for volume in pod["volumes"] if volume["name"] == "files")
    assert files["name"] == config_map["metadata"]["name"]
    held = {item["path"]: config_map["data"][item["key"]] for item in files["items"]}
    assert held == wanted().files


def test_a_secret_is_named_and_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    text = manifests.ray_job(wanted())
    assert "hunter2" not in text and '--from-literal=AWS_SECRET_ACCESS_KEY="$AWS_SECRET_ACCESS_KEY"' in text
    source = {"secretKeyRef": {"name": "fourmill", "key": "AWS_SECRET_ACCESS_KEY"}}
    environment = documents(text)[1]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": source} in environment["env"]


def test_a_cluster_that_stays_is_what_kuberay_takes() -> None:
    (cluster,) = documents(manifests.ray_cluster(wanted(groups=[Group("cpu", 3, 3, 8, 32)], spot=False, queue="")))
    assert problems(cluster) == [] and cluster["kind"] == "RayCluster"
    assert cluster["spec"]["enableInTreeAutoscaling"] is False
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert "nvidia.com/gpu" not in group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert "tolerations" not in group["template"]["spec"]


def mappings(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all mappings whose names a schema knows."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    if isinstance(node, dict):
        yield path
    for name, one in items:
        if name not in FREE:
            yield from mappings(one, (*path, name))


def test_a_misspelt_field_is_found_wherever_it_is() -> None:
    _, job = documents(manifests.ray_job(wanted()))
    places = list(mappings(job))
    assert len(places) > 40
    check = jsonschema.Draft202012Validator(schema("RayJob"))
    for place in places:
        wrong = copy.deepcopy(job)
        here = wrong
        for name in place:
            here = here[name]
        here["misspelt"] = "x"
        assert not check.is_valid(wrong), place


@pytest.mark.parametrize(
    ("field", "value"),
    [("submissionMode", 1), ("backoffLimit", "3"), ("rayClusterSpec", []), ("suspend", "yes")],
)
def test_a_value_of_another_kind_is_found(field: str, value: Any) -> None:
    _, job = documents(manifests.ray_job(wanted()))
    job["spec"][field] = value
    assert problems(job)


def test_what_is_too_large_for_a_config_map_is_said() -> None:
    with pytest.raises(ValueError, match=r"have 1,000,012 bytes, a ConfigMap at most 1,000,000; put the modules into"):
        manifests.ray_job(wanted(files={"recipe.yaml": "root: out\n\n\n", "own.py": "#" * 1_000_000}))


def test_the_script_of_slurm_is_a_script(tmp_path: Path) -> None:
    text = manifests.slurm(wanted(), "my recipe.yaml", ["train.steps=5", "samples.train=[a, b]"])
    path = tmp_path / "job.sh"
    path.write_text(text)
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert options["nodes"] == "4" and options["gpus-per-node"] == "2" and options["mem"] == "240G"
    command = text.rstrip().rpartition(" -- \\\n")[2]
    assert shlex.split(command) == [
        "fourmill", "run", "--update", "my recipe.yaml", "--set", "train.steps=5", "--set", "samples.train=[a, b]",
        "--set", "engine.address=auto",
    ]  # fmt: skip
    assert "gpus" not in manifests.slurm(wanted(groups=[Group("cpu", 1, 1, 8, 32)]), "r.yaml", [])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    settings = data.settings(
        "s3://b/Out_1/", "s3://b/{0..9}.tar", train__gpus=1, train__workers=16, train__batch_size=16
    )
    path.write_text(yaml.safe_dump(settings))
    return path


# 16 training workers of one GPU; labels ask for no GPU; a machine that is named.
SIZES = [
    ("run", [], ("8", 2, 2)),
    ("label", [], (None, 1, 1)),
    ("train", ["--for", "h100x4", "--nodes", "2:6", "--spot", "--queue", "q"], ("4", 2, 6)),
]


@pytest.mark.parametrize("kind", ["kuberay", "kuberay-cluster"])
@pytest.mark.parametrize(("stage", "more", "sizes"), SIZES)
def test_the_verb_writes_valid_manifests(
    recipe: Path, tmp_path: Path, kind: str, stage: str, more: list[str], sizes: tuple[str | None, int, int]
) -> None:
    out = str(tmp_path / "made.yaml")
    command = ["submit", str(recipe), "--stage", stage, "--manifest", kind, "--out", out, *more]
    status, _, err = runs.command(*command)
    assert status == 0, err
    made = documents(Path(out).read_text())[-1]
    assert problems(made) == [] and made["metadata"]["name"] == f"fourmill-{stage}-out-1"
    (group,) = (made["spec"]["rayClusterSpec"] if kind == "kuberay" else made["spec"])["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["image"] == f"fourmill:{__version__}"
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")
    assert (gpus, group["minReplicas"], group["maxReplicas"]) == sizes
    status, _, err = runs.command(*command)
    assert status == 2 and "it exists" in err


def test_a_cluster_may_begin_without_nodes(recipe: Path) -> None:
    status, out, _ = runs.command("submit", str(recipe), "--manifest", "kuberay", "--nodes", "0:4")
    made = documents(out)[-1]
    assert status == 0 and problems(made) == []
    (group,) = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (0, 0, 4)
    assert made["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--nodes", "4:2"], "--nodes: got '4:2', expected how many nodes"),
        (["--nodes", "0"], "--nodes: got '0'"),
        (["--for", "h100"], "--for: got 'h100', expected one of"),
        (["--stage", "labels"], "--stage: got 'labels', expected one of run, download, label"),
        (["--with", "/etc/passwd"], "--with /etc/passwd: expected a file or folder below"),
        (["--with", "nowhere"], "--with nowhere: there is no such file"),
    ],
)
def test_a_wrong_option_is_a_sentence(recipe: Path, more: list[str], said: str) -> None:
    status, out, err = runs.command("submit", str(recipe), "--manifest", "kuberay", *more)
    assert status == 2 and not out and said in err and err.count("\n") == 1


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "infra" / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_has_the_whole_package() -> None:
    copied = [words.split()[:-1] for kind, words in instructions() if kind == "COPY" and "--from" not in words]
    names = {name for listed in copied for name in listed}
    assert all((ROOT / name).exists() for name in names)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {package.split(".")[1] for package in packages if "." in package} <= names
    assert {path.name for path in ROOT.glob("*.py")} <= names and "recipes" in names
    assert not names & {"tests", "docs", "benchmarks", ".git", "."}


def test_the_image_is_pinned_and_runs_as_nobody_special() -> None:
    kinds = [kind for kind, _ in instructions()]
    assert kinds.index("USER") > max(i for i, kind in enumerate(kinds) if kind == "RUN")
    assert ("USER", "1000") in instructions() and manifests.USER == 1000
    (python,) = {words for kind, words in instructions() if kind == "ARG"}
    assert re.fullmatch(r"PYTHON=3\.1[123]\.\d+", python)
    assert all("${PYTHON}" in words for kind, words in instructions() if kind == "FROM")
    (installs,) = (words for kind, words in instructions() if kind == "RUN" and "uv==" in words)
    assert re.search(r"uv==\d+\.\d+\.\d+$", installs)
    (sync,) = (words for kind, words in instructions() if "uv sync" in words)
    extras = set(re.findall(r"--extra (\S+)", sync))
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "cluster" in extras and extras <= set(known) and "yolo" not in extras and "--no-default-groups" in sync


@pytest.mark.slow
def test_what_the_image_installs_can_be_resolved(tmp_path: Path) -> None:
    """By the command of the Dockerfile, without installing it; nothing under the AGPL is among it."""
    (sync,) = (words for kind, words in instructions() if "uv sync" in words)
    for kind, words in instructions():
        for name in words.split()[:-1] if kind == "COPY" and "--from" not in words else ():
            (tmp_path / name).symlink_to(ROOT / name)
    command = [*shlex.split(sync.replace("--no-cache", "")), "--dry-run", "--no-install-project"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode and re.search("fetch|network|connect|dns", done.stderr):
        pytest.skip("there is no package index here")
    assert done.returncode == 0, done.stderr
    installed = set(re.findall(r"^ \+ ([\w.-]+)==", done.stderr, re.MULTILINE))
    assert {"ray", "torch", "aiohttp-cors"} <= installed and not installed & {"ultralytics", "opencv-python", "pytest"}
