"""MLflow, filled from the records: its metrics in :mod:`lolm.tracking.series`, the store in :mod:`lolm.tracking.store`."""

from lolm.tracking.store import *  # noqa: F403
