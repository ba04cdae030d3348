"""SentencePiece BPE with byte fallback: lossless, and the same bytes wherever it is trained.

Training sees the training split alone. Text is fed as lines (a newline is a token of its own, so nothing spans it) through an
iterator, because a model that is trained from files carries their paths.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lolm.config import TokenizerConfig
from lolm.corpus.documents import iterate_split, read_manifest
from lolm.data.errors import DataError
from lolm.data.stream import TokenStream
from lolm.records import Layout, made_by, named, read_json, sha256_of, write_bytes, write_json

MAX_LINE = 65_536  # bytes; longer lines are cut for the trainer, which would drop them
META = "\u2581"  # SentencePiece's mark for a space
UNK, EOS = 0, 1
GOLDEN = (math.sqrt(5) - 1) / 2


def train_tokenizer(lines: Iterable[str], vocab_size: int) -> bytes:
    """Train on lines of text (without their newlines); returns the model file's bytes.

    Ids: 0 ``<unk>`` (never produced: unknown characters become bytes), 1 ``</s>`` (end of document), 2 newline, then 256 bytes,
    then merges and characters.

    Raises:
        DataError: the text does not support the vocabulary; the message has SentencePiece's own limit.
    """
    import sentencepiece

    model = io.BytesIO()
    iterator = _Counted(line for line in lines if line)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iterator,
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["\n"],
            unk_id=UNK,
            eos_id=EOS,
            bos_id=-1,
            pad_id=-1,
            max_sentence_length=MAX_LINE,
            num_threads=1,  # the thread count is part of the model's bytes
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise DataError(_explain(str(error), vocab_size, iterator.count)) from None
    return model.getvalue()


class _Counted:
    """Iterator that knows how many lines it gave."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self.count = lines, 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.count += 1
        return line


def _explain(message: str, vocab_size: int, lines: int) -> str:
    if not lines:
        return "the training split has no line of text to train a tokenizer on"
    limit = re.search(r"value <= (\d+)", message)
    if limit:
        return f"tokenizer.vocab_size is {vocab_size}, more than the training text supports; the largest that works is {limit[1]}"
    least = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if least:
        return f"tokenizer.vocab_size is {vocab_size}, too small for the characters of the training text; the least is {least[1]}"
    # Without the place in its source; what it advises besides are options that are not ours.
    reason = re.sub(r"^\w+: \S+\(\d+\) (?:\[(.*)\])?", "", message.strip()).partition(" --")[0].strip()
    return f"tokenizer.vocab_size {vocab_size}: SentencePiece cannot be trained on the {lines} line(s) of the training split" + (
        f" ({reason})" if reason else "; they may have no character that it takes"
    )


def sample_lines(
    documents: Iterable[str], total_bytes: int, limit_bytes: int, counts: Counter[str] | None = None
) -> Iterator[str]:
    """Lines of the documents, at most ``limit_bytes`` of them, spread evenly over all ``total_bytes`` of text.

    Each line at the same rate, whatever its length: multiples of the golden ratio, modulo one, are spread evenly over every
    regular part of the lines (Weyl), so over every second one too, where paragraphs alternate with empty lines.

    ``counts`` gets the lines that are not empty, their bytes without line ends, and the documents that have one.
    """
    counts = Counter() if counts is None else counts
    share = min(1.0, limit_bytes / max(1, total_bytes))
    pieces = given = 0
    for text in documents:
        before = counts["lines"]
        for line in text.split("\n"):
            for piece in _cut(line):
                pieces += 1
                if pieces * GOLDEN % 1 >= share:
                    continue
                size = len(piece.encode()) + 1
                given += size
                if share < 1 and given > limit_bytes:
                    counts["documents"] += counts["lines"] > before
                    return
                counts["lines"] += bool(piece)
                counts["bytes"] += size - 1
                yield piece
        counts["documents"] += counts["lines"] > before


def _cut(line: str) -> Iterator[str]:
    step = MAX_LINE // 4  # a character has at most four bytes
    yield from (line[i : i + step] for i in range(0, len(line), step)) if len(line) > step else (line,)


