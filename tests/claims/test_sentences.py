"""A sentence is no stronger than its verdict."""

from dataclasses import replace

import pytest
from synthetic import Truth

from lolm.analysis.leaderboard import leaderboard
from lolm.claims.build import modern
from lolm.claims.registry import ENTRIES, by_id
from lolm.claims.sentences import FINDINGS, GENERALITY, generality, ranking, sentence, tally

KNOWN = by_id([*ENTRIES, *(modern(entry) for entry in ENTRIES if entry.modern)])


def test_every_finding_is_of_a_claim():
    assert {finding.claim for finding in FINDINGS} <= set(KNOWN)
    assert len({finding.claim for finding in FINDINGS}) == len(FINDINGS) >= 12
    for finding in FINDINGS:
        assert finding.printed is None or finding.printed in KNOWN[finding.claim].published or finding.claim.endswith("_modern")


@pytest.mark.parametrize("verdict", ["holds", "fails", "inconclusive", "not run", "not testable at this scale"])
def test_only_a_decided_claim_is_said_as_a_fact(ledger_of, verdict):
    ledger = ledger_of()
    for finding in FINDINGS:
        claim = ledger.get(finding.claim)
        if claim is None:
            continue
        said = sentence(finding, replace(claim, verdict=verdict))
        assert (finding.holds in said) == (verdict == "holds")
        assert (finding.fails in said) == (verdict == "fails")
        if verdict == "inconclusive":
            assert said.startswith("Not settled by these runs: whether ")
        if verdict == "not run":
            assert said.startswith("Not run: whether ")
            assert "[" not in said  # no number without a verdict


def test_numbers_come_with_their_interval_and_seeds(ledger_of):
    ledger = ledger_of(Truth(speed=1.5, flops_ratio=1.0))
    said = {finding.claim: sentence(finding, ledger[finding.claim]) for finding in FINDINGS if finding.claim in ledger}
    claim = ledger["efficiency_2x"]
    assert claim.sound.shown_interval in said["efficiency_2x"]
    assert "over 4 seeds" in said["efficiency_2x"]
    assert "(the authors print 2.00×)" in said["efficiency_2x"]
    assert "authors print" not in said["cpc_chance"]  # their number is the loss, ours the loss minus chance


def test_findings_follow_the_verdicts(ledger_of):
    finding = next(finding for finding in FINDINGS if finding.claim == "efficiency_2x")
    for speed, said in ((3.0, "more than twice LOLM's training FLOPs"), (1.5, "less than twice LOLM's training FLOPs")):
        ledger = ledger_of(Truth(speed=speed, flops_ratio=1.0))
        assert f"published form of the Transformer needs {said}" in sentence(finding, ledger[finding.claim])
    assert tally(list(ledger.values())).startswith("Of the claims with published numbers, each fact counted once")


def test_where_the_subject_stands_among_many(results_of):
    results = results_of(Truth(speed=1.0, speeds={"mamba": 2.0}), arms=("lolm", "transformer", "mamba"))
    said = ranking(results, leaderboard(results))
    assert said.startswith("Lowest mean test loss of 3 arms: “Mamba”")
    two = results_of()
    assert ranking(two, leaderboard(two)) is None


@pytest.mark.parametrize("verdict", ["holds", "fails", "inconclusive", "not run", "not testable at this scale"])
def test_what_several_arms_share_is_said_once_for_each_verdict(ledger_of, verdict):
    base = ledger_of()["matched_budget"]
    claims = [
        replace(base, id=f"recurrent_missed_{arm}", verdict=verdict if arm == "griffin" else "holds")
        for arm in ("samba", "griffin", "hymba")
    ]
    others, griffin = generality(claims) if verdict != "holds" else (*generality(claims), "")
    words = GENERALITY[0]
    assert others.startswith(words.holds)
    assert others.count("Samba") == others.count("Hymba") == 1
    assert ("Griffin" in others) == (verdict == "holds")
    assert (words.fails in griffin) == (verdict == "fails")
    assert (base.sound.shown_whole in griffin) == (verdict in ("fails", "inconclusive"))
    if verdict == "inconclusive":
        assert griffin.startswith(f"Not settled by these runs: {words.subject}: Griffin ")
    if verdict == "not run":
        assert griffin == f"Not run: {words.subject}, in Griffin (`{base.command}`)."
