"""What a run leaves behind: the schema of every record, where it lies, the one loader and the one writer."""

from lolm.records.files import RecordError, atomic_file, atomic_folder, link, named, publish_folder, write_bytes
from lolm.records.identity import essence, fingerprint_of, sha256_of
from lolm.records.layout import (
    FINAL_WEIGHTS,
    Layout,
    RunKey,
    budgets_record,
    cooldown_path,
    recorded_scales,
    run_of,
    snapshot_path,
)
from lolm.records.series import AXES, SeriesWriter, points, read_rows, read_series, write_rows
from lolm.records.store import from_record, parse_json, read, read_json, read_text, to_record, write, write_json, write_text

__all__ = [
    "AXES",
    "FINAL_WEIGHTS",
    "Layout",
    "RecordError",
    "RunKey",
    "SeriesWriter",
    "atomic_file",
    "atomic_folder",
    "budgets_record",
    "cooldown_path",
    "essence",
    "fingerprint_of",
    "from_record",
    "link",
    "named",
    "parse_json",
    "points",
    "publish_folder",
    "read",
    "read_json",
    "read_rows",
    "read_series",
    "read_text",
    "recorded_scales",
    "run_of",
    "sha256_of",
    "snapshot_path",
    "to_record",
    "write",
    "write_bytes",
    "write_json",
    "write_rows",
    "write_text",
]
