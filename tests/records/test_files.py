"""Record files: written whole, truncated on resume, and clear about what is wrong with them."""

import copy
import errno
import json
import os
import re
from pathlib import Path

import pytest
from builders import ROOT
from runs import header_of, make_trainer, short_run

from lolm.claims.ledger import read_ledger
from lolm.records import (
    Layout,
    RecordError,
    SeriesWriter,
    atomic_folder,
    fingerprint_of,
    has,
    points,
    read_json,
    read_mapping,
    read_rows,
    read_series,
    write_json,
    write_rows,
)
from lolm.records.files import host
from lolm.report.figures.benchmark import FORM
from lolm.tracking.models import data_set

ROW = {"step": 1, "tokens": 10, "flops": 2.0, "seconds": 0.5}


def test_reopening_drops_what_the_checkpoint_has_not_seen(tmp_path):
    writer = SeriesWriter(tmp_path / "m.jsonl")
    writer.write(ROW | {"a": 1.0})
    length, checksum = writer.flush()
    assert length == (tmp_path / "m.jsonl").stat().st_size
    writer.write(ROW | {"step": 2, "a": 2.0})
    writer.close()
    with open(tmp_path / "m.jsonl", "a") as file:
        file.write('{"step": 3, "tok')  # a line that a kill cut short
    again = SeriesWriter(tmp_path / "m.jsonl", length, checksum)
    again.write(ROW | {"step": 2, "a": 5.0})
    length, checksum = again.flush()
    again.close()
    SeriesWriter(tmp_path / "m.jsonl", length, checksum).close()  # of all that is there, not of what this process wrote
    rows = read_series(tmp_path / "m.jsonl")
    assert points(rows, "a") == ([1, 2], [1.0, 5.0])


def test_a_changed_byte_that_the_checkpoint_has_seen_is_an_error(tmp_path):
    writer = SeriesWriter(tmp_path / "m.jsonl")
    writer.write(ROW | {"a": 1.0})
    length, checksum = writer.flush()
    writer.close()
    raw = (tmp_path / "m.jsonl").read_bytes()
    (tmp_path / "m.jsonl").write_bytes(raw.replace(b"1.0", b"3.0"))
    with pytest.raises(RecordError, match=r"m\.jsonl: its bytes are not those that the checkpoint has seen; delete"):
        SeriesWriter(tmp_path / "m.jsonl", length, checksum)
    SeriesWriter(tmp_path / "m.jsonl", length).close()  # a checkpoint of an older version knows no checksum


def test_starting_over_empties_the_file(tmp_path):
    (tmp_path / "m.jsonl").write_text("old\n")
    SeriesWriter(tmp_path / "m.jsonl").close()
    assert (tmp_path / "m.jsonl").read_text() == ""


