"""This project's tokenizer as one of the ``transformers`` library: a ``tokenizer.json`` that gives SentencePiece's own ids."""

from __future__ import annotations

from typing import Any

from lolm.corpus.tokenizer import EOS, META, UNK, Tokenizer
from lolm.external.load import transformers


def to_fast(tokenizer: Tokenizer) -> Any:
    """A fast tokenizer with the ids of :meth:`lolm.corpus.tokenizer.Tokenizer.encode` for any text; needs no SentencePiece.

    ``</s>`` ends a document, so it also stands before the first one (BOS), and pads. It is never made of text, as with us; no
    token is added to a text, as with us. Spaces are spaces in its pieces and not SentencePiece's mark for them.
    """
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models

    processor = tokenizer._processor
    pieces = [piece.replace(META, " ") for piece in tokenizer.pieces]
    of_text = {piece: i for i, piece in enumerate(pieces) if tokenizer.texts[i] and not processor.is_byte(i)}
    merges = [merge for piece in of_text if (merge := _last_merge(piece, of_text)) is not None]
    model = models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token=pieces[UNK], byte_fallback=True)
    fast = Fast(model)
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return transformers().PreTrainedTokenizerFast(
        tokenizer_object=fast,
        unk_token=pieces[UNK],
        bos_token=pieces[EOS],
        eos_token=pieces[EOS],
        pad_token=pieces[EOS],
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _last_merge(piece: str, ids: dict[str, int]) -> tuple[str, str] | None:
    """The two pieces that SentencePiece joins into this one; None where it is a character, or no joining ends in it.

    SentencePiece joins whichever neighbours make the best known piece, leftmost first; the library joins pairs from a list. Of
    the ways to cut a piece in two only one ever happens: what goes on inside a piece is what would go on if it stood alone.
    """
    parts = list(piece)
    while len(parts) > 1:
        known = [(ids[joined], i) for i, joined in enumerate(map("".join, zip(parts, parts[1:], strict=False))) if joined in ids]
        if not known:
            return None
        _, i = min(known)
        if len(parts) == 2:
            return parts[0], parts[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return None
