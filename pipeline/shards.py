"""Encode the splits into flat memory-mapped token files with an index."""

from lolm.config import load_params, scale_of
from lolm.corpus.shards import shards_report, write_shards
from lolm.corpus.tokenizer import Tokenizer
from lolm.records import atomic_folder, write_json
from pipeline.stage import Paths, arguments, main


def run() -> None:
    paths = Paths(arguments(__doc__).scale)
    config = scale_of(load_params(), paths.scale).shards
    with atomic_folder(paths.shards) as folder:
        index = write_shards(config, paths.corpus, Tokenizer.load(paths.tokenizer), folder)
    report = shards_report(index)
    write_json(paths.reports / "shards.json", report)
    for split in index["splits"]:
        print(f"{split:10}  {report[split]['tokens']:11} tokens  {report[split]['bytes_per_token']:.3f} bytes per token")


if __name__ == "__main__":
    main(run)
