"""Read the documents, drop exact duplicates, split them whole into training, validation and test."""

from lolm.config import load_params, scale_of
from lolm.corpus.build import build_corpus
from lolm.records import write_json
from pipeline.stage import Paths, arguments, main


def run() -> None:
    paths = Paths(arguments(__doc__).scale)
    report = build_corpus(scale_of(load_params(), paths.scale).corpus, paths.corpus)
    write_json(paths.reports / "corpus.json", report)
    for split, numbers in report["splits"].items():
        print(f"{split:10}  {numbers['documents']:7} documents  {numbers['bytes'] / 1e6:9.2f} MB")
    print(f"dropped: {report['dropped']['duplicate']} duplicates, {report['dropped']['empty']} empty")


if __name__ == "__main__":
    main(run)
