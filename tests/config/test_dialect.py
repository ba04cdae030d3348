"""One YAML: what readers disagree on is refused by line, and what DVC's writer makes of the file is read."""

import re

import pytest
import yaml
from builders import PARAMS, ROOT
from ruamel.yaml import YAML

from lolm.config import ConfigError, load_params
from lolm.config.dialect import parse

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")


def loaded(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_params(path)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such file"):
        load_params(tmp_path / "absent.yaml")
    for text in ("a: [1,", "a: b: c", "\ta: 1", "a: \x00"):
        with pytest.raises(ConfigError, match=r"params\.yaml: not valid YAML"):
            loaded(tmp_path, text)
    with pytest.raises(ConfigError, match=r"params\.yaml: .*the file: expected a mapping, got list"):
        loaded(tmp_path, "- 1")
    with pytest.raises(ConfigError, match=r"the file: expected a mapping, got nothing"):
        loaded(tmp_path, "# nothing\n")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8"):
        load_params(tmp_path / "latin.yaml")


def test_deep_nesting_and_bombs_end_in_a_line(tmp_path):
    with pytest.raises(ConfigError, match="nested more than 100 deep"):
        loaded(tmp_path, "a: " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match="an anchor, &a"):
        loaded(tmp_path, "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seeds: [010]", "010 is 8 to one reader of YAML and 10 to another; write 10"),
        ("seeds: 1:30", "1:30 is 90 to one reader of YAML and a text to another; write 90"),
        ("flag: yes", "yes is true to one reader of YAML and a text to another; write true"),
        ("flag: Off", "Off is false to one reader"),
        ("steps: 1_000", "1_000 is 1000 to one reader of YAML and a text to another; write 1000"),
        ("steps: 0b11", "0b11 is 3 to one reader"),
        ("steps: 0o17", "0o17 is a text to one reader of YAML and 15 to another; write 15"),
        ("day: 2001-01-01", "2001-01-01 is 2001-01-01 to one reader of YAML and a text to another; quote it"),
        ("a: 1\na: 2", "a: line 2: a second time; a key stands once"),
        ("a: {b: 1, b: 2}", "a.b: line 1: a second time"),
        ("a: &x 1", "a: line 1: an anchor, &x"),
        ("a: &x 1\nb: *x", "b: line 2: an alias, *x"),
        ("&x a: 1", "a: line 1: an anchor, &x"),
        ("a: {<<: {b: 1}}", "a: line 1: a merge key"),
        ("a: !!int '3'", "a: line 1: a tag"),
        ("a: !!python/object:os.system x", "a: line 1: a tag"),
        ("3: x", "3: line 1: the key 3 is not a text"),
        ("yes: x", "yes: line 1: the key yes is not a text"),
        ("? [a]\n: 1", "line 1: a list or mapping for a key"),
        ("a: 1\n---\nb: 2", "line 2: a second document begins"),
    ],
)
def test_what_readers_disagree_on_is_refused_with_its_line(line, words):
    found = [str(problem) for problem in parse(line + "\n")[1]]
    assert any(words in text for text in found), found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1.0e-4", 1e-4), ("1e-05", 1e-5), ("1.5E+3", 1500.0), ("3.", 3.0), (".5", 0.5), ("-0.5", -0.5),
        ("0", 0), ("0x1F", 31), ("true", True), ("null", None), ("~", None), ("", None), ("20m", "20m"), ("1570m", "1570m"),
        ("'010'", "010"), ('"yes"', "yes"), ("n", "n"), ("a: b", {"a": "b"}), ("[1, x]", [1, "x"]), ("9" * 5000, 10**31),
    ],
)  # fmt: skip
def test_what_they_agree_on_is_read(text, value):
    """With DVC's reader, YAML 1.2 by ruamel; and with its writer, which leaves the dot out of 1e-05."""
    found, problems = parse(f"key: {text}\n" if value != {"a": "b"} else f"key: {{{text}}}\n")
    assert problems == []
    assert found == {"key": value}
    assert type(found["key"]) is type(value)
    if len(text) < 100 and isinstance(value, int | float | bool | str):
        assert YAML(typ="safe").load(f"key: {text}\n") == found


def test_refused_values_and_other_mistakes_are_said_together_and_each_once(tmp_path):
    text = TEXT.replace("seeds: [1, 2]", "seeds: [010]", 1).replace("confidence: 0.95", "confidence: yes\n  confidenc: 1")
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("params.yaml: 3 mistakes")
    assert len(lines) == 4
    assert any("studies.baselines.seeds[0]: line" in line for line in lines)


def test_the_file_reads_alike_everywhere():
    ours = parse(TEXT)[0]
    assert yaml.safe_load(TEXT) == ours
    assert YAML(typ="safe").load(TEXT) == ours
    assert ours["scales"]["tiny"]["sizes"]["lolm"]["learning_rate"] == 3e-3


def test_the_file_as_another_writer_leaves_it_means_the_same(tmp_path):
    """Without comments and flow style, as PyYAML and ruamel write it."""
    assert loaded(tmp_path, yaml.safe_dump(yaml.safe_load(TEXT))) == PARAMS
    assert loaded(tmp_path, "\ufeff" + re.sub("\n", "\r\n", TEXT)) == PARAMS
