"""One of two processes that whiten together; test_sharding.py starts both."""

import sys
from pathlib import Path

import jax
import numpy as np

address, process, folder, devices = sys.argv[1], int(sys.argv[2]), sys.argv[3], 2
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, num_processes=2, process_id=process)

from eight_devices import matrices, newton_schulz, reshards  # noqa: E402
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from egd_optax import scale_by_egd  # noqa: E402
from egd_optax.grokking.problems.problem import modular, with_settings  # noqa: E402
from egd_optax.grokking.recipes import RECIPES  # noqa: E402
from egd_optax.grokking.search.search import Search  # noqa: E402
from egd_optax.grokking.training.run import train  # noqa: E402

assert jax.process_count() == 2
assert len(jax.devices()) == 2 * len(jax.local_devices()) == 2 * devices
mesh = jax.make_mesh((2 * devices,), ("data",), axis_types=(AxisType.Auto,))
leaves = matrices(6)
for spec in (P("data"), P()):
    sharding = NamedSharding(mesh, spec)
    placed = [
        jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)
        for leaf in leaves
    ]
    tx = scale_by_egd(newton_schulz)
    step = jax.jit(lambda grads: tx.update(grads, tx.init(grads))[0])
    compiled = step.lower(placed).compile()
    outside, inside = reshards(compiled)
    assert len(outside) == (1 if spec == P() else 2), outside
    assert inside == [], inside
    for update, leaf in zip(compiled(placed), leaves, strict=True):
        assert update.sharding.is_equivalent_to(sharding, 2)
        exact = np.asarray(newton_schulz(leaf))
        for shard in update.addressable_shards:
            np.testing.assert_allclose(shard.data, exact[shard.index], atol=1e-5)

# A search over the devices of both, kept by the first.
problem = with_settings(
    modular("addition", 7, width=16),
    **{"batch_size": 8, "max_steps": 30, "seeds": (0, 1), "threshold": 0.15},
)
for trials in (2, 3):
    search = Search([problem], trials=trials)
    ledger = None if process else search.ledger(Path(folder))
    found = search.run("columns", ledger, lambda name, trials: None)
    assert len(found) == trials
if not process:
    # What one device alone finds is tested on eight of them.
    assert search.ledger(Path(folder)).trials == found
# And training, reported by the first alone.
reported = []
history = train(
    problem.task,
    problem.make_model,
    RECIPES["egd"].make(problem),
    problem.settings,
    report=reported.append,
)
assert bool(reported) == (not process)
assert history.metrics["test_accuracy"].shape == (10, 2)
path = Path(folder) / f"{process}.npy"
np.save(path, history.metrics["train_loss"])
print(f"process {process}: same as on one device")
