"""Corpora and shards that are made by processes which are killed, each at another moment, until one gets to the end.

Started as a process of its own, which forks: ``python killed.py <folder>``; ``sources.json`` there has corpus settings by name.
"""

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import datasets  # noqa: F401  (once, before the forks, and what it imports as it streams)
import pyarrow.parquet  # noqa: F401
import scipy.io  # noqa: F401
import torch  # noqa: F401

from lolm.config import CorpusConfig, ShardsConfig
from lolm.corpus import build, documents, shards
from lolm.corpus.tokenizer import Tokenizer

PART_BYTES, ROW_GROUP_BYTES, BATCH_CHARACTERS, COMMIT_BATCHES = 6000, 2500, 1500, 2


def shrink(patch: Callable[[object, str, int], object] = setattr) -> None:
    """Parts, row groups and batches of which a small corpus has many."""
    patch(build, "PART_BYTES", PART_BYTES)
    patch(documents, "ROW_GROUP_BYTES", ROW_GROUP_BYTES)
    patch(shards, "BATCH_CHARACTERS", BATCH_CHARACTERS)
    patch(shards, "COMMIT_BATCHES", COMMIT_BATCHES)


def killed_until_done(work: Callable[[], object], calls: int) -> int:
    """Do work in processes that get SIGKILL at a random call of a function of ours, each later than the one before may be.

    Returns how many were killed.
    """
    rng = random.Random(5)
    for attempt in range(1, 200):
        left = [rng.randrange(calls * attempt)]
        if not (child := os.fork()):

            def count(frame, event, _arg, left=left):
                if event == "call" and "/lolm/" in frame.f_code.co_filename:
                    left[0] -= 1
                    if left[0] < 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            threading.setprofile(count)
            sys.setprofile(count)
            work()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return attempt - 1
        assert os.WIFSIGNALED(status), status
    raise AssertionError("no attempt got to the end")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    shrink()
    result = {}
    for name, settings in json.loads((folder / "sources.json").read_text()).items():
        config, lines = CorpusConfig(**settings), folder / f"{name}.log"

        def tell(line: str, lines: Path = lines) -> None:
            with open(lines, "a") as file:
                file.write(line + "\n")

        def make(config: CorpusConfig = config, name: str = name, tell: Callable[[str], None] = tell) -> None:
            build.build_corpus(config, folder / name, folder / f"{name}.scratch", tell)

        result[name] = killed_until_done(make, 300)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    (folder / "shards").mkdir()
    corpus = folder / next(iter(result))
    result["shards"] = killed_until_done(
        lambda: shards.write_shards(ShardsConfig(1000), corpus, tokenizer, folder / "shards", workers=2), 100
    )
    print(json.dumps(result))