def build_tokenizer(config: TokenizerConfig, corpus: str | Path, folder: Path) -> dict[str, Any]:
    """Train on a corpus folder's training split and write ``tokenizer.model``, ``token_bytes.npy``, ``tokenizer.json``.

    Returns:
        What ``tokenizer.json`` says: vocab_size, special ids, bytes per token on validation text, checksum of the model. Besides
        ``sample``, what the trainer saw: documents, lines that are not empty, their bytes without line ends, and the share of the
        training split's bytes that this is.

    Raises:
        DataError: the corpus is missing, or its text does not support the vocabulary.
    """
    total = read_manifest(corpus)["splits"]["train"]["bytes"]
    texts = (document.text for document in iterate_split(corpus, "train"))
    sample: Counter[str] = Counter()
    try:
        model = train_tokenizer(sample_lines(texts, total, config.train_bytes, sample), config.vocab_size)
    except DataError as error:
        if config.train_bytes >= total:
            raise
        seen = f"the trainer saw {config.train_bytes:,} of {total:,} bytes (tokenizer.train_bytes)"
        raise DataError(f"{error}; {seen}") from None
    write_bytes(folder / "tokenizer.model", model)
    tokenizer = Tokenizer(model)
    with named(folder / "token_bytes.npy"):
        np.save(folder / "token_bytes.npy", tokenizer.token_bytes)
    n_bytes = n_tokens = 0
    for document in iterate_split(corpus, "validation"):
        n_bytes += len(document.text.encode())
        n_tokens += len(tokenizer.encode(document.text))
    facts = {
        "vocab_size": tokenizer.vocab_size,
        "unk_id": UNK,
        "eos_id": tokenizer.eos_id,
        "validation_bytes_per_token": round(n_bytes / n_tokens, 6),
        "model_sha256": sha256_of(folder / "tokenizer.model"),
    }
    write_json(folder / "tokenizer.json", facts)
    return facts | {"sample": {**sample, "share": round(sample["bytes"] / total, 6)}}


def tokenizer_of(layout: Layout, vocab_size: int) -> Tokenizer:
    """The tokenizer of a scale, for a model of so many ids that was trained on its shards.

    Raises:
        DataError: it is missing or broken; or another than the one that the shards, where they are there, were written with.
    """
    tokenizer = Tokenizer.load(layout.tokenizer)
    if tokenizer.vocab_size != vocab_size:
        raise DataError(f"{layout.tokenizer}: has {tokenizer.vocab_size} ids, the model {vocab_size}; made after its training")
    if layout.shards.is_dir():
        written_with = TokenStream.open(layout.shards, "validation").token_bytes
        if not np.array_equal(tokenizer.token_bytes, written_with):
            raise DataError(
                f"{layout.tokenizer}: other pieces than those that {layout.shards} was written with; made after it: `dvc "
                f"checkout` brings back what the project has recorded, `{made_by(layout.shards)}` writes the shards again"
            )
    return tokenizer


class Tokenizer:
    """Text to ids and back, without loss for any Unicode text.

    Attributes:
        vocab_size: number of ids, V.
        eos_id: id that follows each document.
        pieces: the V pieces as SentencePiece writes them.
        texts: the UTF-8 bytes of text that each of the V ids stands for, empty for control ids.
        token_bytes: (V,) int32, UTF-8 bytes of text of each id; 1 for a byte piece, 0 for control ids.
    """

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._processor.get_piece_size()
        self.eos_id: int = self._processor.eos_id()
        self.pieces: list[str] = [self._processor.id_to_piece(i) for i in range(self.vocab_size)]
        self.texts = [self._bytes_of(i) for i in range(self.vocab_size)]
        self._byte_ids = {self.texts[i]: i for i in range(self.vocab_size) if self._processor.is_byte(i)}
        self.token_bytes = np.array([len(text) for text in self.texts], dtype=np.int32)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Load from a folder that :func:`build_tokenizer` filled; raises DataError when it is missing or broken."""
        path = Path(folder) / "tokenizer.model"
        facts = read_json(Path(folder) / "tokenizer.json")
        try:
            model = path.read_bytes()
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; run `{made_by(path)}` to make it") from None
        if not isinstance(facts, dict) or sha256_of(path) != facts.get("model_sha256"):
            raise DataError(f"{path}: not the model that tokenizer.json describes; delete its folder and run `{made_by(path)}`")
        return cls(model)

    def _bytes_of(self, index: int) -> bytes:
        if self._processor.is_control(index) or self._processor.is_unknown(index):
            return b""
        if self._processor.is_byte(index):
            return bytes([int(self.pieces[index][3:-1], 16)])  # <0x0A>
        return self.pieces[index].replace(META, " ").encode()

    def encode(self, text: str) -> np.ndarray:
        """Text -> (n,) int64 ids. Never adds a control id; a control id's name inside the text is ordinary text.

        Raises:
            DataError: it has half a surrogate pair, as bytes that are no UTF-8 leave it.
        """
        if not text.isascii() and (half := re.search("[\ud800-\udfff]", text)):
            raise DataError(f"the text is no Unicode at character {half.start()} ({half.group()!r}): give UTF-8")
        # SentencePiece takes its own space mark, and a NUL, for something else than text: both go as bytes.
        parts = re.split(f"([{META}\0])", text)
        if len(parts) == 1:
            return np.asarray(self._processor.encode(text), dtype=np.int64)
        ids: list[int] = []
        for part in parts:
            if part in (META, "\0"):
                ids += [self._byte_ids[bytes([b])] for b in part.encode()]
            elif part:
                ids += self._processor.encode(part)
        return np.asarray(ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Ids -> text; control ids give nothing, bytes that are no UTF-8 (a cut character) give U+FFFD."""
        return b"".join([self.texts[i] for i in np.asarray(ids, dtype=np.int64).tolist()]).decode("utf-8", errors="replace")