def test_a_file_shorter_than_the_checkpoint_knows_is_an_error(tmp_path):
    (tmp_path / "m.jsonl").write_text("{}\n")
    with pytest.raises(RecordError, match=r"m\.jsonl: 3 bytes, but the checkpoint has seen 100"):
        SeriesWriter(tmp_path / "m.jsonl", 100)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    writer = SeriesWriter(tmp_path / "m.jsonl")
    with pytest.raises(RecordError, match="train/loss is .* at step 1"):
        writer.write(ROW | {"train/loss": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": value})
    assert not (tmp_path / "x.json").exists()
    writer.close()


def test_broken_records_are_named(tmp_path):
    with pytest.raises(RecordError, match=r"none\.jsonl: no such record"):
        read_series(tmp_path / "none.jsonl")
    (tmp_path / "cut.jsonl").write_text(json.dumps(ROW) + '\n{"step": 2')
    with pytest.raises(RecordError, match=r"cut\.jsonl: line 2 is not valid JSON"):
        read_series(tmp_path / "cut.jsonl")
    (tmp_path / "lacks.jsonl").write_text('{"step": 2, "tokens": 1}\n')
    with pytest.raises(RecordError, match="line 1 has no flops, seconds"):
        read_series(tmp_path / "lacks.jsonl")
    with pytest.raises(RecordError, match=r"none\.json: no such record"):
        read_json(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(RecordError, match=r"x\.json: not valid JSON"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "not a mapping"),
        ("5", "not a mapping"),
        ("null", "not a mapping"),
        ("{}", "n: expected int, and there is none"),
        ('{"n": "x"}', "n: expected int"),
    ],
)
def test_json_of_another_form_is_named_with_its_key(tmp_path, text, says):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RecordError, match=rf"x\.json: {says}; delete it"):
        read_mapping(tmp_path / "x.json", n=int)
    (tmp_path / "x.json").write_text('{"n": 1, "more": []}')
    assert read_mapping(tmp_path / "x.json", n=int) == {"n": 1, "more": []}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, "a: expected dict, and there is none"),
        ({"a": {"x": 5}}, "a.x: expected str"),
        ({"a": {}, "b": ["c", 5]}, r"b\[1\]: expected str"),
        ({"a": {}, "b": [], "c": {"n": "1"}}, "c.n: expected float"),
        ({"a": {}, "b": [], "c": {"n": True}}, "c.n: expected float"),
        ({"a": {}, "b": []}, ""),
        ({"a": {"x": "y"}, "b": ["c"], "c": {"n": 1}}, ""),
    ],
)
def test_what_lies_deeper_in_json_is_named_with_the_way_to_it(value, says):
    form = {"a": {"*": str}, "b": [str], "c?": {"n": float}}
    if not says:
        assert has(value, "x.json", form) == value
        return
    for file, cure in (("x.json", "dvc repro"), ("reports/benchmark.json", "make bench"), ("claims.json", "make report")):
        with pytest.raises(RecordError, match=rf"^{file}: {says}; delete it and run `{cure}`$"):
            has(value, file, form)


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("reports/tiny/train/lolm-1/summary.json", "make repro SCALE=tiny"),
        ("artifacts/my_own/shards/index.json", "make repro SCALE=my_own"),
        ("reports/tiny/evaluate/lolm-1.json", "make repro SCALE=tiny"),
        ("reports/benchmark.json", "make bench"),
        ("reports/tiny/main/claims.json", "make report"),
        ("reports/budgets/budgets.json", "make report"),
        ("reports/external/olmo_hybrid.json", "make external"),
        ("reports/tiny/downstream/lolm-1.json", "make downstream SCALE=tiny"),
        ("reports/gpu/20m/train/lolm-1.json", "make gpu"),
        ("carried/carried.json", "make gpu-shards"),
        ("artifacts/tiny/exports/lolm-1.json", "make export SCALE=tiny"),
        ("reports/accepted.json", None),
    ],
)
def test_a_broken_record_names_the_command_that_makes_it(tmp_path, monkeypatch, file, command):
    """Also below a root, and never to delete the record by which runs count as made."""
    monkeypatch.chdir(tmp_path)
    for path in (Path(file), tmp_path / file):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{", encoding="utf-8")
        cure = f"delete it and run `{command}`" if command else f"bring it back with `git checkout {path}`"
        with pytest.raises(RecordError, match=f"; {re.escape(cure)}$"):
            read_json(path)
        path.unlink()
        with pytest.raises(RecordError, match=f"no such record; run `{command}`" if command else "no such record"):
            read_json(path)


def _places(value, form, path=()):
    """Keys of what a form says of a value, down to the last."""
    for name, inner in form.items():
        for key in value if name == "*" else (name.removesuffix("?"),):
            if key in value:
                yield (*path, key)
                if isinstance(inner, dict):
                    yield from _places(value[key], inner, (*path, key))


def test_a_benchmark_of_another_form_is_named_at_every_key_that_a_report_reads():
    whole = json.loads((ROOT / "reports/benchmark.json").read_text(encoding="utf-8"))
    assert has(whole, "reports/benchmark.json", FORM) == whole
    places = list(_places(whole, FORM))
    assert len(places) > 100
    for place in places:
        other = inner = copy.deepcopy(whole)
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = []
        with pytest.raises(RecordError, match=rf"benchmark.json: {re.escape('.'.join(place))}: .*`make bench`$"):
            has(other, "reports/benchmark.json", FORM)


def test_counts_of_shards_that_are_none_are_named(tmp_path):
    layout = Layout("smoke", tmp_path)
    write_json(layout.shards_record, {"test": 5})
    with pytest.raises(RecordError, match=r"shards\.json: test: expected dict"):
        data_set(header_of(make_trainer(short_run("transformer"), tmp_path)), layout, "test")


@pytest.mark.parametrize("text", ["5", "null", "{}", "[5]", '[{"id": "a"}]'])
def test_a_ledger_of_another_form_is_named(tmp_path, text):
    (tmp_path / "claims.json").write_text(text)
    with pytest.raises(RecordError, match=r"claims\.json: "):
        read_ledger(tmp_path / "claims.json")


def test_json_is_sorted_and_replaces_whole(tmp_path):
    write_json(tmp_path / "d" / "x.json", {"b": 1, "a": [1.5, None]})
    assert list(read_json(tmp_path / "d" / "x.json")) == ["a", "b"]
    write_json(tmp_path / "d" / "x.json", {"c": 2})
    assert read_json(tmp_path / "d" / "x.json") == {"c": 2}
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["x.json"]


def test_fingerprint_depends_on_content_and_not_on_order():
    assert fingerprint_of({"a": 1, "b": 2}, "x") == fingerprint_of({"b": 2, "a": 1}, "x")
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2})
    assert len(fingerprint_of(1)) == 16


