"""Train the SentencePiece tokenizer on the training split."""

from lolm.corpus.tokenizer import build_tokenizer
from lolm.records import atomic_folder, write_json
from pipeline.stage import arguments, main, opened


def run() -> None:
    stage = opened(arguments(__doc__))
    layout = stage.layout
    config = stage.preset.tokenizer
    with atomic_folder(layout.tokenizer) as folder:
        facts = build_tokenizer(config, layout.corpus, folder)
    write_json(layout.tokenizer_record, facts)
    sample = facts["sample"]
    print(f"trained on {sample['bytes'] / 1e6:.1f} MB, {sample['share']:.1%} of the training split")
    print(f"{facts['vocab_size']} ids, {facts['validation_bytes_per_token']:.3f} bytes per token on validation text")


if __name__ == "__main__":
    main(run)
