"""Settings of the engine: the section `engine` of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...infra.fields import Positive, Section


class Engine(Section):
    """How work is spread. Of all this only `cpus`, `batch_size` and `window` may change a result, in the last digits of
    sums."""

    address: str | None = None  # of a running Ray cluster ("auto"); a local one is started otherwise
    actors: Positive | None = None  # as many as the cluster's CPUs (or GPUs) allow unless given
    cpus: Annotated[float, Field(gt=0)] | None = None  # for each actor; what its specialists declare unless given
    gpus: Annotated[float, Field(ge=0)] | None = None
    decode_threads: Positive = 2
    batch_size: Positive = 32
    window: Positive | None = None  # batches in which specialists put equal sizes together; 4 on a GPU, 1 on a CPU
    attempts: Positive = 3  # a shard whose actor dies this often is given up
    chunk_seconds: Annotated[float, Field(ge=0)] = 120.0  # of work on a shard, after which what is made of it is kept
    patience: Annotated[float, Field(ge=0)] = 120.0  # seconds that a root which cannot be written is waited for
    # A folder, any URL, that keeps weights of the hub for all nodes; "root" is ROOT/weights, of a root in a bucket or a
    # recipe with an address. null: each node asks the hub.
    weights: str | None = "root"
    max_reject_run: Positive = 1_000  # so many rejects of one output in a row stop the job
