"""fourmill: image-text shards to aligned multimodal tokens, and 4M trained on them.

The names in `__all__` are the public API: docs/api.md shows each in use, and tests/laws/test_api.py holds their
signatures. Everything else may change. Each name is imported when it is first used, so that `import fourmill` takes
milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .modalities import Form, Kind, Label, Modality, Storage, declare
    from .model.downstream.retrieval import nearest, retrieve
    from .model.generation.generate import Step, generate
    from .pipelines.reject import Reject
    from .pipelines.specialists.base import ImageItem, Item, Specialist
    from .recipe import load as load_recipe
    from .runs.run import open_run
    from .tokenize.codec import Labelled
    from .tokenize.codecs import Grid
    from .tokenize.ml4m import load as load_tokenizer
    from .tokenize.open_store import open_store
    from .tokenize.text.wordpiece import WordPiece
    from .tokenize.text_codecs import Text
    from .train.pretrain.load import load_model

__all__ = [
    "Form",
    "Grid",
    "ImageItem",
    "Item",
    "Kind",
    "Label",
    "Labelled",
    "Modality",
    "Reject",
    "Specialist",
    "Step",
    "Storage",
    "Text",
    "WordPiece",
    "declare",
    "generate",
    "load_model",
    "load_recipe",
    "load_tokenizer",
    "nearest",
    "open_run",
    "open_store",
    "retrieve",
]

# Public name -> the module that defines it, and its name there if that is another.
_PLACES = {
    **dict.fromkeys(("Form", "Kind", "Label", "Modality", "Storage", "declare"), ".modalities"),
    "Grid": ".tokenize.codecs",
    "ImageItem": ".pipelines.specialists.base",
    "Item": ".pipelines.specialists.base",
    "Labelled": ".tokenize.codec",
    "Reject": ".pipelines.reject",
    "Specialist": ".pipelines.specialists.base",
    "Step": ".model.generation.generate",
    "Text": ".tokenize.text_codecs",
    "WordPiece": ".tokenize.text.wordpiece",
    "generate": ".model.generation.generate",
    "load_model": ".train.pretrain.load",
    "load_recipe": ".recipe:load",
    "load_tokenizer": ".tokenize.ml4m:load",
    "nearest": ".model.downstream.retrieval",
    "open_run": ".runs.run",
    "open_store": ".tokenize.open_store",
    "retrieve": ".model.downstream.retrieval",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'fourmill' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    module, _, other = _PLACES[name].partition(":")
    value = getattr(import_module(module, __name__), other or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
