"""What the command line takes."""

import abc
import dataclasses
from pathlib import Path

import tyro

from egd_optax.grokking.problems.problem import Model


@dataclasses.dataclass(frozen=True)
class Experiment(abc.ABC):
    """What all commands take. What is None takes the task's own setting."""

    task: tyro.conf.Positional[str]
    """What is to be learned: an operation mod p (addition, subtraction, multiplication,
    division, division-by-odd, squares, quadratic, quadratic-linear, cubic,
    cubic-linear), one on a group, one from a table, parity, or mnist."""
    modulus: int = 97
    """p of a ∘ b mod p; a prime for division."""
    group: str = "S5"
    """Of the task group: C97, D48, S5, A5 and the like, or a .csv or .npy file with its
    multiplication table."""
    word: str = "xy"
    """What is asked of two elements of a group: xy, xyx, or xyx^-1."""
    table: Path | None = None
    """Of the task table: a .csv or .npy file with a ∘ b in row a and column b, from 0
    on; below 0 where there is none."""
    model: Model = "mlp"
    """Of operations: the two-layer net, a transformer of two blocks, or one of a single
    block without LayerNorm."""
    bits: int = 100
    """Number of bits of a parity's input."""
    subset_size: int = 3
    """Number of bits of which the parity is taken."""
    secret_seed: int | None = None
    """Draws these bits at random; None: the first ones."""
    width: int | None = None
    """Units of each hidden layer; features of the transformer."""
    seeds: int = 3
    """Number of seeds; each moves initialization, split and order of batches."""
    max_steps: int | None = None
    """Budget of updates for each optimizer and seed."""
    batch_size: int | None = None
    """Examples a step."""
    full_batch: bool = False
    """All training examples in each step."""
    corrupted_labels: float = 0.0
    """Share of the training examples whose labels are wrong, from 0 to 1."""
    label_noise: float = 0.0
    """Probability that a label is a wrong one, drawn anew in each step."""
    train_fraction: float | None = None
    """Share of all examples that is trained on."""
    threshold: float | None = None
    """Accuracy on held-out examples that counts as generalization."""
    epochs_per_evaluation: int = 1
    """Epochs between two evaluations."""
    out: Path = Path("runs/latest")
    """Folder for all that the command leaves."""
    keep_compiled: bool = True
    """Keeps compiled programs in the cache folder: the next run starts sooner."""
    distributed: bool = False
    """One of several processes that share the work, as SLURM, Open MPI, Kubernetes or a
    TPU pod starts them; the first one reports and writes."""

    @abc.abstractmethod
    def recipes(self) -> tuple[str, ...] | None:
        """Names of the optimizers; None leaves the choice to the task."""


@dataclasses.dataclass(frozen=True)
class Training(Experiment):
    """What the commands take that train; history.jsonl, summary.csv, config.json,
    race.png and report.html are what they leave.
    """

    patience: int = 20
    """A seed stops after this many evaluations in a row at the threshold or above."""
    track: tuple[str, ...] = ()
    """Writers besides history.jsonl: tensorboard, wandb (offline)."""
    measures: tuple[str, ...] = ()
    """Evaluated beside accuracy: weight-norm, distance, effective-rank,
    condition-number, alignment, dead-units, fourier-share, fourier-components,
    fourier-share-of-units, answer-share, logit-components, restricted-loss,
    excluded-loss, key-share."""


@dataclasses.dataclass(frozen=True)
class Race(Training):
    """Trains the same model with several optimizers and shows who generalizes first."""

    optimizers: tuple[str, ...] | None = None
    """Names of recipes; None: a choice of those that serve the task."""
    settings: Path | None = None
    """File of settings that `egd-grok tune` found, best.json; its optimizers are run
    unless --optimizers names others."""

    def recipes(self) -> tuple[str, ...] | None:
        return self.optimizers


@dataclasses.dataclass(frozen=True)
class Tune(Experiment):
    """Searches the settings of several optimizers, on equal terms: each gets the same
    trials, judged by held-out examples. Leaves trials.csv, best.json, tune.png and a
    table; started again with the same --out it goes on where it stopped.
    """

    out: Path = Path("runs/tune")
    """Folder for all that the command leaves."""
    optimizers: tuple[str, ...] | None = None
    """Names of recipes that have settings to search; None: a choice of them."""
    trials: int = 64
    """Trials of each optimizer, spread over its whole space."""
    refined: int = 0
    """Further trials of each, near the best of those."""
    draw: int = 0
    """Seed of the settings that are tried."""
    validation_fraction: float = 0.2
    """Share of the training examples that is held out to judge by; 0 judges by the test
    examples, which is for problems that no result is reported on."""

    def recipes(self) -> tuple[str, ...] | None:
        return self.optimizers


@dataclasses.dataclass(frozen=True)
class Phase(Experiment):
    """Shows over two axes where a method generalizes at once, late, or never. Leaves
    cells.csv, phase.png and a table; started again with the same --out it goes on where
    it stopped.
    """

    out: Path = Path("runs/phase")
    """Folder for all that the command leaves."""
    optimizers: tuple[str, ...] = ("adamw", "egd")
    """Names of recipes, each with a map of its own on the same grid."""
    x: tuple[str, ...] = ("train-fraction", "0.2", "0.8", "7")
    """First axis: train-fraction, corrupted-labels, label-noise, learning-rate,
    weight-decay, width or modulus; its least and greatest value, and how many."""
    y: tuple[str, ...] = ("weight-decay", "0.01", "10", "7")
    """Second axis."""
    gap: int | None = None
    """Steps from memorization to generalization from which on it is grokking; None: a
    tenth of the budget."""

    def recipes(self) -> tuple[str, ...] | None:
        return self.optimizers


@dataclasses.dataclass(frozen=True)
class Train(Training):
    """Trains with one optimizer."""

    optimizer: str = "egd"
    """Name of a recipe."""
    checkpoint_every: int | None = None
    """Updates from one checkpoint to the next, in checkpoints/ of the output folder."""
    resume: bool = False
    """Goes on from the checkpoint, where there is one."""

    def recipes(self) -> tuple[str, ...] | None:
        return (self.optimizer,)


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes one page, for a browser, of runs that race or train left: several side by
    side.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs."""
    out: Path = Path("report.html")
    """Where the page goes."""
