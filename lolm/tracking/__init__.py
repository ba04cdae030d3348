"""MLflow, filled from the records.

Points in :mod:`lolm.tracking.series`, runs in :mod:`lolm.tracking.runs`, their descriptions in :mod:`lolm.tracking.notes`, models
and data sets in :mod:`lolm.tracking.models`, what pages show first in :mod:`lolm.tracking.experiments`, reports in
:mod:`lolm.tracking.scales`, the store in :mod:`lolm.tracking.store`, what stages call in :mod:`lolm.tracking.stages`.
"""

from lolm.tracking.runs import sync_live, sync_run
from lolm.tracking.scales import chart_page_of, sync_benchmark, sync_scale
from lolm.tracking.stages import HAND_OVER, HANDED_OVER, RUNNER, try_sync, try_sync_benchmark, try_sync_scale
from lolm.tracking.store import TrackingError, experiment_name, prepare_store, store_uri

__all__ = [
    "HANDED_OVER",
    "HAND_OVER",
    "RUNNER",
    "TrackingError",
    "chart_page_of",
    "experiment_name",
    "prepare_store",
    "store_uri",
    "sync_benchmark",
    "sync_live",
    "sync_run",
    "sync_scale",
    "try_sync",
    "try_sync_benchmark",
    "try_sync_scale",
]
