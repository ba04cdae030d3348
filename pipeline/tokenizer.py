"""Train the SentencePiece tokenizer on the training split."""

from lolm.config import load_params, scale_of
from lolm.corpus.tokenizer import build_tokenizer
from lolm.records import atomic_folder
from pipeline.stage import Paths, arguments, main


def run() -> None:
    paths = Paths(arguments(__doc__).scale)
    config = scale_of(load_params(), paths.scale).tokenizer
    with atomic_folder(paths.tokenizer) as folder:
        facts = build_tokenizer(config, paths.corpus, folder)
    print(f"{facts['vocab_size']} ids, {facts['validation_bytes_per_token']:.3f} bytes per token on validation text")


if __name__ == "__main__":
    main(run)
