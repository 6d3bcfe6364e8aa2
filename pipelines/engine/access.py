"""Whether a node reaches what its actors read and write, asked before any of them starts.

Workers have the environment of their node, and not that of the driver: without this, every shard would be labelled
before the first one is found to be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...infra import faults, storage
from ...infra.secrets import public
from ...infra.submission import credentials, ready
from ..sensors import places

PROBE_BYTES = 512


@dataclass(frozen=True)
class Access:
    """root: that must be written. sample: a shard that must be read, "" for none.
    variables: that are set where the job was started; they are named if there is no access without them.
    holds_recipe: whether the driver sees the recipe there, that a stage has written; then a node must see it, too."""

    root: str
    sample: str = ""
    variables: tuple[str, ...] = ()
    holds_recipe: bool = True

    @classmethod
    def of(cls, root: str, sample: str = "") -> Access:
        """With the variables of this process, and of where its job was submitted."""
        names = [*credentials.set_here([root, *places.parts(sample).values()]), *ready.names()]
        return cls(root, sample, tuple(dict.fromkeys(names)), storage.exists(_recipe(root)))

    def setup_on_node(self) -> None:
        """ValueError if this machine lacks what fourmill depends on, or has no access."""
        if lacking := ready.lacking():
            raise ValueError(f"it lacks what fourmill needs: {'; '.join(lacking)}")
        try:
            self._reach()
        except Exception as error:  # whatever a library of a service raises
            known = isinstance(error, ValueError | OSError) or faults.of_place(error) or faults.of_service(error)
            if not known:
                raise
            said = str(error) if isinstance(error, ValueError) else faults.sentence(error)
            raise ValueError(said.removeprefix("root: ") + self._unset()) from None

    def _reach(self) -> None:
        if self.holds_recipe and not storage.exists(_recipe(self.root)):
            raise ValueError(
                f"it does not see what the driver has written below {public(self.root)}; root must be a URL, or a "
                "folder that all nodes share"
            )
        storage.check_writable(self.root)
        if self.sample:
            try:
                with storage.open_binary(places.first(self.sample)) as shard:
                    shard.read(PROBE_BYTES)
            except FileNotFoundError:
                raise ValueError(f"it does not see the shard {public(self.sample)}, which the driver sees") from None

    def _unset(self) -> str:
        unset = ready.unset(self.variables)
        return f". Not set there, and set where the job was started: {', '.join(unset)}" if unset else ""


def _recipe(root: str) -> str:
    return storage.join(root, "recipe.yaml")


def asked(root: str, sample: str, started_here: bool) -> Sequence[Access]:
    """What nodes are asked. Those of a Ray that this process has started are this machine, with its environment."""
    return () if started_here else (Access.of(root, sample),)
