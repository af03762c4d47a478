"""Results on disk: whole or not at all, through kills and power cuts, by one writer."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def prepare_folder(folder: Path) -> None:
    """Makes the folder, and finds out now, not after the run, whether it can be used.

    Raises:
      ValueError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"the output folder {folder} cannot be written: {error.strerror}; choose "
            "another --out"
        ) from error


@contextlib.contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keeps other processes out of the folder, which exists.

    The lock is the kernel's, on the file ``.lock``: it goes with its owner, however
    that ends.

    Raises:
      ValueError: another process has the folder.
    """
    if sys.platform == "win32":
        yield
        return
    path = folder / ".lock"
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Not that of an owner who deleted it just now.
            ours = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            ours = False
        except OSError:  # some network file systems have no locks, and are used
            ours = True
        if not ours:
            raise ValueError(
                f"another process is writing to {folder}: wait for its end, or choose "
                "another --out"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place if all goes well.

    Raises:
      OSError: as writing does, with the name of ``path``.
    """
    # Always the same name, so that kills leave one such file at most.
    temporary = path.with_name(f".{path.name}.unfinished")
    try:
        temporary.unlink(missing_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The text as a whole file in place of what is there.

    Raises:
      OSError: the disk does not take it; what was there stays.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Has a power cut leave what is in a file, or which names are in a folder."""
    if sys.platform == "win32":  # there, only what is open for writing can be synced
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def in_one_line(error: OSError) -> str:
    """Where writing failed, why, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror or error}; files written before are whole: mend this "
        "and start again, or choose another --out"
    )
