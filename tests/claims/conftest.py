"""A ledger of synthetic records with known answers."""

import pytest
from synthetic import write_results

from lolm.claims import build_ledger
from lolm.records.results import load_results

SEEDS = (1, 2, 3, 4)


@pytest.fixture
def results_of(tmp_path):
    """Results of the study main, or of another one by ``study``."""

    def build(truth=None, study=None, **kwargs):
        kwargs.setdefault("seeds", SEEDS)
        return load_results(write_results(tmp_path, truth=truth, **kwargs), study=study)

    return build


@pytest.fixture
def ledger_of(results_of):
    """Claims by their ids."""
    return lambda truth=None, **kwargs: {claim.id: claim for claim in build_ledger(results_of(truth, **kwargs))}
