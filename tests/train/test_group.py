"""Ray Train without processes and imports that nothing asks for."""

from __future__ import annotations

import subprocess
import sys


def test_the_controller_imports_no_torch() -> None:
    """It imports this module: two seconds of every fit and training, before a worker begins."""
    script = "import sys, fourmill.train.group as g; g._Meeting, g.Group().train_func_context; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert not {"torch", "fourmill.train.pretrain", "fourmill.recipe"} & set(done.stdout.split())


def test_no_process_has_nothing_to_do() -> None:
    from fourmill.train.group import Trainer

    names = {type(one).__name__ for one in Trainer(lambda: None)._create_default_callbacks()}
    assert {"BackendSetupCallback", "AcceleratorSetupCallback"} <= names
    assert not {"DatasetsCallback", "PlacementGroupCleanerCallback"} & names
