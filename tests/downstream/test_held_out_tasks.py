"""Tasks made from held-out documents, by hand and as a whole."""

import pytest

from lolm.downstream import held_out_tasks as tasks

TEXT = (
    "The old king went down to the river. He saw there a small white boat.\n\n"
    "Nobody knew how long it had been waiting. Mr. Brown was of course the very first to speak!\n\n"
    "Too short. In the end they all went to the town."
)


def test_sentences_stand_whole_in_their_paragraph():
    found = tasks.sentences_of(TEXT)
    assert found[1] == ("The old king went down to the river.", "He saw there a small white boat.")
    assert found[3] == ("Nobody knew how long it had been waiting.", "Mr. Brown was of course the very first to speak!")
    assert found[4] == ("Too short.", "In the end they all went to the town.")  # too short to be asked, not to be context
    assert len(found) == 5


def test_a_cloze_asks_for_the_word_that_ended_the_sentence():
    found = tasks.cloze([TEXT])
    assert len(found) == 5
    ends = ["river", "boat", "waiting", "speak", "town"]
    for item, word, mark in zip(found, ends, "...!.", strict=True):
        assert item["choices"][item["gold"]] == word + mark
        assert len(set(item["choices"])) == 4
        assert {choice[:-1] for choice in item["choices"]} < set(ends)
        assert all(choice.endswith(mark) for choice in item["choices"])
    assert found[1]["context"] == "The old king went down to the river. He saw there a small white"
    assert tasks.cloze(["The old king went down to the river. " * 9]) == []  # no three other words


def test_a_minimal_pair_differs_in_the_order_of_two_words():
    found = tasks.minimal_pairs([TEXT])
    assert len(found) == 5
    for item, (_, sentence) in zip(found, tasks.sentences_of(TEXT), strict=True):
        right, wrong = item["choices"][item["gold"]], item["choices"][1 - item["gold"]]
        assert right == sentence != wrong
        a, b = right.split(" "), wrong.split(" ")
        (i, j) = (k for k in range(len(a)) if a[k] != b[k])
        assert (j, a[i], a[j]) == (i + 1, b[j], b[i])
        assert i
        assert a[i].isalpha()
        assert a[j].isalpha()


@pytest.mark.parametrize("make", tasks.OWN.values(), ids=tasks.OWN)
def test_items_are_a_function_of_the_texts(make, texts, monkeypatch):
    """As many as asked, of every document that has some, right answers at every place alike."""
    people, deeds = ("red", "bold", "cold", "grey"), ("saw", "heard", "wanted")
    documents = [
        " ".join(
            f"The {who} man {did} a {what} of the old {end}."
            for who in people
            for did in deeds
            for what in ("stone", "wall")
            for end in ("house", "garden", "river", "boat", "abcd"[n] * 4)
        )
        for n in range(4)
    ]
    monkeypatch.setattr(tasks, "ITEMS", 200)
    found = make(documents)
    assert len(found) == 200
    assert found == make(documents)
    assert found != make(documents[::-1])
    width = len(found[0]["choices"])
    counts = [sum(item["gold"] == place for item in found) for place in range(width)]
    assert all(abs(count - 200 / width) < 35 for count in counts)