def test_a_finished_series_is_compressed_and_keeps_the_order_of_its_rows(tmp_path):
    rows = [ROW | {"step": step, "a": 0.1 * step} for step in (1, 5, 3)]  # the ends of annealed copies are written last
    path = tmp_path / "metrics.jsonl.xz"
    write_rows(path, rows)
    first = path.read_bytes()
    write_rows(path, rows)
    assert path.read_bytes() == first
    assert read_rows(path) == rows
    assert [row["step"] for row in read_series(path)] == [1, 3, 5]
    path.write_bytes(first[:-20])
    with pytest.raises(RecordError, match=r"metrics\.jsonl\.xz: broken"):
        read_series(path)


def test_what_killed_processes_left_beside_a_path_is_cleared_away(tmp_path):
    """And nothing else: what a living process writes to, or may on another machine, another file's, what is no temporary name."""
    ended = 99_999_999  # more than Linux gives
    elsewhere = f".x.json.{ended}-{host()}0.tmp"  # in another container of this machine
    kept = {
        elsewhere,
        ".y.json.1.tmp",
        ".x.json.mine.tmp",
        "x.json.1.tmp",
        f".x.json.{os.getppid()}-{host()}.tmp",
        ".x.json.1-another.tmp",
    }
    for name in (*kept, f".x.json.{ended}.tmp", f".x.json.{ended}-{host()}.tmp", ".x.json.2-another.tmp"):
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / ".x.json.2-another.tmp", (0, 0))
    write_json(tmp_path / "x.json", 1)
    assert {p.name for p in tmp_path.iterdir()} == {*kept, "x.json"}
    for old in (f".made.{ended}.tmp", f".made.{ended}-{host()}.0.tmp"):
        (tmp_path / old).mkdir()
    with atomic_folder(tmp_path / "made") as folder:
        (folder / "a").write_text("a")
    assert [p.name for p in tmp_path.glob("*made*")] == ["made"]


def test_a_folder_that_cannot_take_its_name_leaves_the_older_one(tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old").touch()
    replace = os.replace

    def fails(source, target):
        if str(target).endswith("made") and ".0." not in str(source):
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="Input"), atomic_folder(tmp_path / "made") as folder:
        (folder / "new").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["made", "old"]


@pytest.mark.parametrize("row", ["5", "[]", '{"step": "a", "tokens": 1, "flops": 1, "seconds": 1}', "[" * 100_000, "9" * 5000])
def test_a_line_of_a_series_that_holds_no_numbers_is_named(tmp_path, row):
    (tmp_path / "m.jsonl").write_text(json.dumps(ROW) + "\n" + row + "\n")
    with pytest.raises(RecordError, match=r"m\.jsonl: line 2"):
        read_series(tmp_path / "m.jsonl")
