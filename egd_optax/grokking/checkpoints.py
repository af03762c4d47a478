"""Training state on disk, so that a killed run goes on as if nothing had happened."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from egd_optax.grokking.history import History


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or of another run."""


class _Saved(NamedTuple):
    arrays: dict[str, np.ndarray]  # by path in (members, metrics)
    run_seconds: float


class Checkpoints:
    """The latest state of one run, in a folder of its own.

    Orbax writes the arrays into a folder that takes its name when all is there, so
    that a kill at any moment leaves a whole checkpoint. Digests of all files tell
    what was changed since.

    Args:
      folder: where the checkpoints are; made at the first save.
      every: updates from one checkpoint to the next, rounded up to whole epochs.
      identity: what makes a run this one and no other.
      resume: whether to go on from a checkpoint that is there.

    Raises:
      CheckpointError: what is in the folder cannot be gone on from.
    """

    def __init__(
        self, folder: Path, every: int, identity: Mapping[str, str], *, resume: bool
    ):
        self.every = every
        self._folder = folder.absolute()
        self._identity = dict(identity)
        self._saved = self._load()
        if self._saved is not None and not resume:
            raise CheckpointError(
                f"{folder} holds a checkpoint already: add --resume to go on from it, "
                "or choose another --out"
            )

    def save(self, members: Any, history: History) -> None:
        """Writes state and history, then deletes the checkpoint before."""
        step = self._folder / str(history.steps[-1])
        if step.exists():  # the one gone on from
            return
        arrays = _by_path((members, dict(history.metrics)))
        about = {
            "identity": self._identity,
            "shapes": {path: [*x.shape] for path, x in arrays.items()},
            "dtypes": {path: x.dtype.name for path, x in arrays.items()},
            "run_seconds": history.run_seconds,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        older = list(self._folder.iterdir())
        unfinished = step.with_name(step.name + _UNFINISHED)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        with _checkpointer() as orbax:
            orbax.save(unfinished / "arrays", _numbered(arrays))
        (unfinished / "about.json").write_text(json.dumps(about))
        (unfinished / "sha256.json").write_text(json.dumps(_digests(unfinished)))
        unfinished.rename(step)
        for path in older:
            shutil.rmtree(path, ignore_errors=True)

    def restore(self, members: Any) -> tuple[Any, list[dict[str, np.ndarray]], float]:
        """State, metrics so far and seconds run of the checkpoint that was found.

        Without one: the given members, no metrics, no time.
        """
        if self._saved is None:
            return members, [], 0.0
        arrays = self._saved.arrays
        fresh = _by_path((members, {}))
        for path, x in fresh.items():
            found = arrays.get(path)
            if found is None or (found.shape, found.dtype) != (x.shape, x.dtype):
                raise CheckpointError(
                    f"the checkpoint in {self._folder} is of another model or "
                    f"optimizer: {path} of shape {x.shape} is not in it"
                )
        leaves, treedef = jax.tree.flatten(members)
        restored = [
            jax.random.wrap_key_data(jnp.asarray(arrays[path]))
            if _is_key(leaf)
            else jnp.asarray(arrays[path])
            for leaf, path in zip(leaves, fresh, strict=True)
        ]
        metrics = {
            re.sub(r"^\[1\]\['(.*)'\]$", r"\1", path): x
            for path, x in arrays.items()
            if path not in fresh
        }
        members = jax.tree.unflatten(treedef, restored)
        return members, [metrics], self._saved.run_seconds

    def _load(self) -> _Saved | None:
        if not self._folder.exists():
            return None
        names = [path.name for path in self._folder.iterdir()]
        whole = [name for name in names if not name.endswith(_UNFINISHED)]
        foreign = [name for name in whole if not name.isdigit()]
        if foreign:
            raise CheckpointError(
                f"{self._folder} holds {foreign[0]!r}, which is no checkpoint of "
                "egd-grok: choose another --out"
            )
        if not whole:
            return None
        step = self._folder / max(whole, key=int)
        try:
            # Before anything parses the files: Orbax reports broken ones at length.
            intact = json.loads((step / "sha256.json").read_text()) == _digests(step)
            about = json.loads((step / "about.json").read_text()) if intact else {}
        except (OSError, ValueError):
            intact = False
        if not intact:
            raise CheckpointError(
                f"the checkpoint {step} is damaged, or none of egd-grok: move it away, "
                "or choose another --out"
            )
        identity = about["identity"]
        for name in sorted(self._identity.keys() | identity.keys()):
            there, here = identity.get(name), self._identity.get(name)
            if there != here:
                raise CheckpointError(
                    f"the checkpoint {step} is of another run: {name} is {there} there "
                    f"and {here} here; choose another --out"
                )
        arrays = {
            path: np.empty(shape, about["dtypes"][path])
            for path, shape in about["shapes"].items()
        }
        with _checkpointer() as orbax:
            found = orbax.restore(step / "arrays", _numbered(arrays))
        filled = (path for path, x in arrays.items() if x.size)
        arrays |= dict(zip(filled, found.values(), strict=True))
        return _Saved(arrays, about["run_seconds"])


# Ends the name of a folder that a kill left half written.
_UNFINISHED = ".unfinished"


def _checkpointer() -> Any:
    # Imported where it is used: every training run would wait for it.
    import orbax.checkpoint as ocp

    return ocp.Checkpointer(ocp.StandardCheckpointHandler())


def _by_path(tree: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(x) if _is_key(x) else x
        )
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _numbered(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    # Paths have characters that mean something to Orbax, which refuses empty arrays.
    return {f"{i:06}": x for i, x in enumerate(arrays.values()) if x.size}


def _digests(step: Path) -> dict[str, str]:
    return {
        str(path.relative_to(step)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(step.rglob("*"))
        if path.is_file() and path != step / "sha256.json"
    }
