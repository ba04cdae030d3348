"""What a run leaves behind: the schema of every record, the one loader and the one writer."""

from lolm.records.files import (
    AXES,
    MetricsWriter,
    RecordError,
    atomic_folder,
    fingerprint_of,
    read_json,
    read_metrics,
    series,
    sha256_of,
    write_json,
    write_text,
)

__all__ = [
    "AXES",
    "MetricsWriter",
    "RecordError",
    "atomic_folder",
    "fingerprint_of",
    "read_json",
    "read_metrics",
    "series",
    "sha256_of",
    "write_json",
    "write_text",
]
