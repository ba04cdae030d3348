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
    assert [row["label"] for row in read_rows(folder / "piqa_valid.jsonl", "piqa")] == [0, 1]
    write_rows(tmp_path / "piqa.jsonl", *PIQA)
    (tmp_path / "piqa-labels.lst").write_text("0\n")
    with pytest.raises(DataError, match="piqa-labels.lst: 1 labels for the 2 rows"):
        read_rows(tmp_path / "piqa.jsonl", "piqa")


def test_what_is_missing_or_broken_is_named(folder, tmp_path):
    with pytest.raises(DataError, match=r"task blimp_drop_argument needs blimp/drop_argument.jsonl there"):
        file_of(folder, "blimp_drop_argument", "drop_argument")
    with pytest.raises(DataError, match=r"task piqa needs piqa.jsonl or piqa_valid.jsonl"):
        Tasks(["piqa"], tmp_path, [])
    with pytest.raises(ConfigError, match=r"no task 'arc_eazy' that can be read from local files.*arc_easy"):
        Tasks(["arc_eazy"], folder, [])


def line(row, **changes):
    """A row as a line, its text as it is, without the keys that are changed to None."""
    kept = {key: value for key, value in (row | changes).items() if value is not None}
    return json.dumps(kept, ensure_ascii=False).encode() + b"\n"


HUB_PIQA = PIQA[0] | {"label": 0}
HUB_ARC = {"question": "Hot?", "choices": {"text": ["ice", "fire"], "label": ["A", "B"]}, "answerKey": "B"}
HUB_MMLU = {"question": "Where?", "choices": ["a", "b", "c", "d"], "answer": 3}


@pytest.mark.parametrize(
    ("task", "name", "content", "said"),
    [
        ("arc_easy", "a.jsonl", line(ARC) + b"{\n", "line 2 is not valid JSON"),
        ("arc_easy", "a.jsonl", line(ARC) + b"\n[1]\n", "line 3 is not a JSON object"),
        ("arc_easy", "a.jsonl", line(ARC) + line(ARC, query="Voil\u00e0").decode().encode("latin-1"), "line 2: not UTF-8"),
        ("arc_easy", "a.jsonl", b"\n" + line(ARC, gold=None), "line 2: not a row of arc_easy (KeyError('gold'))"),
        ("arc_easy", "a.jsonl", line(ARC, gold=-1), "line 1: not a row of arc_easy (ValueError('gold: -1 is not"),
        ("arc_easy", "a.jsonl", line(ARC, gold=""), "gold: '' is not one of 0 to 2"),
        ("arc_easy", "a.jsonl", line(ARC, choices="abc"), "3 choices, all of them texts, are needed"),
        ("arc_easy", "a.jsonl", line(HUB_ARC, answerKey=""), "(answerKey: '' is not a text; it is empty)"),
        ("arc_easy", "a.jsonl", line(HUB_ARC, answerKey="C"), "(answerKey: 'C' is no label of a choice)"),
        ("arc_easy", "a.jsonl", line(HUB_ARC, choices=None), "(missing key 'choices')"),
        ("arc_easy", "a.jsonl", b"\n\n", "has no row"),
        ("winogrande", "a.jsonl", line(WINOGRANDE, gold=True), "gold: True is not one of 0 to 1"),
        ("winogrande", "a.jsonl", line(WINOGRANDE, context_options=["a"]), "2 choices, all of them texts, are needed"),
        ("piqa", "a.jsonl", line(HUB_PIQA) + line(PIQA[0]), "line 2: not a row of piqa (missing key 'label')"),
        ("piqa", "a.jsonl", line(HUB_PIQA, label=2), "(label: 2 is not one of 0, 1"),
        ("mmlu_anatomy", "a.jsonl", line(HUB_MMLU, choices=["a"]), "(choices: expected 4 values, got 1)"),
        ("blimp_x", "a.jsonl", line(BLIMP, sentence_bad=3), "(sentence_bad: expected str, got int 3)"),
        ("lambada_openai", "a.jsonl", line({"text": " "}), "(text: ' ' is not a text; it is empty)"),
        ("wikitext", "a.jsonl", line({"text": "x"}), "(missing key 'page')"),
        ("piqa", "a.parquet", b"PAR1 and no more", "not a readable Parquet file"),
        ("hellaswag", "a.txt", b"no context\n" * 6, "line 1: not 'activity"),
        ("hellaswag", "a.txt", HELLASWAG.replace("\n1\n", "\n\n").encode(), "line 1: not 'activity"),
        ("hellaswag", "a.txt", (HELLASWAG + "Fishing: A man\n1\n").encode(), "line 7: not 'activity"),
        ("hellaswag", "a.txt.bz2", bz2.compress(HELLASWAG.encode())[:-8], "the compressed file is broken after line"),
        ("hellaswag", "a.txt.bz2", b"no bzip2", "the compressed file is broken after line 0"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_line_that_names_file_and_line(tmp_path, task, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / name, task)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_beside_are_checked(tmp_path):
    write_rows(tmp_path / "piqa.jsonl", *PIQA)
    for content, said in ((b"0\n\nx\n", "line 3: 'x' is no label; 0 or 1"), (b"0\n\xff\n", "line 2: not UTF-8")):
        (tmp_path / "piqa-labels.lst").write_bytes(content)
        with pytest.raises(DataError, match=f"piqa-labels.lst: {said}"):
            read_rows(tmp_path / "piqa.jsonl", "piqa")


def test_marks_blank_lines_and_separators_of_unicode_are_no_rows(tmp_path):
    text = "a\u2028b\u0085c"
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + line({"text": text}) + b"\r\n\n" + line({"text": "d"})[:-1])
    assert read_rows(tmp_path / "a.jsonl", "lambada_openai") == [{"text": text}, {"text": "d"}]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + HELLASWAG.replace("man sits", "man\u2028sits").encode() + b"\n")
    (row,) = read_rows(tmp_path / "a.txt", "hellaswag")
    assert (row["activity_label"], row["ctx_a"], row["label"]) == ("Fishing", "A man\u2028sits.", "1")


def test_a_parquet_file_has_the_rows_of_the_hub(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist([HUB_PIQA]), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet", "piqa") == [HUB_PIQA]
    pq.write_table(pa.Table.from_pylist([HUB_PIQA, HUB_PIQA | {"label": 7}]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: row 2: not a row of piqa \(label: 7"):
        read_rows(tmp_path / "a.parquet", "piqa")


def test_another_file_is_another_folder(folder, tmp_path):
    assert "blimp/adjunct_island.jsonl" in dict(folder_hash(folder))
    write_rows(tmp_path / "a.jsonl", BLIMP)
    before = folder_hash(tmp_path)
    write_rows(tmp_path / "a.jsonl", BLIMP, BLIMP)
    assert folder_hash(tmp_path) != before
