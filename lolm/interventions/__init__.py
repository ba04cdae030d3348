"""What can be done to a trained model, at the seam between its streams and their fusion.

A new intervention is one function: say what becomes of the gate (:func:`change_gate`), of a branch (:func:`change_branch`), of
memory or regime (:func:`change_stream`), or build an :class:`Intervention` of the places it acts in; join several with ``|``.
:func:`lolm.laboratory.scoring.score_interventions` measures any list of them; to have it in every record, add it to
:func:`full_set`. For example, the latent branch with each vector's dimensions in reverse, at the strength it had::

    def reverse_latent() -> Intervention:
        # v := v with its dimensions in reverse order: keeps every value, loses which dimension it belongs to
        return change_branch("latent", "latent_reversed", lambda v, _: v.flip(-1))

    score_interventions(model, [Intervention("none"), reverse_latent() | match_norm()], held_out, batch_size)
"""

from lolm.interventions.branches import change_branch, match_norm, replace_branch, resample_source
from lolm.interventions.catalogue import full_set, standard_set
from lolm.interventions.core import EMPTY, Context, Intervention, InterventionError, compose, intervene, seeded
from lolm.interventions.dimensions import contribution, dimension_set, random_group, ranked, remove_dimensions
from lolm.interventions.gate import (
    binarise_gate,
    blend_gate,
    change_gate,
    force_gate,
    freeze_gate_globally,
    freeze_gate_per_dimension,
    permute_gate_dimensions,
    shuffle_gate_positions,
    swap_gate,
)
from lolm.interventions.memory_and_regime import change_stream, permute_stream, remove_stream, skip_last_blocks
from lolm.interventions.random_halves import random_halves, split_set
from lolm.interventions.statistics import Statistics, StreamMeans, fusion_of, measure, observe

__all__ = [
    "EMPTY",
    "Context",
    "Intervention",
    "InterventionError",
    "Statistics",
    "StreamMeans",
    "binarise_gate",
    "blend_gate",
    "change_branch",
    "change_gate",
    "change_stream",
    "compose",
    "contribution",
    "dimension_set",
    "force_gate",
    "freeze_gate_globally",
    "freeze_gate_per_dimension",
    "full_set",
    "fusion_of",
    "intervene",
    "match_norm",
    "measure",
    "observe",
    "permute_gate_dimensions",
    "permute_stream",
    "random_group",
    "random_halves",
    "ranked",
    "remove_dimensions",
    "remove_stream",
    "replace_branch",
    "resample_source",
    "seeded",
    "shuffle_gate_positions",
    "skip_last_blocks",
    "split_set",
    "standard_set",
    "swap_gate",
]
