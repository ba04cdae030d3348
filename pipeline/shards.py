"""Encode the splits into flat memory-mapped token files with an index."""

import shutil
from pathlib import Path

from lolm.config import EvaluationConfig
from lolm.corpus.progress import resumed, stamps, version_of
from lolm.corpus.shards import shards_report, write_shards
from lolm.corpus.tokenizer import Tokenizer
from lolm.data.batches import EvaluationSet
from lolm.data.errors import DataError
from lolm.data.stream import TokenStream
from lolm.records import publish_folder, sha256_of, write_json
from pipeline.jobs import available_cores
from pipeline.stage import arguments, main, opened

SCORED = ("validation", "test")
READ = ("train", "validation")  # the splits that a run reads: their checksums tell whether it read this text


def run() -> None:
    stage = opened(arguments(__doc__))
    layout = stage.layout
    config = stage.preset.shards
    tokenizer = Tokenizer.load(layout.tokenizer)
    model = sha256_of(layout.tokenizer / "tokenizer.model")
    scratch = Path(".scratch") / f"shards-{stage.scale}"
    content = resumed(scratch, version_of(config, model, stamps(sorted(layout.corpus.glob("*")))))
    index = write_shards(config, layout.corpus, tokenizer, content, available_cores())
    for split in SCORED:  # too little of it would be found behind hours of training
        EvaluationSet(TokenStream.open(content, split), 1, stage.preset.training.seq_len)
    refuse_no_prompt(TokenStream.open(content, "test"), stage.preset.evaluation)
    publish_folder(content, layout.shards)
    shutil.rmtree(scratch)
    report = shards_report(index) | {"checksums": {split: TokenStream.open(layout.shards, split).checksum for split in READ}}
    write_json(layout.shards_record, report)
    for split in index["splits"]:
        print(f"{split:10}  {report[split]['tokens']:11} tokens  {report[split]['bytes_per_token']:.3f} bytes per token")


def refuse_no_prompt(test: TokenStream, config: EvaluationConfig) -> None:
    """Raises DataError where the split has no room for a prompt and what is written after it."""
    if config.samples and len(test) <= config.prompt_tokens + config.sample_tokens:
        raise DataError(
            f"the test split has {len(test)} tokens, too few for evaluation.prompt_tokens {config.prompt_tokens} + "
            f"evaluation.sample_tokens {config.sample_tokens} + 1; lower them, set evaluation.samples to 0 or hold out more text "
            "(corpus.test, corpus.test_fraction)"
        )


if __name__ == "__main__":
    main(run)
