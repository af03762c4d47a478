import numpy as np
import optax
import pytest

from egd_optax import scale_by_egd
from egd_optax.grokking.problems.toy import Toy, plateau, simulate, theory

STEPS = np.array([1, 2000, 3400, 3800, 4500, 6000])


def test_simulation_follows_the_theory():
    simulated = simulate(Toy(), optax.sgd(0.1), STEPS)
    np.testing.assert_allclose(simulated, theory(Toy(), 0.1, STEPS), atol=0.02)
    assert simulated[2] > 0.9 > 0.1 > simulated[-1]


def test_the_plateau_grows_as_the_inverse_of_the_variance():
    # The figure of the corrected form in the paper's setting.
    assert plateau(Toy(), 0.1) == pytest.approx(3502, abs=1)
    assert plateau(Toy(epsilon=1e-3), 0.1) == pytest.approx(35020, rel=0.01)


@pytest.mark.parametrize("epsilon", [1e-1, 1e-4])
def test_whitening_does_not_know_the_variance(epsilon):
    tx = optax.chain(
        optax.trace(0.9, nesterov=True),
        scale_by_egd(),
        optax.scale_by_learning_rate(optax.exponential_decay(0.3, 1, 0.98)),
    )
    errors = simulate(Toy(epsilon=epsilon), tx, [1, 500, 1000], outputs=2)
    assert errors[0] == 1
    assert errors[1:].max() < 0.01
    newton = simulate(Toy(epsilon=epsilon), optax.sgd(0.1), [100], newton=True)
    assert newton < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_of_the_examples_solves_the_problem(seed):
    newton = optax.sgd(1.0)
    error = simulate(Toy(epsilon=1e-4), newton, [10], newton=True, seed=seed)
    assert error < 0.01
