"""Ray's TorchTrainer without the processes, and the imports of torch, that fourmill has no use for (Ray 2.60).

- Its controller, an actor that waits for the workers, imports torch for the type of its settings, and so does the
  command. Here the workers alone do, and they meet by Ray's own functions.
- An actor shares out Ray Datasets, of which there are none.
- An actor watches the controller, to give back the workers' places if that is killed. The command then ends, and Ray
  gives back all that a command has when it ends, however it does.

Each of these takes a core 2 s of every fit and training. The controller imports this module: nothing in it is slow.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

NEEDLESS = {"DatasetsCallback", "PlacementGroupCleanerCallback"}  # of Ray Train's own
LEAVE_SECONDS = 30.0  # for workers to leave their group


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """Runs a function without arguments on workers that are in one process group."""

    def __init__(self, work: Any, **options: Any) -> None:
        super().__init__(work, backend_config=Group(), **options)

    def _create_default_callbacks(self) -> list[Any]:
        return [one for one in super()._create_default_callbacks() if type(one).__name__ not in NEEDLESS]


class Group(BackendConfig):  # type: ignore[misc]
    """All workers are in one process group: NCCL if they have GPUs, else gloo."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Meeting

    @property
    def train_func_context(self) -> Any:
        return _current_gpu


class _Meeting(Backend):  # type: ignore[misc]
    """What the controller has the workers do at their start and end, as TorchConfig's own."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU") else "gloo"
        worker_group.execute(_join, backend, *worker_group.execute_single(0, get_address_and_port))

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        left = worker_group.execute_async(_leave, len(worker_group) > 1)
        ray.wait(left, num_returns=len(left), timeout=LEAVE_SECONDS)


def _join(backend: str, host: str, port: int) -> None:
    import os

    from ray.train import get_context
    from ray.train.torch import config

    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
    config._set_torch_distributed_env_vars()
    context = get_context()
    config._setup_torch_process_group(backend, context.get_world_rank(), context.get_world_size(), "env://")


def _leave(together: bool) -> None:
    from ray.train.torch import config

    config._shutdown_torch(destroy_process_group=together)


def _current_gpu() -> Any:
    from ray.train.torch.config import TorchConfigContextManager

    return TorchConfigContextManager()
