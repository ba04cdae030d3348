"""Public models in the ledger: what was measured beside what is published, and what was not, with its command."""

import math
from dataclasses import replace

import pytest

from lolm.claims.ledger import HYBRIDS
from lolm.claims.registry.public import PUBLISHED, public
from lolm.config import AnalysisConfig, ExternalConfig
from lolm.records import names, read, write
from lolm.records.schema import External, LayerRemovals, Removal, WriteSite, WrittenNorm

INTACT, VOCAB = 3.0, 32_768
SITES = {"stack.0.recurrent": "mamba2", "stack.0.attention": "attention", "stack.0.mlp": "mlp"}
TYPES = {"mamba2": names.RECURRENT, "attention": names.ATTENTION, "mlp": names.MLP}


def record(name: str, recurrent: float, attention: float, caveats=()) -> External:
    """A model of three sites which loses so many nats, however a type is removed."""
    losses = {(): 0.0, ("stack.0.recurrent",): recurrent, ("stack.0.attention",): attention, ("stack.0.mlp",): 1.0}
    rows = [
        Removal(0, sites, by, INTACT + lost, INTACT + lost, 0.1, 0.0)
        for sites, lost in losses.items()
        for by in ((names.NONE,) if not sites else names.REPLACEMENTS)
    ]
    sites = tuple(WriteSite(site, kind, TYPES[kind], 10) for site, kind in SITES.items())
    norms = tuple(WrittenNorm(0, site, norm) for site, norm in zip(SITES, (1.0, 3.0, 2.0), strict=True))
    measured = LayerRemovals(1024, 4096, sites, norms, tuple(rows))
    config = ExternalConfig(f"someone/{name}")
    losses_of_counting, checksums = (math.log(VOCAB), 7.0), ("f" * 64, "0" * 16)
    return External(
        name, config, "abc", "SomeForCausalLM", 1000, VOCAB, *losses_of_counting, *checksums, "cpu", {}, measured, caveats
    )


def claims(**losses: tuple[float, float]):
    external = {name: record(name, *lost) for name, lost in losses.items()}
    return {claim.id: claim for claim in public(external, AnalysisConfig())}


def test_what_was_not_measured_says_how():
    found = claims()
    assert set(found) == {"public_falcon_h1", "public_qwen3_5", "public_composition"}
    assert {claim.verdict for claim in found.values()} == {"not run"}
    assert found["public_falcon_h1"].command == "make external NAME=falcon_h1"
    assert found["public_qwen3_5"].published_shown == "35,000× · 82.00×"
    assert "+10.5 and +4.4 nats" in found["public_qwen3_5"].caveats[0]
    assert claims(falcon_h1=(1.0, 0.5))["public_composition"].command == "make external NAME=qwen3_5"
    assert {claim.group for claim in found.values()} == {HYBRIDS}


def test_a_measured_model_stands_beside_the_published_figures():
    claim = claims(falcon_h1=(10.5, 4.4))["public_falcon_h1"]
    assert claim.verdict == "holds"
    assert claim.sound.value == pytest.approx(6.1)
    assert claim.as_published.value == pytest.approx(math.exp(10.5))
    assert claim.details["without attention"].value == pytest.approx(math.exp(4.4))
    assert claim.details["recurrent share"].value == pytest.approx(0.25)
    # 3 + 10.5 nats are more than ln 32,768 = 10.4; 3 + 4.4 are not.
    assert "Worse than a uniform guess (ln 32,768 = 10.397 nats) without: recurrent, zero" in claim.why
    assert "attention" not in claim.why.split("without:")[1]
    assert claim.command is None
    assert claim.to_record()["runs"] == [{"name": "someone/falcon_h1 at abc, float32", "fingerprint": "f" * 16}]


@pytest.mark.parametrize(("recurrent", "attention", "verdict"), [(0.5, 1.0, "fails"), (0.54, 0.5, "fails"), (0.6, 0.5, "holds")])
def test_the_verdict_is_that_of_the_margin(recurrent, attention, verdict):
    claim = claims(qwen3_5=(recurrent, attention))["public_qwen3_5"]
    assert claim.verdict == verdict
    assert "Without either type it is better than a uniform guess" in claim.why


def test_a_loss_beyond_floats_is_given_in_nats():
    claim = claims(falcon_h1=(800.0, 1.0))["public_falcon_h1"]
    assert (claim.as_published.value, claim.as_published.unit) == (800.0, "nats")


def test_composition_takes_both_models():
    found = claims(falcon_h1=(5.0, 1.1), qwen3_5=(5.0, 4.4))["public_composition"]
    assert (found.verdict, found.sound.value) == ("holds", pytest.approx(-3.3))
    assert claims(falcon_h1=(5.0, 4.4), qwen3_5=(5.0, 4.4))["public_composition"].verdict == "fails"


def test_any_other_model_is_an_entry_once_it_is_measured():
    external = {"mine": record("mine", 0.1, 0.5, caveats=("Shared.",))}
    claim = {claim.id: claim for claim in public(external, AnalysisConfig())}["public_mine"]
    assert (claim.verdict, claim.published, claim.source) == ("fails", (), "this project")
    assert "Shared." in claim.caveats
    pure = replace(external["mine"].measured, sites=external["mine"].measured.sites[:1])
    alone = public({"mine": replace(external["mine"], measured=pure)}, AnalysisConfig())
    assert next(claim for claim in alone if claim.id == "public_mine").verdict == "inconclusive"


def test_a_record_survives_its_file(tmp_path):
    made = record("mine", 1.0, 0.5)
    write(tmp_path / "mine.json", made)
    assert read(tmp_path / "mine.json", External) == made
    assert set(PUBLISHED) == {"falcon_h1", "qwen3_5"}
