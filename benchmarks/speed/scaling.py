"""One update of a GPT-2's matrices on 1, 2, 4 and 8 devices: work split and traffic.

    python benchmarks/speed/scaling.py  # two minutes on two cores
    python benchmarks/speed/scaling.py --width 768 --layers 12  # GPT-2 small
    python benchmarks/speed/scaling.py --quick

scale_by_egd whitens the matrices of all blocks, which come and go in the given layout:
their rows split over the devices, or copies on all. "largest share" is how many
matrices of each shape a device whitens at most, "efficiency" the share that an ideal
split of the work would give it, by the one it has; a matrix counts m² n, m its smaller
side. Reshards are the collectives of the compiled program, "inside" those within a
whitening, and MB what they leave on each device. The table goes to
results/scaling.csv.

Each number of devices has a process of its own. Where there are too few devices, CPU
devices are forced: these share the cores, so that milliseconds are no evidence there;
the split of the work is.
"""

import dataclasses
import math
import statistics
import time
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.progress import track

from benchmarks.shared import report
from benchmarks.speed._collectives import collectives
from benchmarks.speed._devices import forced, in_a_process, leave_memory
from benchmarks.speed._gpt2 import block
from egd_optax import polar_by_eigh, scale_by_egd

COUNTS = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Options:
    """Whitens the matrices of a GPT-2 on several numbers of devices."""

    width: int = 64
    """Features of a token; 768 for GPT-2 small."""
    layers: int = 24
    """Blocks; 12 for GPT-2 small."""
    layout: Literal["rows", "copies"] = "rows"
    """How the gradients lie on the devices."""
    quick: bool = False
    """Tiny matrices, 1 and 8 devices."""
    out: Path = Path(__file__).parent / "results"
    """Folder for scaling.csv."""


def gradients(width, layers):
    rng = np.random.default_rng(0)
    return [
        {
            name: rng.normal(size=shape).astype(np.float32)
            for name, shape in block(width).items()
        }
        for _ in range(layers)
    ]


def measure(width, layers, layout, repeats):
    devices = len(jax.devices())
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    spec = P("data") if layout == "rows" else P()
    grads = jax.device_put(gradients(width, layers), NamedSharding(mesh, spec))
    shares = []

    def recorded(stack):
        shares.append(stack.shape)
        return polar_by_eigh(stack)

    tx = scale_by_egd(recorded)
    update = jax.jit(lambda grads: tx.update(grads, tx.init(grads))[0])
    compiled = update.lower(grads).compile()
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(compiled(grads))
        times.append(1e3 * (time.perf_counter() - start))
    work = [share * min(m, n) * m * n for share, m, n in shares]
    whole = sum(min(x.shape) * math.prod(x.shape) for x in jax.tree.leaves(grads))
    sent = collectives(compiled)
    return {
        "devices": devices,
        "stacks": " ".join(str(layers) for _ in shares),
        "largest share": " ".join(str(share) for share, *_ in shares),
        "efficiency": f"{100 * whole / devices / sum(work):.0f} %",
        "reshards": sum(not one.inside for one in sent),
        "inside": sum(one.inside for one in sent),
        "MB": f"{sum(one.bytes for one in sent) / 1e6:.2f}",
        "ms": f"{statistics.median(times[1:]):.1f}",
    }


def main(options: Options) -> None:
    leave_memory()
    width, layers, counts = options.width, options.layers, COUNTS
    if options.quick:
        width, layers, counts = 8, 3, (1, 8)
    arguments = width, layers, options.layout, 2 if options.quick else 10
    rows = [
        in_a_process(n, "scaling", "measure", arguments)
        for n in track(counts, transient=True)
    ]
    note = f"width {width}, {layers} layers, {options.layout}"
    if any(forced(n) for n in counts):
        note += "; forced CPU devices share the cores: ms is no evidence"
    report(rows, options.out / "scaling.csv", quick=options.quick, note=note)


if __name__ == "__main__":
    main(tyro.cli(Options))
