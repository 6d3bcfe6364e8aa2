"""What specialists take of a GPU beside their weights: their own `infer` on a batch, on tensors without data."""

from __future__ import annotations

import logging
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ...pipelines.specialists import shapes
from ...pipelines.specialists.base import ImageItem, Item
from ...pipelines.specialists.pretrained import Pretrained, quiet

if TYPE_CHECKING:
    from ...train.memory import Need

FRAME = (768, 1024)  # pixels of the images that are counted, height and width
_COLORS = 4  # channels of a picture at most
_WORDS = "a photo of two dogs that run over wet grass beside a white house in the evening"  # of each caption


class NotCounted(Exception):
    """What a specialist takes beside its weights cannot be counted, and why."""


def count(one: Pretrained, weights: float, quick: bool = False) -> Need:
    """What a GPU takes while a specialist runs, of the architecture that the folder of its weights states.

    Args:
        weights: bytes of all weights that are on the GPU beside.
        quick: not of a network that is asked many times about an image (SAM), which takes a minute.

    Raises:
        NotCounted: its weights are not on this machine, its network cannot be run without data, or not quickly.
    """
    if not one.is_split:
        raise NotCounted("its call is not in stages (prepare, infer, finish)")
    if one.needs:
        raise NotCounted(f"it reads other labels: {', '.join(one.needs)}")
    if not one.is_local and one.fetched() is None:
        raise NotCounted("its weights are not on this machine")
    if quick and not one.groups:
        raise NotCounted("it takes a minute, `fourmill doctor` does so")
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    log = logging.getLogger("torch._subclasses.fake_tensor")  # logs what it raises
    before = log.disabled
    try:
        log.disabled = True
        return _counted(one, weights)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise NotCounted("its network reads values of its own") from error
    except Exception as error:  # whatever a network of any kind does with what is not there
        first = next(iter(str(error).splitlines()), "")
        raise NotCounted(f"its network does not run without data: {type(error).__name__}: {first}"[:160]) from error
    finally:
        log.disabled = before


def _counted(one: Pretrained, weights: float) -> Need:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from ...train.memory import Need

    few, many = max(1, one.batch_size // 2), max(2, one.batch_size)
    with shapes.without_data(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of networks that are copied without data
        copy = one.model_copy()
        with FakeTensorMode(allow_non_fake_inputs=True):
            copy.setup("cpu")
        peaks = {samples: _peak(copy, items(samples)) for samples in (few, many)}
    sample = max((peaks[many] - peaks[few]) / (many - few), 1.0)
    return Need(weights, max(0.0, peaks[many] - many * sample), sample)


def _peak(one: Pretrained, batch: list[Item]) -> int:
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    from ...train.memory import Live

    class Taken(Live):  # type: ignore[no-untyped-call]
        """With what convolutions take while they run: libraries copy what these read, but for pictures, and
        what they write."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = super().__torch_dispatch__(func, types, args, kwargs)
            if func.overloadpacket.__name__ == "convolution" and math.prod(args[1].shape[2:]) > 1:
                read = args[0].nbytes * (args[0].shape[1] > _COLORS) + args[1].nbytes
                self.peak = max(self.peak, self.bytes + max(read, made.nbytes))
            return made

    prepared = one.prepare(batch)  # on the host, as it is
    given = sum(x.nbytes for x in tree_leaves(prepared) if isinstance(x, Tensor))
    with Taken() as live:
        one.infer(prepared)
    return given + live.peak


def items(count: int) -> list[Item]:
    """Images of FRAME with captions."""
    image = np.random.default_rng(0).integers(0, 256, (*FRAME, 3), dtype=np.uint8)
    return [ImageItem(str(i), image, _WORDS) for i in range(count)]
