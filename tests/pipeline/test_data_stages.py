"""The corpus, tokenizer and shards stages as DVC runs them: from params.yaml to files, or one line of error and status 2."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import forks
import pytest
import yaml

from lolm.config import EvaluationConfig
from lolm.data.errors import DataError
from lolm.data.stream import TokenStream
from pipeline.shards import refuse_no_prompt

ROOT = Path(__file__).parents[2]
STAGES = ("corpus", "tokenizer", "shards")


def write_params(folder: Path, **sections: dict) -> None:
    """The project's params.yaml with sections of the smoke preset replaced."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["scales"]["smoke"].update(sections)
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def stage(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return forks.stage(folder, name, "--scale", "smoke", **{"HF_HUB_OFFLINE": "1"} | environment)


@pytest.fixture
def project(tmp_path):
    """A folder with params.yaml and a local corpus of text files, some of them held out."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(40):
        words = " ".join(f"word{(i * j) % 97} stands here" for j in range(60))
        (texts / f"{i:02d}.txt").write_text(f"Text number {i}.\n\n{words}\n", encoding="utf-8")
    corpus = {"source": "local", "path": "texts", "validation": ["03"], "test": ["04"]}
    write_params(tmp_path, corpus=corpus, tokenizer={"vocab_size": 320}, shards={"shard_tokens": 5000})
    return tmp_path


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_refused(result: subprocess.CompletedProcess, *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def test_stages_make_their_files_and_the_same_ones_twice(project):
    made = []
    for _ in range(2):
        for name in STAGES:
            result = stage(name, project)
            assert result.returncode == 0, result.stderr
        made.append(files_of(project / "artifacts") | files_of(project / "reports"))
    assert made[0] == made[1]
    checksums = {split: TokenStream.open(project / "artifacts/smoke/shards", split).checksum for split in ("train", "validation")}
    assert json.loads(made[0]["smoke/shards.json"])["checksums"] == checksums
    assert set(made[0]) >= {
        "smoke/corpus/train.parquet",
        "smoke/corpus.json",
        "smoke/tokenizer/tokenizer.model",
        "smoke/tokenizer/token_bytes.npy",
        "smoke/tokenizer.json",
        "smoke/shards/index.json",
        "smoke/shards/train/00000.bin",
        "smoke/shards/train/00001.bin",
        "smoke/shards.json",
    }
    assert not [name for name in made[0] if "tmp" in name or "unfinished" in name]
    assert not files_of(project / ".scratch")
    corpus, shards = (json.loads((project / "reports/smoke" / f"{name}.json").read_text()) for name in ("corpus", "shards"))
    assert corpus["documents"] == 40
    for split in ("train", "validation", "test"):
        assert shards[split]["bytes"] == corpus["splits"][split]["bytes"]
        assert shards[split]["documents"] == corpus["splits"][split]["documents"]
    assert {"03", "04"} <= {row["id"] for row in corpus["held_out"]}


def test_hub_without_a_network_says_what_to_do(tmp_path):
    write_params(tmp_path, corpus={"source": "hub", "name": "roneneldan/TinyStories"})
    result = stage("corpus", tmp_path, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1")
    assert_refused(result, "roneneldan/TinyStories", "cannot be reached", "corpus.source to 'local'")
    assert not (tmp_path / "artifacts" / "smoke" / "corpus").exists()
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("name", "sections", "parts"),
    [
        ("corpus", {"corpus": {"path": "nowhere", "source": "local"}}, ["nowhere"]),
        ("corpus", {"corpus": {"path": "texts", "source": "local", "pth": "x"}}, ["scales.smoke.corpus.pth", "'path'"]),
        ("corpus", {"corpus": {"path": "texts", "source": "local", "test": ["044"]}}, ["'044'", "nearest id"]),
        ("tokenizer", {"tokenizer": {"vocab_size": 30_000}}, ["30000", "largest that works is"]),
    ],
)
def test_bad_parameters_leave_nothing_half_written(project, name, sections, parts):
    if name != "corpus":
        assert stage("corpus", project).returncode == 0
    before = files_of(project)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["scales"]["smoke"].update(sections)
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    assert_refused(stage(name, project), *parts)
    after = files_of(project)
    assert {k: v for k, v in after.items() if k != "params.yaml"} == {k: v for k, v in before.items() if k != "params.yaml"}


def test_stage_without_its_inputs(project):
    assert_refused(stage("tokenizer", project), "manifest.json")
    assert_refused(stage("shards", project), "tokenizer.json")
    assert not list((project / "artifacts" / "smoke").iterdir())


@pytest.mark.parametrize(("held_out", "split"), [("03", "validation"), ("04", "test")])
def test_a_split_too_short_to_be_scored_is_told_before_anything_is_trained(project, held_out, split):
    (project / "texts" / f"{held_out}.txt").write_text("A few words.\n", encoding="utf-8")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["scales"]["smoke"]["corpus"] |= {"validation_fraction": 0.0, "test_fraction": 0.0}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    for name in STAGES[:2]:
        assert stage(name, project).returncode == 0
    assert_refused(
        stage("shards", project), f"the {split} split has ", "too few for one window of 64 + 1", f"corpus.{split}_fraction"
    )
    assert not (project / "artifacts" / "smoke" / "shards").exists()


def test_a_split_with_no_room_for_a_prompt_and_its_continuation_is_told_before_anything_is_trained():
    config = EvaluationConfig(samples=1, prompt_tokens=8, sample_tokens=92)
    for tokens, samples in ((101, 1), (100, 0)):
        refuse_no_prompt(range(tokens), replace(config, samples=samples))
    with pytest.raises(DataError, match="test split has 100 tokens, .*evaluation.prompt_tokens 8 . evaluation.sample_tokens 92"):
        refuse_no_prompt(range(100), config)
