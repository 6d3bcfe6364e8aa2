"""Sizes follow the data and the machine, fit in its memory, and always make a recipe that can be trained."""

from __future__ import annotations

import pytest

from fourmill.verbs import machines, sizes
from fourmill.verbs.machines import GIB, Machine

LAPTOP = Machine("laptop", 2, 24.0)
NAMES = ["cpux2", "cpux64", "t4x1", "l4x2", "a100x4", "h200x8", "h200x6"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", [0, 1, 120, 10_000, 1_000_000, 400_000_000])
def test_batches_divide_among_workers_and_fit_in_memory(name: str, samples: int) -> None:
    machine = machines.named(name)
    chosen = sizes.choose(samples, machine)
    micro_batch, rest = divmod(chosen.batch_size, chosen.train_workers * chosen.accumulate)
    assert not rest and micro_batch >= 1 and chosen.steps > 1
    assert micro_batch * chosen.model.sample_bytes < machine.worker_memory * GIB
    fitted_at_once = chosen.fit_batch // chosen.fit_accumulate * (1 if chosen.gpus else chosen.fit_workers)
    assert fitted_at_once * chosen.tokenizer.sample_bytes < machine.worker_memory * GIB
    assert chosen.fit_batch % chosen.fit_accumulate == 0


def test_a_hundred_photos_take_minutes_on_two_cores() -> None:
    chosen = sizes.choose(120, LAPTOP)
    flops = chosen.steps * chosen.batch_size * chosen.model.sample_flops
    flops += 2 * chosen.fit_steps * chosen.fit_batch * chosen.tokenizer.sample_flops
    assert flops / LAPTOP.flops < 5 * 60


def test_more_data_and_more_machine_give_larger_models() -> None:
    small, large = (sizes.choose(n, machines.named("h200x8")) for n in (1_000, 5_000_000))
    slow = sizes.choose(5_000_000, LAPTOP)
    assert small.model.dim < large.model.dim and small.tokenizer.dim < large.tokenizer.dim
    assert slow.model.dim < large.model.dim


def test_training_ends_within_a_day() -> None:
    for name in NAMES:
        machine = machines.named(name)
        chosen = sizes.choose(400_000_000, machine)
        seconds = chosen.steps * chosen.batch_size * chosen.model.sample_flops / machine.flops
        assert seconds <= 1.01 * sizes.TRAIN_SECONDS


def test_machines_by_name() -> None:
    machine = machines.named("h200x8")
    assert (machine.gpus, machine.gpu) == (8, machines.GPUS["h200"])
    assert machines.named("cpux16").cores == 16 and machines.named("rtx4090x2").gpus == 2
    assert machines.named("a100-40x8").gpu == machines.GPUS["a100-40"]
    for wrong in ("h200", "x8", "h200x0", "tpux4", "8xh200"):
        with pytest.raises(ValueError, match=r"--for: got .*, expected one of"):
            machines.named(wrong)


def test_this_machine_has_cores_and_memory() -> None:
    machine = machines.here()
    assert machine.cores >= 1 and machine.memory > 0.5 and (machine.gpu is None) == (machine.gpus == 0)
