"""What the full set holds for each kind of model."""

import pytest
import torch
from builders import make_model
from known_models import context_of, fused

from lolm.interventions import EMPTY, InterventionError, full_set, standard_set


@torch.no_grad()
@pytest.mark.parametrize("arm", ["lolm", "lolm_published", "lolm_v0", "lolm_concat", "lolm_sum", "lolm_no_latent", "transformer"])
def test_every_intervention_of_the_set_can_be_carried_out(arm):
    model = make_model(arm)
    context = context_of(model)
    chosen = full_set(model, context, gate_values=[0.0, 1.0], shares=[0.25], draws=1)
    assert chosen[0].name == "none"
    rows = [(i.name, i.value) for i in chosen]
    assert len(set(rows)) == len(rows)
    standard = [(i.name, i.value) for i in standard_set(model, [0.0, 1.0], context.measured().streams)]
    assert rows[: len(standard)] == standard
    for intervention in chosen:
        if not intervention.skip_last:
            assert fused(model, intervention, context).isfinite().all(), intervention.label


def test_lolm_has_every_control_and_a_model_without_a_part_none_for_it():
    model = make_model("lolm")
    names = {i.name for i in full_set(model, context_of(model))}
    assert names >= {
        "gate_mean_dimension", "gate_mean_global", "gate_shuffled_positions", "gate_permuted_dimensions", "gate_binarised",
        "gate_swapped", "surface_zero", "latent_gaussian", "surface_total_mean", "surface_indirect_zero", "latent_alone",
        "surface_into_latent_resample", "latent_total_mean", "surface_alone+gate_mean_dimension", "latent_source_resample",
        "memory_permuted", "regime_permuted", "latent_dimensions_random_1", "surface_dimensions_highest_gate_norm_0",
    }  # fmt: skip
    assert not any("match_norm" in name for name in names)  # its head has a norm, which is scale-free
    published = make_model("lolm_published")
    names = {i.name for i in full_set(published, context_of(published))}
    assert names >= {"gate+match_norm", "surface_zero+match_norm", "latent_resample+match_norm"}
    parallel = make_model("lolm_parallel")
    assert not any("into_latent" in i.name for i in full_set(parallel, context_of(parallel)))
    small = make_model("lolm", gate={"form": "none"}, memory={"enabled": False})
    names = {i.name for i in full_set(small, context_of(small))}
    assert "latent_mean" in names
    assert not any("gate" in name or "memory" in name for name in names)
    alone = make_model("lolm_no_latent")
    assert not any("latent" in i.name or "surface" in i.name for i in full_set(alone, context_of(alone)))


def test_a_plain_stack_needs_no_statistics_and_a_lolm_does():
    decoder = make_model("transformer")
    assert [i.skip_last for i in full_set(decoder, EMPTY)] == [0, 1, 2, 3, 4]
    with pytest.raises(InterventionError, match="needs statistics"):
        full_set(make_model("lolm"), EMPTY)
