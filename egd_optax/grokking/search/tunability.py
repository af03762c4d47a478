"""How good a method is after k trials: what tuning it costs.

Source: Sivaprasad et al., *Optimizer Benchmarking Needs to Account for Hyperparameter
Tuning*, arXiv 1910.11758.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln


class Tunability(NamedTuple):
    """Expected best score after k trials, k = 1 … N."""

    expected: np.ndarray  # (N,)
    low: np.ndarray  # (N,), 10 % of the bootstrap samples are below
    high: np.ndarray  # (N,), 10 % are above


def tunability(scores: np.ndarray, *, samples: int = 500, seed: int = 0) -> Tunability:
    r"""The expected least of k of N scores drawn without replacement.

    .. math:: E_k = \sum_{i=1}^{N} s_{(i)} \binom{N - i}{k - 1} \Big/ \binom{N}{k}

    for scores in rising order: s_(i) is the least of those drawn when it is among them
    and the other k − 1 come after it. The band is that of the same number for samples
    of the trials with replacement.

    Args:
      scores: of the N trials of a method, lower is better; all finite.
      samples: of the bootstrap.
      seed: of their draw.

    Example:
      >>> import numpy as np
      >>> from egd_optax.grokking.search.tunability import tunability
      >>> print(tunability(np.array([3.0, 1.0, 2.0])).expected.round(6))
      [2.       1.333333 1.      ]
    """
    weights = _weights(len(scores))
    rng = np.random.default_rng(seed)
    drawn = rng.choice(scores, (samples, len(scores)))
    found = np.sort(drawn, axis=1) @ weights.T
    low, high = np.quantile(found, (0.1, 0.9), axis=0)
    # Equal scores have that score for a mean, whatever rounding does.
    bounds = np.min(scores), np.max(scores)
    expected = weights @ np.sort(scores)
    return Tunability(*(np.clip(x, *bounds) for x in (expected, low, high)))


def _weights(count: int) -> np.ndarray:
    """(k, i): the chance that the i-th score is the least of k."""
    k = np.arange(1, count + 1)[:, None]
    after = count - np.arange(1, count + 1)[None, :]
    possible = after >= k - 1
    # Binomials of a hundred overflow.
    logs = (
        gammaln(after + 1)
        - gammaln(np.where(possible, after - k + 2, 1))
        - gammaln(k)
        - (gammaln(count + 1) - gammaln(k + 1) - gammaln(count - k + 1))
    )
    return np.where(possible, np.exp(logs), 0.0)
