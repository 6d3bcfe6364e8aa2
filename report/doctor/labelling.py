"""What specialists take of a GPU beside their weights: their own `infer` on a batch, on tensors without data."""

from __future__ import annotations

import logging
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ...pipelines.engine.settings import Engine
from ...pipelines.specialists import shapes
from ...pipelines.specialists.base import ImageItem, Item
from ...pipelines.specialists.pretrained import Pretrained, quiet

if TYPE_CHECKING:
    from ...train.memory import Need

FRAME = (768, 1024)  # pixels of the images that are counted, height and width
_COLORS = 4  # channels of a picture at most
_WORDS = "a photo of two dogs that run over wet grass beside a white house in the evening " * 6  # a caption that is cut


def at_a_time(one: Pretrained, engine: Engine) -> int:
    """Items that an actor gives a specialist at a time on a GPU."""
    from ...pipelines.worker.lanes import TEXTS, reads_text_alone
    from ...pipelines.worker.shard_worker import WINDOW_ON_GPU

    window = engine.window or WINDOW_ON_GPU
    if reads_text_alone(one):
        return TEXTS
    return engine.batch_size * window if one.groups and window > 1 else one.batch_size


class NotCounted(Exception):
    """What a specialist takes beside its weights cannot be counted, and why."""


def count(one: Pretrained, weights: float, quick: bool = False) -> Need:
    """What a GPU takes while a specialist runs, of the architecture that the folder of its weights states; samples are
    the items that it is given at a time, which go through its network `batch_size` at a time.

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

    count = 2 * one.batch_size if one.groups else one.batch_size  # in the second pass something of the first is there
    with shapes.without_data(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of networks that are copied without data
        copy = one.model_copy()
        with FakeTensorMode(allow_non_fake_inputs=True):
            copy.setup("cpu")
        given, peak, kept = _taken(copy, items(count))
    # While one pass after the other goes on, inputs of all images and what comes of them are there; and inputs of as
    # many, which are prepared beside.
    return Need(weights, float(peak - kept), (2 * given + kept) / count)


def _taken(one: Pretrained, some: list[Item]) -> tuple[int, int, int]:
    """Bytes of the inputs of some items, the most at once beside these, and of that what is kept for the host."""
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

    prepared = one.prepare(some)  # on the host, as it is
    given = sum(x.nbytes for x in tree_leaves(prepared) if isinstance(x, Tensor))
    with Taken() as live:
        kept = one.infer(prepared)
    bytes_kept = live.bytes
    del kept
    return given, live.peak, bytes_kept


def items(count: int) -> list[Item]:
    """Images of FRAME with captions."""
    image = np.random.default_rng(0).integers(0, 256, (*FRAME, 3), dtype=np.uint8)
    return [ImageItem(str(i), image, _WORDS) for i in range(count)]
