"""Task files in the forms in which they are passed around become the harness's own items."""

import bz2
import json

import pytest

from lolm.config import ConfigError
from lolm.data.errors import DataError
from lolm.downstream.local_files import file_of, folder_hash, read_rows
from lolm.downstream.scoring import Tasks

ARC = {"query": "Question: Which is hot?", "choices": ["ice", "snow", "fire"], "gold": 2}
BOX = "The trophy did not fit in the case because the"
WINOGRANDE = {"context_options": [f"{BOX} trophy", f"{BOX} case"], "continuation": "was too big.", "gold": 0}
PIQA = [
    {"goal": "dresser", "sol1": "put clothes in", "sol2": "put soup in"},
    {"goal": "cup", "sol1": "eat it", "sol2": "fill it"},
]
HELLASWAG = "Fishing: A man sits. the US man\n1\nflies.\ncatches a fish.\nsings.\nsleeps.\n"
BLIMP = {"sentence_good": "Dogs bark.", "sentence_bad": "Dogs barks."}


def write_rows(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_rows(folder / "arc_easy.jsonl", ARC)
    question = {"question": "Which is hot?", "choices": {"text": ARC["choices"], "label": ["1", "2", "3"]}, "answerKey": "3"}
    write_rows(folder / "arc_challenge.jsonl", question)  # as on the hub
    write_rows(folder / "winogrande.jsonl", WINOGRANDE)
    write_rows(folder / "piqa_valid.jsonl", *PIQA)
    (folder / "piqa_valid-labels.lst").write_text("0\n1\n")
    (folder / "hellaswag_val_full.txt.bz2").write_bytes(bz2.compress(HELLASWAG.encode()))
    write_rows(folder / "lambada_test_openai.jsonl", {"text": "They met at the old mill"})
    write_rows(folder / "wikitext.jsonl", {"page": " = Title = \n One sentence , two ."})
    write_rows(folder / "mmlu" / "anatomy.jsonl", {"question": " Where? ", "choices": ["a", "b", "c", "d"], "answer": 3})
    write_rows(folder / "blimp" / "adjunct_island.jsonl", BLIMP)
    return folder


NAMES = (
    "arc_easy", "arc_challenge", "winogrande", "piqa", "hellaswag", "lambada_openai", "wikitext", "mmlu_anatomy",
    "blimp_adjunct_island",
)  # fmt: skip


def test_the_harness_asks_its_own_questions(folder):
    """Context, continuations and right answer of one item of every task, whatever form the file has."""
    tasks = Tasks(NAMES, folder, [])
    asked = {}
    for name, task in tasks.tasks.items():
        doc = task.eval_docs[0]
        requests = task.construct_requests(doc, task.fewshot_context(doc, num_fewshot=0), metadata=(name, 0, 1))
        requests = requests if isinstance(requests, list) else [requests]
        gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        asked[name] = [request.args for request in requests], gold
    hot = [("Question: Which is hot?\nAnswer:", f" {choice}") for choice in ARC["choices"]]
    assert asked["arc_easy"] == asked["arc_challenge"] == (hot, 2)
    assert asked["winogrande"] == ([(option, " was too big.") for option in WINOGRANDE["context_options"]], 0)
    assert asked["piqa"] == (
        [("Question: dresser\nAnswer:", " put clothes in"), ("Question: dresser\nAnswer:", " put soup in")],
        0,
    )
    fishing = "Fishing: A man sits. The us man"  # the harness's own capitals
    endings = [(fishing, f" {end}") for end in ("flies.", "catches a fish.", "sings.", "sleeps.")]
    assert (asked["hellaswag"][0], int(asked["hellaswag"][1])) == (endings, 1)
    assert asked["lambada_openai"] == ([("They met at the old", " mill")], " mill")
    assert asked["blimp_adjunct_island"] == ([("", " Dogs bark."), ("", " Dogs barks.")], 0)
    (question, first), *_ = asked["mmlu_anatomy"][0]
    assert question.endswith("Where?\nA. a\nB. b\nC. c\nD. d\nAnswer:")
    assert (first, asked["mmlu_anatomy"][1]) == (" A", 3)
    assert asked["wikitext"][0] == [(" = Title =\nOne sentence, two .",)]


def test_labels_of_piqa_lie_beside(folder, tmp_path):
    assert [row["label"] for row in read_rows(folder / "piqa_valid.jsonl")] == [0, 1]
    write_rows(tmp_path / "piqa.jsonl", *PIQA)
    (tmp_path / "piqa-labels.lst").write_text("0\n")
    with pytest.raises(DataError, match="piqa-labels.lst: 1 labels for the 2 rows"):
        read_rows(tmp_path / "piqa.jsonl")


def test_what_is_missing_or_broken_is_named(folder, tmp_path):
    with pytest.raises(DataError, match=r"task blimp_drop_argument needs blimp/drop_argument.jsonl there"):
        file_of(folder, "blimp_drop_argument", "drop_argument")
    with pytest.raises(DataError, match=r"task piqa needs piqa.jsonl or piqa_valid.jsonl"):
        Tasks(["piqa"], tmp_path, [])
    with pytest.raises(ConfigError, match=r"no task 'arc_eazy' that can be read from local files.*arc_easy"):
        Tasks(["arc_eazy"], folder, [])
    (tmp_path / "arc_easy.jsonl").write_text(json.dumps(ARC) + "\n{\n")
    with pytest.raises(DataError, match=r"arc_easy.jsonl, line 2: not a row"):
        read_rows(tmp_path / "arc_easy.jsonl")
    (tmp_path / "hellaswag.txt").write_text("no context\n" * 6)
    with pytest.raises(DataError, match=r"hellaswag.txt, line 1: not 'activity"):
        read_rows(tmp_path / "hellaswag.txt")


def test_another_file_is_another_folder(folder, tmp_path):
    assert "blimp/adjunct_island.jsonl" in dict(folder_hash(folder))
    write_rows(tmp_path / "a.jsonl", BLIMP)
    before = folder_hash(tmp_path)
    write_rows(tmp_path / "a.jsonl", BLIMP, BLIMP)
    assert folder_hash(tmp_path) != before
