"""Every test runs on one torch thread, as a training run does; processes share the bytecode of what they import."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import slow
from minicorpus import make_texts, write_jsonl
from synthetic import write_results

from lolm.config import CorpusConfig, ShardsConfig, TokenizerConfig
from lolm.corpus.build import build_corpus
from lolm.corpus.shards import write_shards
from lolm.corpus.tokenizer import Tokenizer, build_tokenizer
from lolm.records.results import load_results
from pipeline.jobs import keep_bytecode

keep_bytecode(
    Path(__file__).resolve().parents[1] / ".scratch" / "bytecode"
)  # before PyTorch, and for every process that is started

# Code of exported folders is copied to where transformers keeps such: each process has a place of its own.
_modules = tempfile.TemporaryDirectory(prefix="modules-")
os.environ["HF_MODULES_CACHE"] = _modules.name

# Tests write and sync many small files, for whose disk they would wait a sixth of their time; of the fault suite some are large.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and not {"PYTEST_DEBUG_TEMPROOT", "LOLM_FAULTS"} & os.environ.keys():
    found = os.statvfs(MEMORY)
    roomy = min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available) > 6 * 2**30
    if roomy and os.access(MEMORY, os.W_OK) and not found.f_flag & os.ST_NOEXEC:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)

import torch  # noqa: E402

torch.set_num_threads(1)  # fixtures of a module come before those of a test


# Modules that take longest come first, so that no process is left with one at the end; what copies the study that the first of
# them makes comes when it is there.
LONGEST = (
    "test_end_to_end", "test_ranks", "test_report", "test_gpu", "test_dvc_overrides", "test_broken_study", "test_slurm_study",
    "test_triton", "test_cluster", "test_overrides", "test_run", "test_plan", "test_tracking", "test_scaling", "test_loop",
)  # fmt: skip


# Fixtures that take long, whichever test is the first to ask for one.
COSTLY = {"staged"}


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    took_long = set(slow.LIST.read_text(encoding="utf-8").split())
    for item in items:
        if slow.function_of(item.nodeid) in took_long or not COSTLY.isdisjoint(item.fixturenames):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _one_thread():
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def texts() -> dict[str, str]:
    return make_texts()


@pytest.fixture(scope="session")
def corpus_config(texts, tmp_path_factory) -> CorpusConfig:
    path = write_jsonl(tmp_path_factory.mktemp("source") / "mini.jsonl", texts)
    return CorpusConfig(source="local", path=str(path), validation_fraction=0.1, test_fraction=0.1, validation=("set/005",))


@pytest.fixture(scope="session")
def build(corpus_config):
    """Function that makes corpus, tokenizer and shards in a folder."""

    def _build(folder: Path, shard_tokens: int = 1000, **changes) -> Tokenizer:
        build_corpus(replace(corpus_config, **changes), folder / "corpus")
        (folder / "tokenizer").mkdir()
        (folder / "shards").mkdir()
        build_tokenizer(TokenizerConfig(vocab_size=400), folder / "corpus", folder / "tokenizer")
        tokenizer = Tokenizer.load(folder / "tokenizer")
        write_shards(ShardsConfig(shard_tokens), folder / "corpus", tokenizer, folder / "shards")
        return tokenizer

    return _build


@pytest.fixture(scope="session")
def data(build, tmp_path_factory) -> Path:
    """Folder with corpus/, tokenizer/ and shards/; tests only read it."""
    folder = tmp_path_factory.mktemp("data")
    build(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(data) -> Tokenizer:
    return Tokenizer.load(data / "tokenizer")


@pytest.fixture(scope="module")
def results_of():
    """Results of synthetic records with known answers, of four seeds if nothing is said: of the study main, or of ``study``. The
    same are made once a module, and their files are gone."""
    made = {}

    def build(truth=None, study=None, **kwargs):
        asked = repr((truth, study, kwargs))
        if asked not in made:
            with tempfile.TemporaryDirectory(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")) as folder:
                root = write_results(Path(folder), truth=truth, **{"seeds": (1, 2, 3, 4)} | kwargs)
                made[asked] = load_results(root, study=study)
        return made[asked]

    return build
