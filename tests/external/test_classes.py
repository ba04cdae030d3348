"""Every class that is described writes into the residual stream where it is said to, and nowhere else."""

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from tiny import CASES, V, make, make_native

from lolm.external.classes import KINDS, LAYERS
from lolm.external.model import ExternalError, ExternalModel
from lolm.interventions.sites import TYPES

TOKENS = torch.randint(3, V, (2, 19), generator=torch.Generator().manual_seed(1))


class Streams:
    """The residual stream before and after each layer of one forward pass."""

    def __init__(self, model: ExternalModel) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.handles = [layer.register_forward_hook(self._note, with_kwargs=True) for layer in model.model.base_model.layers]

    def _note(self, module, args, kwargs, output):
        before = args[0] if args else kwargs["hidden_states"]
        self.seen.append((before, output[0] if isinstance(output, tuple) else output))

    def of(self, model: ExternalModel) -> list[tuple[torch.Tensor, torch.Tensor]]:
        self.seen.clear()
        model(TOKENS)
        return list(self.seen)

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def by_layer(model: ExternalModel) -> list[list[str]]:
    layers: dict[int, list[str]] = {}
    for name in model.sites():
        layers.setdefault(int(name.split(".")[1]), []).append(name)
    return list(layers.values())


@pytest.mark.parametrize("case", CASES)
def test_kinds_and_counts_are_as_the_configuration_says(case):
    model = make(case)
    kinds = [" ".join(model.sites()[name].kind for name in names) for names in by_layer(model)]
    assert kinds == CASES[case][2]
    assert set(" ".join(kinds).split()) <= {kind for kinds in TYPES.values() for kind in kinds}
    assert all(count > 0 for count in model.site_params().values())
    assert list(model.site_params()) == list(model.sites())


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_untouched_it_is_the_librarys_own_to_the_bit(case):
    assert torch.equal(make(case)(TOKENS), make_native(case)(TOKENS, use_cache=False).logits)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_a_layer_without_its_writes_is_the_identity_on_the_residual_stream(case):
    model, intact = make(case), make(case)(TOKENS)
    streams = Streams(model)
    try:
        before = streams.of(model)
        for layer, names in enumerate(by_layer(model)):
            assert not torch.equal(*before[layer]), "with its writes a layer changes the stream"
            for name in names:
                model.sites()[name].change = torch.zeros_like
            changed = streams.of(model)
            assert torch.equal(*changed[layer])
            assert torch.equal(changed[layer][0], before[layer][0])
            for name in names:
                model.sites()[name].change = None
    finally:
        streams.close()
        for site in model.sites().values():
            site.change = None
    assert torch.equal(model(TOKENS), intact)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_what_passes_a_site_is_what_is_added(case):
    """A constant put in the place of a layer's last write moves the layer's output by constant − write, multipliers included."""
    model = make(case)
    streams = Streams(model)
    sites = model.sites()
    try:
        before = streams.of(model)
        for layer, names in enumerate(by_layer(model)):
            site, written = sites[names[-1]], []
            site.change = lambda x, written=written: (written.append(x), x + 1.5)[1]
            after = streams.of(model)
            site.change = None
            assert written[0].shape == before[layer][1].shape
            torch.testing.assert_close(after[layer][1] - before[layer][1], torch.full_like(written[0], 1.5), rtol=1e-4, atol=1e-4)
    finally:
        streams.close()
        for site in sites.values():
            site.change = None


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_each_site_reaches_the_logits(case):
    model = make(case)
    intact = model(TOKENS)
    for name, site in model.sites().items():
        site.change = torch.zeros_like
        changed = model(TOKENS)
        site.change = None
        assert not torch.equal(changed, intact), name


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_the_librarys_fallback_is_causal(case):
    model = make(case)
    torch.testing.assert_close(model(TOKENS)[:, :11], model(TOKENS[:, :11]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_shared_block_of_zamba2_counts_where_it_acts_and_is_mute_without_the_mixer_behind_it():
    model = make("zamba2")
    params, sites = model.site_params(), model.sites()
    layer = model.model.model.layers[1]
    shared = sum(p.numel() for p in layer.shared_transformer.parameters())
    assert params["stack.1.attention"] == params["stack.3.attention"] == shared + layer.linear.weight.numel()
    assert "mute" in model.caveats[0]
    for name, site in sites.items():
        site.change = torch.zeros_like if name.endswith("mixer") else None
    without_mixers = model(TOKENS)
    for name in ("stack.1.attention", "stack.3.attention"):
        sites[name].change = torch.zeros_like
    both = model(TOKENS)
    for site in sites.values():
        site.change = None
    assert torch.equal(without_mixers, both)


def test_tables_hold_no_class_that_no_case_has():
    layers, owners = set(), set()
    for case in CASES:
        model = make(case)
        layers |= {type(layer).__name__ for layer in model.model.base_model.layers}
        owners |= {type(found[0]).__name__ for found in model._owners.values()}
    assert layers == set(LAYERS)
    assert owners == set(KINDS)


def test_what_is_not_described_is_refused_by_name():
    class Odd(nn.Module):
        pass

    model = make_native("llama")
    model.model.layers[1] = Odd()
    with pytest.raises(ExternalError, match="layers of class Odd are not described; add it to lolm/external/classes.py"):
        ExternalModel(model)
    model = make_native("llama")
    model.model.layers[1].mlp = Odd()
    with pytest.raises(ExternalError, match=r"stack\.1\.mlp: a Odd is of no kind"):
        ExternalModel(model)
    model = make_native("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with pytest.raises(ExternalError, match="serves more than one layer"):
        ExternalModel(model)
    model = make_native("granite")
    model.model.layers[0].residual_multiplier = 0
    with pytest.raises(ExternalError, match="residual_multiplier is 0"):
        ExternalModel(model)
