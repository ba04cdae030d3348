"""What kind of text a token is part of: function or content word, punctuation, space, digit; start of a sentence or of a word.

Classes are read off the decoded text, not off the pieces: a word is a run of letters (with apostrophes inside), whichever pieces
it was cut into, so that ``▁the`` is a function word where the text goes on with a space and part of a content word in ``▁the`` +
``ory``. The tokens after a token therefore take part in its class; a model knows the whole word at its last piece only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lolm.records import names

# The closed classes of English: articles and determiners, pronouns, prepositions, conjunctions, auxiliaries, particles. Forms
# that the rule for contractions below does not reach are listed too.
_FUNCTION_WORDS = """
a an the this that these those each every either neither some any no none all both half several few many much more most less
least enough such another other others same own
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its
itself they them their theirs themselves one oneself who whom whose which what whoever whomever whichever whatever someone
somebody something anyone anybody anything everyone everybody everything nobody nothing thou thee thy thine thyself ye
about above across after against along amid among amongst around as at before behind below beneath beside besides between
betwixt beyond by concerning despite down during except for from in inside into like near of off on onto out outside over past
per regarding since through throughout till to toward towards under underneath until unto up upon via with within without
and but or nor so yet if unless although though because whereas while whilst when whenever where wherever whether than lest
how why
am is are was were be been being have has had having do does did doing done will would shall should can could may might must
ought need dare used art wert hast hath hadst doth dost didst wilt shalt canst wouldst shouldst
not never too very just only also even there here then thus hence
can't cannot won't shan't ain't 'tis 'twas let's o'clock
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
_PART = re.compile(r"(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*)|(?P<digit>\d+)|(?P<space>\s+)|(?P<other>(?:[^\w\s]|_)+)")
_CONTRACTION = re.compile(r"(?:n't|'(?:s|re|ve|ll|d|m|t))$")
_FULL_STOP = re.compile(r"[.!?…][\"'”’)\]]*\s|\n\s*\n")
_ABBREVIATED = "mr mrs ms messrs dr st rev hon gen col capt lt sgt gov sen rep prof jr sr vs etc no vol co inc"
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
_KINDS = {"space": 1, "other": 2, "digit": 3, "word": 4}  # of a token with several, the highest counts


def is_function_word(word: str) -> bool:
    """Whether a word is of a closed class, in any case; a contraction is if what it shortens is (``they've``, ``don't``)."""
    plain = word.casefold().replace("’", "'")
    return plain in FUNCTION_WORDS or _CONTRACTION.sub("", plain) in FUNCTION_WORDS


def classify(ids: Sequence[int] | np.ndarray, texts: Sequence[bytes], eos_id: int, opens: bool = True) -> dict[str, np.ndarray]:
    """Which tokens of a text are of which class.

    ``function_word content_word punctuation whitespace digit end_of_document`` are disjoint and take up every token that has a
    text, and the end of a document; the others overlap with them. A token that holds parts of several kinds counts as word
    before digit before punctuation before space. Of a word all pieces are ``function_word`` or ``content_word``, and
    ``capitalised`` where its first letter is; its first piece is ``word_start`` (and ``function_word_start`` or
    ``content_word_start``: function words are short, so that the two kinds are compared fairly by these), the others are
    ``continuation``. ``sentence_start`` is the first piece of the first word of a document, of a paragraph, or after a full
    stop, question or exclamation mark that follows no common abbreviation or initial. ``newline`` is a whitespace token with a
    line break.

    Args:
        ids: (n,) token ids.
        texts: UTF-8 bytes of each id, as ``Tokenizer.texts``.
        eos_id: the id between documents; no word or sentence goes across it.
        opens: whether the first token begins a document.

    Returns:
        for each of :data:`lolm.records.names.TOKEN_CLASSES`, (n,) bool.
    """
    ids = np.asarray(ids, dtype=np.int64)
    found = {name: np.zeros(len(ids), dtype=bool) for name in names.TOKEN_CLASSES}
    found[names.ALL][:] = True
    found[names.END_OF_DOCUMENT] = ids == eos_id
    for where, pieces in _documents(ids, texts, eos_id):
        _classify_document(where, pieces, opens or where.start > 0, found)
    return found


