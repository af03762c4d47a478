"""Optax gradient transformations that remove the grokking plateau."""

from egd_optax.arguments import ArgumentError
from egd_optax.leaves.equinox_layouts import equinox_dimension_numbers
from egd_optax.leaves.flax_layouts import flax_dimension_numbers
from egd_optax.leaves.fused import FusedAxis
from egd_optax.leaves.haiku_layouts import haiku_dimension_numbers
from egd_optax.leaves.table import tabulate_matrices
from egd_optax.polar.eigh import polar_by_eigh
from egd_optax.polar.newton_schulz import polar_by_newton_schulz
from egd_optax.polar.platform import polar_factor
from egd_optax.polar.randomized import polar_by_randomized_svd
from egd_optax.polar.svd import polar_by_svd
from egd_optax.spectrum import condition_numbers, effective_ranks, singular_values
from egd_optax.transforms.column_norm import normalize_by_column_norm, unit_columns
from egd_optax.transforms.egalitarian import ScaleByEGDState, scale_by_egd
from egd_optax.transforms.egd import egd
from egd_optax.transforms.frobenius import (
    add_frobenius_penalty,
    delayed_frobenius_penalty,
)
from egd_optax.transforms.grokfast import (
    GrokfastEMAState,
    GrokfastMAState,
    grokfast_ema,
    grokfast_ma,
)
from egd_optax.transforms.log_det import add_log_det_penalty
from egd_optax.transforms.nuclear_norm import add_nuclear_norm_penalty
from egd_optax.transforms.orthogonal_gradient import orthogonal_gradient
from egd_optax.transforms.penalties import WeightPenaltyState
from egd_optax.transforms.randomized import (
    ScaleByRandomizedEGDState,
    scale_by_randomized_egd,
)
from egd_optax.transforms.row_norms import clip_weight_row_norms
from egd_optax.transforms.schedules import delayed_onset, inverse_time_decay
from egd_optax.transforms.switching import SwitchOnMetricState, switch_on_metric
from egd_optax.transforms.vanished_gradients import (
    ApplyUnlessVanishedState,
    apply_unless_vanished,
)

__version__ = "0.1.0"

__all__ = [
    "ApplyUnlessVanishedState",
    "ArgumentError",
    "FusedAxis",
    "GrokfastEMAState",
    "GrokfastMAState",
    "ScaleByEGDState",
    "ScaleByRandomizedEGDState",
    "SwitchOnMetricState",
    "WeightPenaltyState",
    "add_frobenius_penalty",
    "add_log_det_penalty",
    "add_nuclear_norm_penalty",
    "apply_unless_vanished",
    "clip_weight_row_norms",
    "condition_numbers",
    "delayed_frobenius_penalty",
    "delayed_onset",
    "effective_ranks",
    "egd",
    "equinox_dimension_numbers",
    "flax_dimension_numbers",
    "grokfast_ema",
    "grokfast_ma",
    "haiku_dimension_numbers",
    "inverse_time_decay",
    "normalize_by_column_norm",
    "orthogonal_gradient",
    "polar_by_eigh",
    "polar_by_newton_schulz",
    "polar_by_randomized_svd",
    "polar_by_svd",
    "polar_factor",
    "scale_by_egd",
    "scale_by_randomized_egd",
    "singular_values",
    "switch_on_metric",
    "tabulate_matrices",
    "unit_columns",
]
