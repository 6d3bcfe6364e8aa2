"""Commits of tokenizers: ROOT/tokenizers/NAME/, and then its record."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...infra import ledger, scratch, storage
from ...modalities import TEXT
from ...tokenize import class_lists
from ...tokenize.settings import TextTokenizer, TokenizerSettings
from .examples import Rows

if TYPE_CHECKING:
    from ...tokenize.tokenizer import Tokenizer
    from .job import FitJob

logger = logging.getLogger(__name__)

OUTPUT = "tokenizers"


def save(
    job: FitJob, name: str, rows: Rows, model: Tokenizer, measured: Mapping[str, float], samples: int, start: float
) -> None:
    """Commit a fitted tokenizer with what was measured.

    Args:
        samples: rows that it was fitted on.
    """
    from ...tokenize import tokenizer

    with scratch.folder() as folder:
        tokenizer.save(model, folder, measured, class_lists.of_tokenizer(name, job.classes), name)
        facts = {
            "sha256": tokenizer.fingerprint(folder), "vocab_size": job.tokenizers[name].codebook_size,
            "quality": measured, "measured_on": rows.measured_on, "shards": rows.shards,
            **({"shards_passed_over": rows.passed_over} if rows.passed_over else {}),
        }  # fmt: skip
        commit(job, name, folder, facts, samples, start)


def commit(job: FitJob, name: str, folder: str, facts: Mapping[str, Any], samples: int, start: float) -> None:
    """Put a tokenizer's files and then its record.

    As `ledger.commit` does for one file: of two jobs that put their files at the same time one wins the record, and if
    the other holds a different tokenizer it commits again, so that the record is never of the other one's files.

    Args:
        facts: `sha256`, the fingerprint of its contents, and what else its record says: `vocab_size`, `quality`, ...

    Raises:
        OSError: other jobs keep committing other tokenizers.
    """
    files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    settings: TextTokenizer | TokenizerSettings | None = job.text if name == TEXT else job.tokenizers[name]
    assert settings is not None
    identity = {key: value for key, value in facts.items() if key != "sha256"}
    record = ledger.Record(
        output=OUTPUT,
        shard=name,
        fingerprint=job.prints[name],
        source=ledger.Source(0, "", ""),
        rows=samples,
        nulls=0,
        rejects=[],
        bytes=sum(map(len, files.values())),
        sha256=facts["sha256"],
        seconds=round(time.monotonic() - start, 3),
        identity={"settings": settings.model_dump(mode="json"), **identity, **job.versions.get(name, {})},
    )
    url = ledger.record_url(job.root, OUTPUT, name)
    for _ in range(ledger.ATTEMPTS):
        # Without its record a tokenizer does not exist, so that nobody reads files that are being replaced.
        storage.delete(url)
        for file, data in files.items():
            storage.put(storage.join(job.root, OUTPUT, name, file), data)
        if storage.put(url, ledger.dumps(record), if_absent=True):
            logger.info("fit %s: committed %s", name, record.sha256)
            return
        # Another job was first. If it holds the same tokenizer, all is well; else put the files again.
        other = ledger.read(job.root, OUTPUT, name)
        if other is not None and (other.fingerprint, other.sha256) == (record.fingerprint, record.sha256):
            return
    raise OSError(f"{url}: other jobs keep committing other tokenizers; do not fit two recipes on one root at a time")
