"""A ledger of synthetic records with known answers."""

import pytest

from lolm.claims import build_ledger


@pytest.fixture
def ledger_of(results_of):
    """Claims by their ids."""
    return lambda truth=None, **kwargs: {claim.id: claim for claim in build_ledger(results_of(truth, **kwargs))}
