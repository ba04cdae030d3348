"""The size that a dial must have, against a search through all of them."""

import sys
from dataclasses import replace

import pytest
from builders import PARAMS, change, make_run

from lolm.accounting.count import account_run
from lolm.accounting.matching import closest, default_dial, full_name, quantity, turn
from lolm.accounting.resolve import resolve_run
from lolm.config import BlockConfig, ConfigError, LatentSize, MixerConfig, StackConfig

SMALL = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 24}


def stack(mixer: str, mlp: str = "none", experts: int = 0, **options) -> StackConfig:
    return StackConfig({"layer": BlockConfig(MixerConfig(mixer, options), mlp, "rmsnorm", experts=experts)}, ("layer",))


def arm(mixer: str, mlp: str = "none", experts: int = 0, **options):
    return make_run("transformer_modern", size=SMALL, surface=stack(mixer, mlp, experts, **options))


def matching(*args, **options) -> tuple[int, float]:
    """Value of the dial and what mismatch it leaves."""
    found = closest(*args, **options)
    return found.value, found.mismatch


@pytest.mark.parametrize("of", ["parameters", "flops"])
@pytest.mark.parametrize("name", ["transformer", "transformer_modern"])
def test_the_mlp_width_is_the_best_there_is(name, of):
    run = resolve_run(PARAMS, "tiny", name, 1)
    for width in (1, 333):
        assert matching(run, quantity(change(run, size={"d_ff": width}), of), of) == (width, 0.0)
    target = quantity(resolve_run(PARAMS, "tiny", "lolm", 1), of)
    width, mismatch = matching(run, target, of, "d_ff")
    assert quantity(turn(run, "d_ff", width), of) / target - 1 == mismatch
    for other in (width - 1, width + 1):
        assert abs(quantity(turn(run, "d_ff", other), of) / target - 1) >= abs(mismatch)


@pytest.mark.parametrize(
    ("run", "dial", "step"),
    [
        (arm("mamba1"), "mixers.mamba1.d_inner", 1),
        (arm("mamba2", head_width=8), "mixers.mamba2.d_inner", 8),
        (arm("rglru"), "mixers.rglru.width", 2),  # divisible by its blocks, as many as heads
        (arm("hymba"), "mixers.hymba.d_inner", 4),  # an even width for each of two heads
        (arm("attention"), "n_layers", 1),
        (arm("attention", "swiglu"), "d_ff", 1),
    ],
)
def test_the_default_dial_and_the_multiples_it_goes_by(run, dial, step):
    assert default_dial(run) == dial
    for multiple in (1, 3, 11):
        value = multiple * step
        budget = quantity(turn(run, dial, value), "parameters")
        assert matching(run, budget) == (value, 0.0)
        found, mismatch = matching(run, budget + 1)  # between two sizes the nearer one
        assert found == value
        assert mismatch == pytest.approx(-1 / (budget + 1))


@pytest.mark.parametrize(("dial", "values"), [("d_model", (4, 20, 64)), ("n_layers", (1, 5)), ("latent.layers", (1, 4))])
def test_other_dials(dial, values):
    run = make_run("lolm", size={"latent": LatentSize(2, 4)} | SMALL)
    for value in values:
        assert matching(run, quantity(turn(run, dial, value), "parameters"), dial=dial) == (value, 0.0)


def test_active_parameters_and_all_of_them_are_different_budgets():
    run = arm("attention", "swiglu", experts=8)
    budget = account_run(run).parameters.active
    assert matching(run, budget, "active") == (24, 0.0)
    assert matching(run, budget, "parameters")[0] < 24


def test_an_option_alone_names_the_only_mixer_that_takes_it():
    assert full_name(arm("mamba1"), "d_inner") == "mixers.mamba1.d_inner"
    both = StackConfig(stack("mamba1").blocks | {"other": stack("mamba2").blocks["layer"]}, ("layer", "other"))
    with pytest.raises(ConfigError, match="'d_inner'.*no such size; did you mean 'mixers.mamba"):
        full_name(make_run("transformer_modern", size=SMALL, surface=both), "d_inner")


@pytest.mark.parametrize(
    "dial",
    ["d_fff", "mixers.mamba1.d_inner", "mixers.attention.windows", "latent.layers", "mixers", "latent"]
    + ["dropout", "learning_rate", "mixers.attention.rope", "rope_base", "out_bias"],  # no whole numbers
)
def test_an_unknown_dial_is_an_error(dial):
    with pytest.raises(ConfigError, match=f"dial '{dial}': arm 'transformer_modern' has no such size"):
        matching(arm("attention"), 10**6, dial=dial)


def test_a_dial_that_changes_nothing_is_an_error():
    with pytest.raises(ConfigError, match="d_ff does not change the parameters of arm 'transformer_modern'"):
        matching(arm("attention"), 10**6, dial="d_ff")
    with pytest.raises(ConfigError, match="window does not change the parameters"):
        matching(arm("attention"), 10**6, dial="mixers.attention.window")


def test_a_dial_that_no_value_suits_is_an_error(monkeypatch):
    monkeypatch.setattr("lolm.accounting.matching.LARGEST_UNIT", 3)
    with pytest.raises(ConfigError, match="accepts no value up to 3: .*head_width 64 must divide"):
        matching(arm("mamba2"), 10**6)


@pytest.mark.parametrize("words", [[], ["--of", "flops", "--dial", "n_layers"]])
def test_the_command_prints_the_line_for_the_parameter_file(words, monkeypatch, capsys):
    from pipeline.match import match

    monkeypatch.setattr(sys, "argv", ["match", "--scale", "smoke", "--arm", "transformer_modern", "--to", "lolm", *words])
    match()
    of, dial = ("flops", "n_layers") if words else ("parameters", "d_ff")
    runs = [resolve_run(PARAMS, "smoke", name, 1) for name in ("transformer_modern", "lolm")]
    budget = quantity(runs[1], of)
    value, left = matching(runs[0], budget, of, dial)
    unit = "training FLOPs per token" if words else "parameters"
    assert capsys.readouterr().out == (
        f"scales.smoke.sizes.transformer_modern.{dial}: {value}  # {left:+.3%} from lolm's {budget:,.0f} {unit}\n"
    )


def test_a_dial_leaves_everything_else_as_it_was():
    run = arm("mamba1")
    turned = turn(turn(run, "mixers.mamba1.d_state", 4), "mixers.mamba1.d_inner", 12)
    assert turned.size.mixers == {"mamba1": {"d_state": 4, "d_inner": 12}}
    assert replace(turned, size=replace(turned.size, mixers={})) == run
