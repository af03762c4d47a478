import numpy as np
import optax
import pytest

from egd_optax import scale_by_egd
from egd_optax.grokking.toy import Toy, plateau, simulate, theory

STEPS = np.array([1, 2000, 3400, 3800, 4500, 6000])


def test_simulation_follows_the_theory():
    simulated = simulate(Toy(), optax.sgd(0.1), STEPS)
    np.testing.assert_allclose(simulated, theory(Toy(), 0.1, STEPS), atol=0.05)
    assert simulated[2] > 0.9 > 0.1 > simulated[-1]


def test_the_plateau_grows_as_the_inverse_of_the_variance():
    # The figure of the corrected form in the paper's setting.
    assert plateau(Toy(), 0.1) == pytest.approx(3502, abs=1)
    assert plateau(Toy(epsilon=1e-3), 0.1) == pytest.approx(35020, rel=0.01)


@pytest.mark.parametrize("epsilon", [1e-1, 1e-4])
def test_whitening_does_not_know_the_variance(epsilon):
    tx = optax.chain(scale_by_egd(), optax.sgd(1.0))
    errors = simulate(Toy(epsilon=epsilon), tx, range(1, 21), outputs=2)
    assert errors[0] == 1
    assert errors.min() < 0.01
    newton = simulate(Toy(epsilon=epsilon), optax.sgd(0.1), [100], newton=True)
    assert newton < 0.01