def words_and_starts(ids: np.ndarray, texts: Sequence[bytes], eos_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens hold a piece of a word or number, and where a sentence begins, be it with a word or, unlike the class
    ``sentence_start``, with a number.

    Args:
        ids: (n,) token ids, the first of which begins a document.
        texts, eos_id: as of :func:`classify`.

    Returns:
        two (n,) bool; the second is true at the token that holds the first letter or digit of each sentence.
    """
    words, starts = np.zeros(len(ids), dtype=bool), np.zeros(len(ids), dtype=bool)
    for where, pieces in _documents(ids, texts, eos_id):
        for part in _parts(pieces, opens=True):
            words[where][part.tokens] |= part.kind in ("word", "digit")
            starts[where][part.tokens.start] |= part.begins_sentence
    return words, starts


def _documents(ids: np.ndarray, texts: Sequence[bytes], eos_id: int) -> Iterator[tuple[slice, list[bytes]]]:
    """Where each document lies, without its end mark, and the texts of its tokens."""
    start = 0
    for end in [*np.flatnonzero(ids == eos_id).tolist(), len(ids)]:
        yield slice(start, end), [texts[i] for i in ids[start:end].tolist()]
        start = end + 1


@dataclass(frozen=True)
class _Part:
    """A run of letters, digits, white space or other characters of a document, and the tokens that hold a piece of it."""

    kind: str
    content: str
    tokens: slice
    begins_sentence: bool


def _parts(pieces: list[bytes], opens: bool) -> Iterator[_Part]:
    """The parts of (a part of) one document, in order."""
    # A byte that is no UTF-8 here, of a character cut at the end, becomes one character: offsets stay exact.
    text = b"".join(pieces).decode("utf-8", errors="surrogateescape")
    widths = [len(character.encode("utf-8", errors="surrogateescape")) for character in text]
    offsets = np.concatenate([[0], np.cumsum(widths, dtype=np.int64)])
    stops = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    gap, before = "", ""  # what lies between the last word or number and here, and that word
    fresh = opens
    for part in _PART.finditer(text):
        first, last = np.searchsorted(stops, (offsets[part.start()], offsets[part.end()] - 1), side="right")
        tokens, kind, content = slice(int(first), int(last) + 1), str(part.lastgroup), part.group()
        if kind in ("word", "digit"):
            yield _Part(kind, content, tokens, fresh or _ends_sentence(gap, before))
            gap, before, fresh = "", content, False
        else:
            yield _Part(kind, content, tokens, False)
            gap += content


def _classify_document(where: slice, pieces: list[bytes], opens: bool, found: dict[str, np.ndarray]) -> None:
    """Fill in ``found[·][where]``, the tokens of (a part of) one document."""
    kind, word_of = np.zeros(len(pieces), dtype=np.int64), np.full(len(pieces), -1)
    words: list[tuple[int, bool, bool, bool]] = []  # first token, function word, capitalised, first of a sentence
    for part in _parts(pieces, opens):
        kind[part.tokens] = np.maximum(kind[part.tokens], _KINDS[part.kind])
        if part.kind == "word":
            word_of[part.tokens] = len(words)  # a token with parts of two words belongs to the later one
            words.append((part.tokens.start, is_function_word(part.content), part.content[0].isupper(), part.begins_sentence))
    is_word = kind == _KINDS["word"]
    if words:
        starts, function, capital, sentence = (np.array(column)[word_of] for column in zip(*words, strict=True))
        begins = starts == np.arange(len(pieces))
        found[names.FUNCTION_WORD][where] = is_word & function
        found[names.CONTENT_WORD][where] = is_word & ~function
        found[names.CAPITALISED][where] = is_word & capital
        found[names.WORD_START][where] = is_word & begins
        found[names.CONTINUATION][where] = is_word & ~begins
        found[names.FUNCTION_WORD_START][where] = is_word & begins & function
        found[names.CONTENT_WORD_START][where] = is_word & begins & ~function
        found[names.SENTENCE_START][where] = is_word & begins & sentence
    found[names.DIGIT][where] = kind == _KINDS["digit"]
    found[names.PUNCTUATION][where] = kind == _KINDS["other"]
    found[names.WHITESPACE][where] = kind == _KINDS["space"]
    found[names.NEWLINE][where] = found[names.WHITESPACE][where] & np.array([b"\n" in piece for piece in pieces], dtype=bool)


def _ends_sentence(gap: str, before: str) -> bool:
    """Whether a sentence ended in what lies between a word or number and the next one."""
    if not _FULL_STOP.search(gap):
        return False
    abbreviated = before.casefold() in _ABBREVIATIONS or (len(before) == 1 and before.isupper() and before != "I")
    return not (gap.startswith(". ") and abbreviated)
