"""A store that each test of tracking copies."""

import pytest

from lolm import tracking


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """One migrated store (8 s), copied for each test."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("DVC_ROOT", str(folder))
        tracking.prepare_store()
    return folder / "mlflow.db"
