"""The cards of the exported models that come with the project, again from the records and verdicts in `reports/`."""

from __future__ import annotations

import argparse
from pathlib import Path

from lolm.export.folder import card_of, is_export
from lolm.records import write_text
from pipeline.stage import main

MODELS = Path("models")


def cards() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    for folder in sorted(filter(is_export, MODELS.iterdir())) if MODELS.is_dir() else ():
        write_text(folder / "README.md", card_of(folder))
        print(f"card: {folder / 'README.md'}")


if __name__ == "__main__":
    main(cards)
