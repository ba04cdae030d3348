"""A ledger of synthetic records with known answers."""

import pytest

from lolm.claims import build_ledger


@pytest.fixture(scope="module")
def ledger_of(results_of):
    """Claims by their ids; of the same records they are decided once a module."""
    made = {}

    def build(truth=None, **kwargs):
        results = results_of(truth, **kwargs)
        if id(results) not in made:
            made[id(results)] = build_ledger(results)
        return {claim.id: claim for claim in made[id(results)]}

    return build
