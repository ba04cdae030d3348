"""The committed records give the ledger they gave: see ledger.py, which also says how it is changed."""

import json
import math

import pytest
from ledger import FILE, STUDIES, ledger

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("study", STUDIES)
def test_ledger(study):
    found, golden = ledger(study), GOLDEN[study]
    assert set(found) == set(golden)
    wrong = {claim: (found[claim], was) for claim, was in golden.items() if not same(found[claim], was)}
    assert not wrong


def same(found, golden):
    """Equal, numbers but for the last digits of the mathematics library."""
    if isinstance(golden, dict):
        return set(found or ()) == set(golden) and all(same(found[key], value) for key, value in golden.items())
    if isinstance(golden, list):
        return len(found or ()) == len(golden) and all(same(a, b) for a, b in zip(found, golden, strict=True))
    if isinstance(golden, float):
        return isinstance(found, float | int) and math.isclose(found, golden, rel_tol=1e-9, abs_tol=1e-12)
    return found == golden
