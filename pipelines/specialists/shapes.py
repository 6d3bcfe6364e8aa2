"""Networks of specialists on tensors that have shapes and no data, so that what labelling takes of a GPU is counted
where there is none.

Within `without_data` a model is made by its configuration, or by the shapes that its file of weights states: no weight
is read. It has the precision of a GPU, and what the host reads of its outputs are 1, 2, 3, ... along the last axis, for
which everything counts: each score is above its threshold, each query is kept, and boxes are boxes, of one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_within: ContextVar[bool] = ContextVar("_within", default=False)


@contextmanager
def without_data() -> Iterator[None]:
    """Models that specialists load within have no data; their `setup` is called under torch's FakeTensorMode."""
    before = _within.set(True)
    try:
        yield
    finally:
        _within.reset(before)


@contextmanager
def _with_data() -> Iterator[None]:
    """Tensors that are made within have data, even inside `without_data`."""
    if not _within.get():
        yield
        return
    from torch._subclasses.fake_tensor import unset_fake_temporarily  # loads what labelling has no use for

    with unset_fake_temporarily():
        yield


def are_without_data() -> bool:
    return _within.get()


def as_on_gpu(device: str) -> bool:
    """Whether to work as on a GPU: on one, or where it is counted what one would take."""
    return device.startswith("cuda") or _within.get()


def read(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What the host reads of tensors of the device: themselves; numbers of those without data."""
    if not _within.get():
        return list(tensors)
    import torch

    with _with_data():
        ones = [torch.ones(one.shape, dtype=torch.int64) for one in tensors]
        counting = [values.cumsum(-1) if values.ndim else values for values in ones]
        return [values.to(one.dtype) for values, one in zip(counting, tensors, strict=True)]


def stored(file: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, torch.Tensor]:
    """Tensors of a file of safetensors by name, on the CPU; without data as its head states them."""
    from safetensors import safe_open

    with _with_data(), safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys() if wanted(name)}
    if not _within.get():
        return tensors
    import torch

    return {name: torch.empty_like(tensor) for name, tensor in tensors.items()}  # of a mapped file nothing is read


def on(model: Any, device: str, dtype: torch.dtype | None = None) -> Any:
    """A model on a device, in a dtype unless None."""
    if not _within.get():
        return model.to(device, dtype)
    import torch

    def made(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x, device=device, dtype=dtype if x.is_floating_point() else None)

    for module in model.modules():  # `to` would swap parameters, which those without data cannot be
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(made(parameter), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, made(buffer))
    return model


def of_configuration(auto: str, config: Any, dtype: torch.dtype, settings: dict[str, Any]) -> Any:
    """A model of transformers, in evaluation mode.

    Args:
        auto: name of one of transformers' classes. settings: what its `from_pretrained` takes besides.
    """
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    kind: Any = getattr(transformers, auto)
    others = {name: value for name, value in settings.items() if name != "config"}
    make = getattr(kind, "from_config", None) or kind._from_config
    # As transformers itself makes a model before it reads weights.
    with _with_data(), torch.device("meta"), no_init_weights():
        model = make(settings.get("config") or config, dtype=dtype, **others)
    return on(model.eval(), "cpu")
