"""Encode the splits into flat memory-mapped token files with an index."""

from lolm.corpus.shards import shards_report, write_shards
from lolm.corpus.tokenizer import Tokenizer
from lolm.records import atomic_folder, write_json
from pipeline.stage import arguments, main, opened


def run() -> None:
    stage = opened(arguments(__doc__))
    layout = stage.layout
    config = stage.preset.shards
    with atomic_folder(layout.shards) as folder:
        index = write_shards(config, layout.corpus, Tokenizer.load(layout.tokenizer), folder)
    report = shards_report(index)
    write_json(layout.shards_record, report)
    for split in index["splits"]:
        print(f"{split:10}  {report[split]['tokens']:11} tokens  {report[split]['bytes_per_token']:.3f} bytes per token")


if __name__ == "__main__":
    main(run)
