"""What a training step costs under each optimizer and each penalty.

    python benchmarks/speed/overhead.py
    python benchmarks/speed/overhead.py --width 768 --layers 12  # GPT-2 small's tree
    python benchmarks/speed/overhead.py --quick

Full steps (forward, backward, update) of the workbench's two-layer net and transformer
on a + b mod 97, batches of 512, and the update alone of a tree of parameters shaped
like a GPT-2, whose gradient is a stand-in of normal numbers. Each optimizer trains a
model of its own; the steps take turns, warm, and the time is the median. "ratio" is
against AdamW, for the penalties against the Frobenius one, all of them in force from
the first step and before Adam. "egd: …" are parts of the egd step, of the same
gradients: the update holds the whitening, the whitening the Gram matrices and
eigendecompositions of its first pass. "compile s" is the time to lower and compile,
without the persistent cache.

Table and picture go to results/overhead.csv and overhead.png.
"""

import dataclasses
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import optax.contrib
import tyro
from rich.progress import track

from benchmarks import charts
from benchmarks.shared import check_names, report
from benchmarks.speed import _gpt2
from benchmarks.speed._steps import (
    Model,
    Training,
    gpt2,
    milliseconds,
    parts,
    workbench,
)
from egd_optax import (
    add_log_det_penalty,
    add_nuclear_norm_penalty,
    delayed_frobenius_penalty,
    egd,
    normalize_by_column_norm,
    polar_by_newton_schulz,
    polar_by_svd,
    scale_by_randomized_egd,
    switch_on_metric,
)
from egd_optax.grokking import figures
from egd_optax.grokking.problems.problem import modular

RANK = 32
QUICK = "adamw", "egd", "frobenius", "nuclear norm"


@dataclasses.dataclass(frozen=True)
class Options:
    """Times training steps."""

    width: int = 128
    """Features of a token in the tree like GPT-2's; 768 for GPT-2 small."""
    layers: int = 4
    """Blocks; 12 for GPT-2 small."""
    optimizers: tuple[str, ...] = ()
    """Names as in the table, penalties among them; none: all."""
    max_seconds: float = 60
    """What takes longer, all calls of one step together, is skipped."""
    quick: bool = False
    """The net and the tree, tiny, under few optimizers, for few steps."""
    out: Path = Path(__file__).parent / "results"
    """Folder for overhead.csv and overhead.png."""


def optimizers(model: Model) -> dict[str, optax.GradientTransformation]:
    numbers, rate = model.numbers, model.learning_rate
    by = functools.partial(egd, rate, weight_dimension_numbers=numbers)
    cheap = functools.partial(polar_by_newton_schulz, steps=5, dtype=jnp.bfloat16)
    return {
        "adamw": optax.adamw(1e-3),
        "sgd": optax.sgd(0.1),
        "muon": optax.contrib.muon(1e-2, muon_weight_dimension_numbers=numbers),
        "egd": by(),
        "egd by svd": by(polar_fn=polar_by_svd),
        "egd by newton_schulz": by(polar_fn=polar_by_newton_schulz),
        "egd by newton_schulz 5 bf16": by(polar_fn=cheap),
        f"randomized egd {RANK}": optax.chain(
            scale_by_randomized_egd(RANK, weight_dimension_numbers=numbers),
            optax.sgd(rate),
        ),
        "column norm": optax.chain(
            normalize_by_column_norm(weight_dimension_numbers=numbers), optax.sgd(rate)
        ),
    }


def penalties(model: Model) -> dict[str, optax.GradientTransformation]:
    numbers = model.numbers
    nuclear = functools.partial(
        add_nuclear_norm_penalty, 1e-3, weight_dimension_numbers=numbers
    )

    def delayed(penalty):
        switch = switch_on_metric("train_accuracy", 0.99, optax.identity(), penalty)
        return optax.chain(switch, optax.adam(1e-3))

    return {
        "frobenius": optax.chain(delayed_frobenius_penalty(1e-3), optax.adam(1e-3)),
        "nuclear norm": delayed(nuclear()),
        "nuclear norm by svd": delayed(nuclear(polar_fn=polar_by_svd)),
        "log det": delayed(
            add_log_det_penalty(1e-3, eps=1e-2, weight_dimension_numbers=numbers)
        ),
    }


def measure(model, repeats, max_seconds, names):
    """A row for each optimizer, each penalty and each part of egd."""
    against = dict.fromkeys(chosen := optimizers(model), "adamw")
    if not model.update_only:
        chosen |= (added := penalties(model))
        against |= dict.fromkeys(added, "frobenius")
    chosen = {name: tx for name, tx in chosen.items() if name in names or not names}
    steps = {
        name: Training(model, tx)
        for name, tx in track(chosen.items(), f"compiling {model.name}", transient=True)
    }
    for name, part in parts(model, steps["egd"]).items() if "egd" in steps else ():
        if model.update_only and name == "forward and backward":
            continue
        steps[f"egd: {name}"] = part
        against[f"egd: {name}"] = "egd"
    times = milliseconds(steps, model.batches, repeats, max_seconds)
    for name, step in steps.items():
        ms, base = times.get(name), times.get(against[name])
        yield {
            "model": model.name,
            "step": name,
            "ms": f"{ms:.3g}" if ms else "skipped",
            "steps/s": f"{1e3 / ms:.3g}" if ms else "",
            "ratio": f"{ms / base:.2f}" if ms and base else "",
            "to": against[name],
            "compile s": f"{step.compile_seconds:.2f}",
        }


def too_large(width, layers):
    """Whether the machine lacks room for the states of all optimizers of the tree."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # Some 18 copies stay, of parameters and of momenta; a step makes four more.
    return 22 * 4 * _gpt2.size(width, layers) > memory


def known_names() -> list[str]:
    """Of all optimizers and penalties."""
    model = gpt2(8, 1)
    return [*optimizers(model), *penalties(model)]


def main(options: Options) -> None:
    check_names("overhead", "optimizer", options.optimizers, known_names())
    # A program from the cache would take no time.
    jax.config.update("jax_enable_compilation_cache", False)
    modulus, size, repeats = 97, None, 40
    width, layers, names = options.width, options.layers, options.optimizers
    if options.quick:
        names = QUICK
        modulus, size, repeats, width, layers = 37, 16, 2, 8, 2
    models = [workbench("mlp", modular("addition", modulus, width=size))]
    if not options.quick:
        problem = modular("addition", modulus, model="transformer")
        models.append(workbench("transformer", problem))
    if too_large(width, layers):
        print(f"overhead: {layers} layers of {width} skipped: too little memory")
    else:
        models.append(gpt2(width, layers))
    rows = [
        row
        for model in models
        for row in measure(model, repeats, options.max_seconds, names)
    ]
    note = f"medians of {repeats} steps, mod {modulus}"
    report(rows, options.out / "overhead.csv", quick=options.quick, note=note)
    groups = {
        model.name: {
            row["step"]: float(row["ratio"])
            for row in rows
            if row["model"] == model.name and row["to"] == "adamw" and row["ratio"]
        }
        for model in models
    }
    picture = charts.bars(
        groups, y_label="time of a step, AdamW = 1", title="", bottom=0.1
    )
    name = "overhead-quick.png" if options.quick else "overhead.png"
    figures.save(picture, options.out / name)


if __name__ == "__main__":
    main(tyro.cli(Options))
