"""Read the documents, drop exact duplicates, split them whole into training, validation and test."""

from pathlib import Path

from lolm.corpus.build import build_corpus
from lolm.records import write_json
from pipeline.stage import arguments, main, opened


def run() -> None:
    stage = opened(arguments(__doc__))
    layout = stage.layout
    report = build_corpus(stage.preset.corpus, layout.corpus, Path(".scratch") / f"corpus-{stage.scale}", tell=print)
    write_json(layout.corpus_record, report)
    for split, numbers in report["splits"].items():
        print(f"{split:10}  {numbers['documents']:7} documents  {numbers['bytes'] / 1e6:9.2f} MB")
    print(f"dropped: {report['dropped']['duplicate']} duplicates, {report['dropped']['empty']} empty")


if __name__ == "__main__":
    main(run)
