"""How the recipes' settings were chosen: on tasks that no result is reported on.

    python benchmarks/development.py          # about 8 minutes on two cores
    python benchmarks/development.py --quick  # two settings, few steps

Every setting runs with one seed; the score is the step at which accuracy on held-out
pairs first reaches 95 %. No reported task or split is touched: the moduli are others.
The table goes to benchmarks/results/development.csv.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import optax
import tyro
from _output import report
from rich.console import Console

import egd_optax
from egd_optax.grokking.models import TwoLayerNet
from egd_optax.grokking.tasks import modular_arithmetic
from egd_optax.grokking.training import Settings, train

BASELINE_TASKS = (("addition", 83),)
EGD_TASKS = (("addition", 83), ("subtraction", 101), ("multiplication", 131))


@dataclasses.dataclass(frozen=True)
class Options:
    """Sweeps the settings of the recipes on development tasks."""

    quick: bool = False
    """Only the first setting of each method, for a few steps."""
    out: Path = Path(__file__).parent / "results"
    """Folder for development.csv."""


def adam(learning_rate):
    return optax.adam(learning_rate, b1=0.9, b2=0.98)


def settings() -> Iterator[tuple[str, str, optax.GradientTransformation]]:
    """Method, setting and optimizer."""
    for momentum, rate, decay in (
        (0.5, 0.7, 0.07),
        (0.5, 0.85, 0.07),
        (0.5, 1.0, 0.07),
        (0.5, 1.0, 0.05),
        (0.6, 0.8, 0.08),
        (0.6, 0.9, 0.07),
        (0.6, 1.0, 0.07),
        (0.7, 0.7, 0.07),
        (0.7, 0.7, 0.1),
        (0.7, 0.85, 0.07),
        (0.9, 0.85, 0.07),
        (0.0, 0.85, 0.07),
    ):
        tx = egd_optax.egd(rate, momentum=momentum, weight_decay=decay)
        yield "egd", f"momentum {momentum}, rate {rate}, decay {decay}", tx
    for rate in (0.001, 0.01, 0.03, 0.05, 0.1):
        for decay in (0.3, 1.0, 2.0):
            tx = optax.adamw(rate, b1=0.9, b2=0.98, weight_decay=decay)
            yield "adamw", f"rate {rate}, decay {decay}", tx
    for rate, decay in (
        (0.001, 0.005),  # as published
        (0.01, 0.001),
        (0.03, 0.001),
        (0.03, 0.002),
        (0.05, 0.001),
        (0.05, 0.002),
        (0.05, 0.004),
    ):
        tx = optax.chain(
            egd_optax.grokfast_ema(), optax.add_decayed_weights(decay), adam(rate)
        )
        yield "grokfast-ema", f"rate {rate}, decay {decay}", tx
    for rate, strength in (
        (0.001, 0.01),  # as published
        (0.01, 3e-4),
        (0.03, 1e-4),
        (0.05, 1e-4),
        (0.05, 3e-4),
        (0.1, 1e-4),
    ):
        tx = optax.chain(egd_optax.delayed_frobenius_penalty(strength), adam(rate))
        yield "delayed-frobenius", f"rate {rate}, strength {strength}", tx


def run(operation, modulus, optimizer, max_steps):
    task = modular_arithmetic(operation, modulus)
    return train(
        task,
        lambda rngs: TwoLayerNet(2 * modulus, modulus, rngs=rngs),
        optimizer,
        Settings(seeds=(7,), max_steps=max_steps, patience=10),
    )


def main(options: Options) -> None:
    console = Console()
    rows = []
    seen: set[str] = set()
    for method, setting, optimizer in settings():
        if options.quick and method in seen:
            continue
        seen.add(method)
        tasks = EGD_TASKS if method == "egd" else BASELINE_TASKS
        # egd needs some 50 to 130 steps, the others several times as many.
        budget = 60 if options.quick else 180 if method == "egd" else 1000
        for operation, modulus in tasks[: 1 if options.quick else None]:
            history = run(operation, modulus, optimizer, budget)
            row = {
                "method": method,
                "setting": setting,
                "task": f"{operation} mod {modulus}",
                "steps_to_95": history.first_crossing().median,
                "final_accuracy": round(float(history.final()[0]), 4),
                "final_train_accuracy": round(
                    float(history.final("train_accuracy")[0]), 4
                ),
            }
            rows.append(row)
            console.print(*row.values(), sep="  ")
    note = "one seed a setting"
    report(rows, options.out / "development.csv", quick=options.quick, note=note)


if __name__ == "__main__":
    main(tyro.cli(Options))
