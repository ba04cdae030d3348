import math

import pytest
from synthetic import Truth


def test_inversion_and_its_control(ledger_of):
    ledger = ledger_of(Truth(gate_one=9.0, gate_zero=5.0, skip_damage=9.0))
    assert ledger["inversion"].verdict == "holds"
    assert ledger["inversion"].sound.value == pytest.approx(4.0, abs=0.05)
    assert ledger["inversion_over_training"].verdict == "holds"
    assert ledger["inversion_control"].verdict == "fails"  # the plain Transformer suffers more from losing its last block
    assert ledger["surface_alone"].verdict == "holds"
    assert "non-functional: worse than a uniform guess" in ledger["surface_alone"].why


def test_to_work_takes_more_than_a_bigram_model(ledger_of):
    """The unigram model is at 5.4 nats, the bigram model at 4.4, the latent stream alone 0.1 above ``gate_zero``."""
    claim = ledger_of(Truth(gate_zero=5.0))["latent_alone"]
    assert claim.verdict == "fails"
    assert claim.sound.interval[1] < 0
    assert "functional: better than the unigram model, but worse than a bigram model" in claim.why
    assert ledger_of(Truth(gate_zero=4.0))["latent_alone"].verdict == "holds"


def test_no_inversion_where_there_is_none(ledger_of):
    ledger = ledger_of(Truth(gate_one=5.0, gate_zero=9.0, skip_damage=0.1))
    assert ledger["inversion"].verdict == "fails"
    assert ledger["inversion_control"].verdict == "holds"
    assert ledger["latent_alone"].verdict == "fails"
    assert "non-functional" in ledger["latent_alone"].why
    assert ledger["surface_alone"].verdict == "fails"


def test_published_ratio_is_capped_and_ours_is_not(ledger_of):
    ledger = ledger_of(Truth(gate_one=76.9, gate_zero=10.9))
    claim = ledger["inversion"]
    assert claim.as_published.value == pytest.approx(math.exp(20 - 10.9))  # on the training stream
    assert claim.sound.value == pytest.approx(66, abs=0.1)
