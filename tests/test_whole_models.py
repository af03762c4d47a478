"""Models that are trees themselves, as Equinox's are, come whole for parameters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import egd_optax


@jax.tree_util.register_pytree_with_keys_class
class Module:
    """What ``eqx.Module`` is: each field a child, whatever it holds; can be called."""

    def __init__(self, **fields):
        self.__dict__.update(fields)

    def tree_flatten_with_keys(self):
        keys = map(jax.tree_util.GetAttrKey, self.__dict__)
        return list(zip(keys, self.__dict__.values(), strict=True)), tuple(
            self.__dict__
        )

    @classmethod
    def tree_unflatten(cls, names, children):
        return cls(**dict(zip(names, children, strict=True)))

    def __call__(self, x):
        return self.head(self.activation(self.body(x)))


def linear(rng, inputs, outputs):
    weight, bias = rng.normal(size=(inputs, outputs)), rng.normal(size=outputs)
    return Module(
        weight=jnp.asarray(weight, jnp.float32),
        bias=jnp.asarray(bias, jnp.float32),
        in_features=inputs,
        use_bias=True,
        name="linear",
    )


@pytest.fixture
def model(rng):
    return Module(
        body=linear(rng, 3, 4),
        activation=jax.nn.relu,
        head=linear(rng, 4, 2),
        patch_size=16,
        scale=0.5,
        steps=jnp.arange(3),
        dropout=None,
    )


def filtered(model):
    """``eqx.filter(model, eqx.is_inexact_array)``, which gradients look like, too."""

    def is_inexact(leaf):
        return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)

    return jax.tree.map(lambda leaf: leaf if is_inexact(leaf) else None, model)


MASK = {"mask": lambda tree: jax.tree.map(lambda leaf: leaf.ndim == 2, tree)}
NEED_PARAMS = {
    "optax.adamw": optax.adamw(0.1),
    "egd": egd_optax.egd(0.1),
    "egd, as told": egd_optax.egd(
        0.1,
        weight_dimension_numbers=lambda tree: jax.tree.map(
            lambda leaf: MuonDimensionNumbers() if leaf.ndim == 2 else None, tree
        ),
    ),
    "frobenius": egd_optax.add_frobenius_penalty(0.1),
    "frobenius, masked": egd_optax.add_frobenius_penalty(0.1, **MASK),
    "delayed": egd_optax.delayed_frobenius_penalty(0.1),
    "nuclear norm": egd_optax.add_nuclear_norm_penalty(0.1),
    "nuclear norm, masked": egd_optax.add_nuclear_norm_penalty(0.1, **MASK),
    "log det": egd_optax.add_log_det_penalty(0.1, eps=0.1),
    "row norms": egd_optax.clip_weight_row_norms(1.0),
    "⊥Grad": egd_optax.orthogonal_gradient(),
    "unless vanished": egd_optax.apply_unless_vanished(
        egd_optax.add_frobenius_penalty(0.1)
    ),
    "scale_by_egd": egd_optax.scale_by_egd(),
    "Grokfast": egd_optax.grokfast_ema(),
}


@pytest.mark.parametrize("name", NEED_PARAMS)
def test_the_whole_model_serves_for_parameters(model, name):
    tx = optax.with_extra_args_support(NEED_PARAMS[name])
    arrays = filtered(model)
    grads = jax.tree.map(jnp.sin, arrays)
    updates, _ = tx.update(grads, tx.init(arrays), model, train_accuracy=1.0)
    expected, _ = tx.update(grads, tx.init(arrays), arrays, train_accuracy=1.0)
    chex.assert_trees_all_equal(updates, expected)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(updates))


def test_a_parameter_with_a_gradient_is_still_checked(model):
    grads = filtered(model)
    model.body.weight = 3
    with pytest.raises(egd_optax.ArgumentError, match=r"at \.body\.weight must"):
        egd_optax.orthogonal_gradient().update(grads, optax.EmptyState(), model)
