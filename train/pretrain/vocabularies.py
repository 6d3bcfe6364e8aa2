"""Vocabularies: which tokenizers' ids a trained model has learned, and whether they are those of a recipe.

The sizes of two vocabularies may be equal, and their ids mean other words or codes: only fingerprints of their contents
tell. A model says them in tokenizers.json beside its weights, a checkpoint in its marker, and runs of older releases in
RUN/tokenizers.json. Published models do not say them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from ...infra import side_files, storage
from ...infra.explain import listing
from ...modalities import MODALITIES, TEXT
from ...model import checkpoint as model_files
from ...model.config import TOKENIZERS
from ...model.fourm import FourM
from ...tokenize.settings import TextTokenizer, TokenizerSettings
from .. import checkpoint
from ..settings import Init
from ..tokenizers import adopt

_RUN = re.compile(r"(.+)/runs/[^/]+/[^/]+/.+")
# The words and ids of 4M's text tokenizer at apple/ml-4m cda590f, see `WordPiece.sum_of_words`, and how many there are.
PUBLISHED, PUBLISHED_WORDS, PUBLISHED_SIZE = "EPFL-VILAB/4M", "db45a657cefec1bf", 30_000


@dataclass(frozen=True)
class Here:
    """What a recipe makes its tokens by.

    Attributes:
        named: tokenizers that are finished elsewhere (`weights`). fitted: those of its root, name -> fingerprint.
        contents: (name, what is expected) -> the fingerprint of a named one, None if it is not at hand yet.
        words: (size, sum of its words) of the text tokenizer that is named, None if there is none.
    """

    named: Collection[str]
    fitted: Mapping[str, str]
    contents: Callable[[str, str], str | None]
    words: Callable[[], tuple[int, str] | None] = lambda: None


def of(
    settings: Mapping[str, TokenizerSettings],
    text: TextTokenizer,
    fitted: Mapping[str, str],
    image_size: int,
    classes: Mapping[str, tuple[str, ...]],
) -> Here:
    """The tokenizers of a recipe.

    Args:
        settings: of all but text's, with their sizes. fitted: those of its root, name -> fingerprint.
        image_size: pixels along a side of a crop. classes: its own lists, by label.
    """
    named = [name for name, one in settings.items() if one.weights is not None]
    named += [TEXT] if text.weights is not None else []

    def contents(name: str, expected: str) -> str | None:
        if name == TEXT:
            return adopt.words(text).fingerprint()
        return adopt.contents(name, settings[name], image_size, classes, expected)

    def words() -> tuple[int, str] | None:
        found = adopt.words(text) if TEXT in named else None
        return None if found is None else (found.vocab_size, found.sum_of_words())

    return Here(named, fitted, contents, words)


def learned(place: str) -> dict[str, str]:
    """Tokenizer -> fingerprint, of the model of a folder or checkpoint; {} if it does not say.

    Args:
        place: URL of a folder of weights, or of one checkpoint.
    """
    if noted := model_files.read_tokenizers(place):
        return noted
    if saved := checkpoint.at(place):
        noted = saved.marker().get("state", {}).get("tokenizers", {})
    above = posixpath.dirname(place.rstrip("/"))
    run = posixpath.dirname(above) if saved else above
    return dict(noted or side_files.read_object(storage.join(run, TOKENIZERS)) or {})


def check(
    init: Init, modalities: Iterable[str], known: Mapping[str, str], published: bool, here: Here, text: bool = False
) -> list[str]:
    """ValueError if a model has learned other tokens than a recipe makes, naming the tokenizer and what to do.

    Args:
        init: of the recipe. modalities: whose tables of tokens are taken over.
        known: what the model says, see `learned`. published: whether it is in apple/ml-4m's format.
        text: whether its text tokenizer must be the recipe's, whatever modalities are taken over.

    Returns:
        Sentences for the user, on what nobody knows.
    """
    needed = list(dict.fromkeys(name for one in modalities for name in MODALITIES[one.partition("@")[0]].tokenizers))
    needed += [TEXT] if text and TEXT not in needed else []
    for name in needed:
        if name in known:
            _compare(init, name, known[name], here)
    unsaid = [name for name in needed if name not in known]
    if not unsaid:
        return []
    says = f"{init.setting}: {init.weights} does not say which tokenizers it has learned"
    if published and (unnamed := [name for name in unsaid if name not in here.named]):
        settings = listing([f"{_setting(name)}.weights" for name in unnamed])
        raise ValueError(
            f"{says}, and the recipe fits {listing(unnamed)} itself, whose ids would mean other tokens; name the "
            f"published ones ({settings}; `convention: ml4m` names 4M's), or learn new tables of tokens: {_fresh(init)}"
        )
    if TEXT in unsaid and init.weights.startswith(PUBLISHED):
        _check_published_words(init, here)
    return [f"{says}; {listing(unsaid)} are taken to be the recipe's"]


def check_learned(init: Init, modalities: Iterable[str], trained: FourM, model: FourM, text: bool = False) -> None:
    """ValueError if two models have learned the ids of different tokenizers, as far as they say so."""
    named, known = list(model.tokenizers), trained.tokenizers
    if named:
        here = Here(named, model.tokenizers, lambda name, expected: None)
        check(init, modalities, known, published=False, here=here, text=text)


def _compare(init: Init, name: str, learned: str, here: Here) -> None:
    if name not in here.fitted and name not in here.named:
        why = f"the recipe fits {name} itself, and {init.weights} has learned the ids of another one ({learned})"
    elif (actual := here.fitted.get(name) or here.contents(name, learned)) in (learned, None):
        return
    else:
        why = (
            f"{init.weights} has learned another tokenizer {name} (contents {learned}) than the recipe's (contents "
            f"{actual}), whose ids mean other tokens"
        )
    root = _RUN.fullmatch(init.weights)
    folder = storage.join(root[1], "tokenizers", name) if root else f"its root's tokenizers/{name}"
    folder = folder if storage.is_local(folder) else f"a copy of {folder} on this machine"
    raise ValueError(
        f"{init.setting}: {why}; set {_setting(name)}.weights to {folder}, or learn new tables of tokens: "
        f"{_fresh(init)}"
    )


def _check_published_words(init: Init, here: Here) -> None:
    words = here.words()
    if words is not None and words[0] == PUBLISHED_SIZE and words[1] != PUBLISHED_WORDS:
        raise ValueError(
            f"{init.setting}: {init.weights} has learned the words of 4M's text tokenizer, and tokenizers.text.weights "
            "is another one of the same size; take text_tokenizer_4m_wordpiece_30k.json of apple/ml-4m, or "
            f"`spaces/EPFL-VILAB/4M`, or learn new tables: {_fresh(init)}"
        )


def _setting(name: str) -> str:
    return "tokenizers.text" if name == TEXT else f"tokenizers.each.{name}"


def _fresh(init: Init) -> str:
    return f"train.init: {{weights: {init.weights}, embeddings: fresh}}"
