"""An interruption that waits until what is under way is kept."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def deferred_interruption() -> Iterator[None]:
    """Holds a first Ctrl-C back until the end of the context; a second ends at once.

    A compiled program cannot be interrupted, and what it found would be lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.getsignal(signal.SIGINT)
    if not callable(usual):  # ignored, or not Python's
        yield
        return
    came: list[Any] = []

    def note(*about: Any) -> None:
        if came:
            signal.signal(signal.SIGINT, usual)
            usual(*about)
        came.append(about)
        print("\nending after the trials under way …", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if came:
        usual(*came[0])
