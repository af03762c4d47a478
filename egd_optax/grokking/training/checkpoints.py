"""Training state on disk, so that a killed run goes on as if nothing had happened."""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from egd_optax.grokking.files import sync
from egd_optax.grokking.training.devices import as_the_first_has
from egd_optax.grokking.training.history import History


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or of another run."""


class CheckpointWarning(UserWarning):
    """The latest checkpoint is damaged, and the one before is gone on from."""


class _DamagedError(Exception):
    pass


class _Saved(NamedTuple):
    step: Path
    arrays: dict[str, np.ndarray]  # by path in (members, metrics)
    run_seconds: float


class Checkpoints:
    """The latest two states of one run, in a folder of its own.

    Orbax writes the arrays into a folder that takes its name when all is there, so
    that a kill at any moment leaves a whole checkpoint. Digests of all files tell
    what was changed since; where that befell the latest, the run goes on from the one
    before, with a warning. Nothing is unpickled: a stranger's checkpoint is data.

    Args:
      folder: where the checkpoints are; made at the first save.
      every: updates from one checkpoint to the next, rounded up to whole epochs.
      identity: what makes a run this one and no other.
      resume: whether to go on from a checkpoint that is there.

    Raises:
      CheckpointError: what is in the folder cannot be gone on from.
      CheckpointWarning: the latest of two is damaged.
      OSError: the folder cannot be read.
    """

    def __init__(
        self, folder: Path, every: int, identity: Mapping[str, str], *, resume: bool
    ):
        self.every = every
        self._folder = folder.absolute()
        self._identity = dict(identity)
        steps = self._steps()
        if steps and not resume:
            raise CheckpointError(
                f"{folder} holds a checkpoint already: add --resume to go on from it, "
                "or choose another --out"
            )
        self._saved = self._latest(steps) if steps else None
        self._newest = self._saved.step if self._saved else None

    def save(self, members: Any, history: History) -> None:
        """Writes state and history, then deletes all but this and the one before.

        Raises:
          OSError: the disk does not take it; what was there before stays.
        """
        step = self._folder / str(history.steps[-1])
        if step == self._newest:  # the one gone on from
            return
        arrays = _by_path((members, dict(history.metrics)))
        about = {
            "identity": self._identity,
            "shapes": {path: [*x.shape] for path, x in arrays.items()},
            "dtypes": {path: x.dtype.name for path, x in arrays.items()},
            "run_seconds": history.run_seconds,
        }
        unfinished = step.with_name(step.name + _UNFINISHED)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            older = set(self._folder.iterdir()) - {step, self._newest}
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            # Orbax would tell of a full disk at length, from several threads.
            room = unfinished / "room"
            room.write_bytes(bytes(sum(x.nbytes for x in arrays.values()) + _OVERHEAD))
            room.unlink()
            with _checkpointer() as orbax:
                orbax.save(unfinished / "arrays", _numbered(arrays))
            (unfinished / "about.json").write_text(json.dumps(about))
            (unfinished / "sha256.json").write_text(json.dumps(_digests(unfinished)))
            for path in (*unfinished.rglob("*"), unfinished):
                sync(path)
            shutil.rmtree(step, ignore_errors=True)  # a damaged one
            unfinished.rename(step)
            sync(self._folder)
        except (OSError, ValueError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            number = _error_number(error)
            if number is None:
                raise
            raise OSError(number, os.strerror(number), str(step)) from error
        self._newest = step
        for path in older:
            shutil.rmtree(path, ignore_errors=True)

    def restore(self, members: Any) -> tuple[Any, list[dict[str, np.ndarray]], float]:
        """State, metrics so far and seconds run of the checkpoint that was found.

        Without one: the given members, no metrics, no time.

        Raises:
          CheckpointError: it is of another run, or processes have found different ones.
        """
        step = 0 if self._saved is None else int(self._saved.step.name)
        at_first = int(as_the_first_has(np.array(step)))
        if step != at_first:
            raise CheckpointError(
                f"a process found the checkpoint of step {step} in {self._folder}, the "
                f"first one that of {at_first}: choose an --out that all of them see"
            )
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
        metrics = {}
        for path in (path for path in arrays if path not in fresh):
            metric = re.fullmatch(r"\[1\]\['(.*)'\]", path)
            if metric is None:
                raise CheckpointError(
                    f"the checkpoint in {self._folder} is of another model or "
                    f"optimizer: it holds {path}, which is not in this one"
                )
            metrics[metric[1]] = arrays[path]
        members = jax.tree.unflatten(treedef, restored)
        return members, [metrics], self._saved.run_seconds

    def _steps(self) -> list[Path]:
        """The checkpoints in the folder, latest first."""
        if not self._folder.exists():
            return []
        names = [path.name for path in self._folder.iterdir()]
        whole = [name for name in names if not name.endswith(_UNFINISHED)]
        foreign = [name for name in whole if not name.isdecimal()]
        if foreign:
            raise CheckpointError(
                f"{self._folder} holds {foreign[0]!r}, which is no checkpoint of "
                "egd-grok: choose another --out"
            )
        return [self._folder / name for name in sorted(whole, key=int, reverse=True)]

    def _latest(self, steps: list[Path]) -> _Saved:
        for step in steps:
            try:
                saved = self._read(step)
            except _DamagedError:
                continue
            if step != steps[0]:
                warnings.warn(
                    f"the checkpoint {steps[0]} is damaged, or none of egd-grok: going "
                    f"on from {step.name}, the one before",
                    CheckpointWarning,
                    stacklevel=3,
                )
            return saved
        raise CheckpointError(
            f"the checkpoint {steps[0]} is damaged, or none of egd-grok: move it away, "
            "or choose another --out"
        )

    def _read(self, step: Path) -> _Saved:
        try:
            # Before anything parses the files: Orbax reports broken ones at length.
            if json.loads((step / "sha256.json").read_text()) != _digests(step):
                raise _DamagedError
            about = json.loads((step / "about.json").read_text())
            differences = sorted(self._identity.items() ^ about["identity"].items())
            arrays = {
                path: np.empty(shape, about["dtypes"][path])
                for path, shape in about["shapes"].items()
            }
            if not differences:
                with _checkpointer() as orbax:
                    found = orbax.restore(step / "arrays", _numbered(arrays))
                filled = (path for path, x in arrays.items() if x.size)
                arrays |= dict(zip(filled, found.values(), strict=True))
            seconds = float(about["run_seconds"])
        except PermissionError:
            raise
        except Exception as error:  # whatever a stranger's file leads json or Orbax to
            raise _DamagedError from error
        if differences:
            name = differences[0][0]
            there, here = about["identity"].get(name), self._identity.get(name)
            raise CheckpointError(
                f"the checkpoint {step} is of another run: {name} is {there} there "
                f"and {here} here; choose another --out"
            )
        return _Saved(step, arrays, seconds)


# Bytes of a checkpoint besides its arrays, and more.
_OVERHEAD = 2**18

# Ends the name of a folder that a kill left half written.
_UNFINISHED = ".unfinished"


def _checkpointer() -> Any:
    # Imported where it is used: every training run would wait for it.
    import orbax.checkpoint as ocp

    own = jax.process_index()
    # Orbax would wait for the other processes, of which the first alone saves.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"of-{own}"
    )
    return ocp.Checkpointer(
        ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        multiprocessing_options=alone,
    )


def _error_number(error: OSError | ValueError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # Orbax's storage tells of a full disk, and the like, in words.
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return int(number[1]) if number else None


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
