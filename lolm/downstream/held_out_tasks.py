"""Two tasks made from documents that no part of training has seen, for models too small for the public ones.

Wrong answers are made of a document's own words, so that what is asked is their order and not the vocabulary. Which items there
are depends on the documents and a seed alone: every model is asked the same.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lolm.records import names

SEED = 0
ITEMS = 1000  # at most; which ones of those that there are is drawn
CANDIDATES = 4  # of a cloze
LEAST, MOST = 6, 40  # words of a sentence that is asked about
_SENTENCE = re.compile(r"(?:\b(?:Mrs?|Dr|St)\.|[^.!?])+[.!?](?=\s|$)")
_ENDED = re.compile(r"(?s)(.+) ([a-z]{3,})([.!?])")  # before the last word, that word, its mark
_WORD = re.compile(r"[a-z]+")

Item = dict[str, Any]


def cloze(texts: Iterable[str]) -> list[Item]:
    """Which of four words ends a sentence: its own, or one of three that end other sentences of the same document.

    The context is the sentence before it and its own beginning; each choice carries the sentence's mark, so that a word is
    scored to its end. Words are lower case, of three letters or more, and all four differ. Chance is 1/4: the right
    one's place is drawn.
    """

    def items(sentences: list[tuple[str, str]], draw: random.Random) -> Iterator[Item]:
        ended = [(before, _ENDED.fullmatch(sentence)) for before, sentence in sentences]
        words = sorted({match[2] for _, match in ended if match})
        for before, match in ended:
            if match and len(words) >= CANDIDATES:
                others = draw.sample([word for word in words if word != match[2]], CANDIDATES - 1)
                gold = draw.randrange(CANDIDATES)
                choices = [f"{word}{match[3]}" for word in [*others[:gold], match[2], *others[gold:]]]
                yield {"context": f"{before} {match[1]}".strip(), "choices": choices, "gold": gold}

    return _spread(texts, items)


def minimal_pairs(texts: Iterable[str]) -> list[Item]:
    """A sentence, and the same with two neighbouring words changed over: which of the two is likelier.

    Both words are of lower-case letters alone, differ, and are not the sentence's first. Both sentences have the same words;
    chance is 1/2, the right one's place is drawn.
    """

    def items(sentences: list[tuple[str, str]], draw: random.Random) -> Iterator[Item]:
        for _, sentence in sentences:
            words = sentence.split(" ")
            plain = [i for i, word in enumerate(words) if i and _WORD.fullmatch(word)]
            places = [i for i in plain if i + 1 in plain and words[i] != words[i + 1]]
            if places:
                i = draw.choice(places)
                changed = " ".join([*words[:i], words[i + 1], words[i], *words[i + 2 :]])
                gold = draw.randrange(2)
                yield {"context": "", "choices": [changed, sentence] if gold else [sentence, changed], "gold": gold}

    return _spread(texts, items)


OWN: dict[str, Callable[[Iterable[str]], list[Item]]] = {names.CLOZE: cloze, names.MINIMAL_PAIRS: minimal_pairs}


def sentences_of(text: str) -> list[tuple[str, str]]:
    """(sentence before it or nothing, sentence) of every sentence of LEAST to MOST words that stands whole in one paragraph."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        before = ""
        for match in _SENTENCE.finditer(" ".join(paragraph.split())):
            sentence = match[0].strip()
            if LEAST <= len(sentence.split(" ")) <= MOST:
                found.append((before, sentence))
            before = sentence
    return found


def _spread(texts: Iterable[str], items: Callable[[list[tuple[str, str]], random.Random], Iterator[Item]]) -> list[Item]:
    """At most ITEMS of what a document's sentences give, in their order; which ones is drawn."""
    draw = random.Random(SEED)
    found = [item for text in texts for item in items(sentences_of(text), draw)]
    return [found[i] for i in sorted(draw.sample(range(len(found)), min(ITEMS, len(found))))]
