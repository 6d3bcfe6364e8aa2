"""Files that start a cluster for a recipe: KubeRay's RayJob and RayCluster (v1, KubeRay 1.7) and a script for Slurm."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

TEMPLATES = Path(__file__).parent
FOLDER = "/job"  # where the recipe is in a pod
MAX_CONFIG_MAP = 1_000_000  # bytes; Kubernetes takes 1 MiB with all names
USER = 1000  # of the image of infra/Dockerfile
# On spot machines of Google, Azure and of clusters that name the taint as Karpenter does its label.
SPOT = (
    {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
    {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Equal", "value": "spot", "effect": "NoSchedule"},
    {"key": "karpenter.sh/capacity-type", "operator": "Equal", "value": "spot", "effect": "NoSchedule"},
)
GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
HEAD = {"cpu": "4", "memory": "16Gi"}  # it runs the driver, the dashboard and no tasks
SECONDS_KEPT = 3600  # that a finished RayJob and its log stay


@dataclass(frozen=True)
class Group:
    """Nodes of one kind. least, most: how many. cpus, memory (GiB), gpus: of each."""

    name: str
    least: int
    most: int
    cpus: int
    memory: int
    gpus: int = 0


@dataclass(frozen=True)
class Wanted:
    """What a manifest is made of.

    name: of what is made. command: of fourmill, without the recipe's path ("run", "--update").
    groups: of nodes. image, ray: name of the image, version of Ray in it.
    files: of the job, by their paths there: the recipe and modules. variables: names of environment variables that
    nodes get from the secret of this name. queue: of Kueue, "" for none. spot: whether nodes may be taken back.
    """

    name: str
    command: Sequence[str]
    groups: Sequence[Group]
    image: str
    ray: str
    files: Mapping[str, str]
    variables: Sequence[str] = ()
    secret: str = "fourmill"
    queue: str = ""
    spot: bool = False


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are."""


def _as_it_is(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _as_it_is)


def ray_job(wanted: Wanted) -> str:
    """A RayJob with its recipe: a cluster for one stage, which ends with it."""
    spec: dict[str, Any] = {
        "entrypoint": shlex.join(["python", "-m", "fourmill.cli", *wanted.command, f"{FOLDER}/recipe.yaml"]),
        "submissionMode": "K8sJobMode",
        "backoffLimit": 3,  # a new cluster goes on where the last one was lost
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": SECONDS_KEPT,
    }
    if wanted.queue:
        spec["suspend"] = True  # until Kueue admits it
    spec["rayClusterSpec"] = _cluster(wanted, f"{wanted.name}-files")
    return _documents(wanted, _config_map(wanted), _object("RayJob", wanted, spec))


def ray_cluster(wanted: Wanted) -> str:
    """A RayCluster that stays, to which stages are submitted."""
    return _documents(wanted, _object("RayCluster", wanted, _cluster(wanted, "")))


def _documents(wanted: Wanted, *objects: Mapping[str, Any]) -> str:
    lines = []
    if wanted.variables:
        lines = ["# Once, in a shell where they are set:", f"#   kubectl create secret generic {wanted.secret} \\"]
        lines += [f'#     --from-literal={name}="${name}" \\' for name in wanted.variables]
        lines[-1] = lines[-1].removesuffix(" \\")
    dumped = yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=1000)
    return "\n".join([*lines, dumped])


def _object(kind: str, wanted: Wanted, spec: Mapping[str, Any]) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "fourmill"}
    if wanted.queue:
        labels["kueue.x-k8s.io/queue-name"] = wanted.queue
    about = {"name": wanted.name, "labels": labels}
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": about, "spec": dict(spec)}


def _config_map(wanted: Wanted) -> dict[str, Any]:
    """ValueError if the files are too large for one."""
    if (size := sum(len(text.encode()) for text in wanted.files.values())) > MAX_CONFIG_MAP:
        raise ValueError(
            f"--manifest: the recipe and its modules have {size:,} bytes, a ConfigMap at most {MAX_CONFIG_MAP:,}; put "
            "the modules into the image"
        )
    data = {_key(path): text for path, text in wanted.files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{wanted.name}-files"}, "data": data}


def _key(path: str) -> str:
    """Of a ConfigMap, which has no folders."""
    return re.sub(r"[^-._a-zA-Z0-9]", lambda found: "__" if found[0] == "/" else f"-{ord(found[0]):x}-", path)


def _cluster(wanted: Wanted, files: str) -> dict[str, Any]:
    """The spec of a RayCluster.

    Args:
        files: name of the ConfigMap with the files of the job, "" for none.
    """
    scales = any(group.least < group.most for group in wanted.groups)
    return {
        "rayVersion": wanted.ray,
        "enableInTreeAutoscaling": scales,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": _pod(wanted, "ray-head", files, HEAD, []),
        },
        "workerGroupSpecs": [_group(wanted, group, files) for group in wanted.groups],
    }


def _group(wanted: Wanted, group: Group, files: str) -> dict[str, Any]:
    resources = {"cpu": str(group.cpus), "memory": f"{group.memory}Gi"}
    tolerations = [*SPOT] if wanted.spot else []
    if group.gpus:
        resources["nvidia.com/gpu"] = str(group.gpus)
        tolerations.append(GPU_TAINT)
    return {
        "groupName": group.name,
        "replicas": group.least,
        "minReplicas": group.least,
        "maxReplicas": group.most,
        "rayStartParams": {},
        "template": _pod(wanted, "ray-worker", files, resources, tolerations),
    }


def _pod(
    wanted: Wanted, container: str, files: str, resources: Mapping[str, str], tolerations: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    environment: list[dict[str, Any]] = [{"name": "TMPDIR", "value": "/scratch"}]
    volumes: list[dict[str, Any]] = [{"name": "scratch", "emptyDir": {}}]
    mounts: list[dict[str, Any]] = [{"name": "scratch", "mountPath": "/scratch"}]
    if files:
        environment.append({"name": "PYTHONPATH", "value": FOLDER})
        items = [{"key": _key(path), "path": path} for path in wanted.files]
        volumes.append({"name": "files", "configMap": {"name": files, "items": items}})
        mounts.append({"name": "files", "mountPath": FOLDER, "readOnly": True})
    for name in wanted.variables:
        environment.append({"name": name, "valueFrom": {"secretKeyRef": {"name": wanted.secret, "key": name}}})
    spec: dict[str, Any] = {
        "containers": [
            {
                "name": container,
                "image": wanted.image,
                "env": environment,
                "resources": {"requests": dict(resources), "limits": dict(resources)},
                "volumeMounts": mounts,
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER},
        "volumes": volumes,
    }
    if tolerations:
        spec["tolerations"] = [dict(one) for one in tolerations]
    return {"spec": spec}


def slurm(wanted: Wanted, recipe: str, overrides: Sequence[str]) -> str:
    """A script for sbatch: Ray on every node of one allocation by `ray symmetric-run`, the stage on the first.

    Args:
        recipe, overrides: as on the command line, since nodes share the folder from which it is submitted.
    """
    group = wanted.groups[0]
    sets = [part for one in overrides for part in ("--set", one)]
    values = {
        "name": wanted.name, "nodes": group.most, "cpus": group.cpus, "memory": group.memory, "gpus": group.gpus,
        "variables": ", ".join(wanted.variables) or "none that are set here",
        "command": shlex.join(["fourmill", *wanted.command, recipe, *sets, "--set", "engine.address=auto"]),
    }  # fmt: skip
    text = (TEMPLATES / "slurm.sh").read_text(encoding="utf-8")
    made = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return made.from_string(text).render(values)
