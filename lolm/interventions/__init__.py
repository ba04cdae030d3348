"""What can be done to a trained model: at the seam between its streams and their fusion, and inside its stacks.

A new intervention is one function: say what becomes of the gate (:func:`change_gate`), of a branch (:func:`change_branch`), of
memory or regime (:func:`change_stream`), of what mixers and MLPs write (:func:`replace_writes`), or of any other of a model's
:func:`sites` (:func:`change_site`); join several with ``|``. :func:`lolm.laboratory.scoring.score_interventions` measures any
list of them; to have it in every record, add one line to :mod:`lolm.interventions.catalogue`. For example, the latent branch
with each vector's dimensions in reverse, at the strength it had::

    def reverse_latent() -> Intervention:
        # v := v with its dimensions in reverse order: keeps every value, loses which dimension it belongs to
        return change_branch("latent", "latent_reversed", lambda v, _: v.flip(-1))

    score_interventions(model, [Intervention("none"), reverse_latent() | match_norm()], held_out, batch_size)
"""

from lolm.interventions.branches import branch_alone, change_branch, match_norm, replace_branch, resample_source, stream_effect
from lolm.interventions.catalogue import full_set, standard_set
from lolm.interventions.context import EMPTY, Context, seeded
from lolm.interventions.core import Intervention, KnownTerms, change_site, compose, inside, intervene, streams_under
from lolm.interventions.dimensions import contribution, dimension_set, random_group, ranked, remove_dimensions
from lolm.interventions.errors import InterventionError
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
from lolm.interventions.residual_writes import replace_writes
from lolm.interventions.sites import HasSites, SiteInfo, fusion_of, inner_sites, sites, type_of, writes
from lolm.interventions.statistics import (
    Statistics,
    StreamMeans,
    measure,
    measure_writes,
    observe,
    observe_writes,
    other_documents,
)

__all__ = [
    "EMPTY",
    "Context",
    "HasSites",
    "Intervention",
    "InterventionError",
    "KnownTerms",
    "SiteInfo",
    "Statistics",
    "StreamMeans",
    "binarise_gate",
    "branch_alone",
    "blend_gate",
    "change_branch",
    "change_gate",
    "change_site",
    "change_stream",
    "compose",
    "contribution",
    "dimension_set",
    "force_gate",
    "freeze_gate_globally",
    "freeze_gate_per_dimension",
    "full_set",
    "fusion_of",
    "inner_sites",
    "inside",
    "intervene",
    "match_norm",
    "measure",
    "measure_writes",
    "observe",
    "observe_writes",
    "other_documents",
    "permute_gate_dimensions",
    "permute_stream",
    "random_group",
    "random_halves",
    "ranked",
    "remove_dimensions",
    "remove_stream",
    "replace_branch",
    "replace_writes",
    "resample_source",
    "seeded",
    "shuffle_gate_positions",
    "sites",
    "skip_last_blocks",
    "split_set",
    "standard_set",
    "stream_effect",
    "streams_under",
    "swap_gate",
    "type_of",
    "writes",
]
