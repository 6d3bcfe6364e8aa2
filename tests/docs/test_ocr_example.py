"""The worked example of a modality of one's own: its own test, collected here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PATH = Path(__file__).parents[2] / "docs/examples/ocr/test_ocr.py"
_spec = importlib.util.spec_from_file_location("ocr_example_test", _PATH)
assert _spec is not None and _spec.loader is not None
_example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_example)
globals().update({name: value for name, value in vars(_example).items() if not name.startswith("_")})
