"""Scores of models whose answers are known."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from builders import ArrayStream, make_run

from lolm.config import ConfigError
from lolm.data.errors import DataError
from lolm.downstream import scoring
from lolm.downstream.harness_models import HarnessModel
from lolm.downstream.held_out_tasks import OWN
from lolm.downstream.scoring import Tasks, harness_version
from lolm.records import read, write
from lolm.records.schema import Downstream

ENDS = ("boat", "dog", "hen", "mill")
SENTENCES = [
    f"The {a} man sees a {b} {ENDS[(i + j) % 4]}."
    for i, a in enumerate(("old", "tall", "wise", "poor", "kind", "brave"))
    for j, b in enumerate(("red", "blue", "grey", "white"))
]
N = len(SENTENCES)


class Planted(HarnessModel):
    """Likes the texts that end in what it knows; of all others every token is as likely as any."""

    continued = None

    def __init__(self, tokenizer, known=()):
        super().__init__(tokenizer, 64, 256)
        self.known = tuple(known)

    def losses(self, ids):
        nats = np.full((len(ids), ids.shape[1] - 1), math.log(self.ids.vocab_size))
        knows = np.array([self.ids.decode(row).endswith(self.known) for row in ids])
        nats[knows] /= 100
        return nats, np.repeat(knows[:, None], nats.shape[1], axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "blimp").mkdir()
    for name in ("adjunct_island", "wh_island"):
        rows = [{"sentence_good": f"{s} Yes", "sentence_bad": f"{s} No"} for s in SENTENCES]
        (folder / "blimp" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"text": f"{s} Therefore"} for s in SENTENCES]
    (folder / "lambada_openai.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def own():
    return Tasks(list(OWN), None, [" ".join(SENTENCES)])


def test_who_knows_the_answers_is_right_and_who_guesses_is_at_chance(own, tokenizer):
    made = {name: make([" ".join(SENTENCES)]) for name, make in OWN.items()}
    answers = [
        f"{item['context'].rpartition('. ')[2]} {item['choices'][item['gold']]}".strip()
        for items in made.values()
        for item in items
    ]
    found = own.scores(Planted(tokenizer, answers), Planted(tokenizer))
    for name, items in made.items():
        score, chance = found[name].metrics["acc"], 1 / len(items[0]["choices"])
        assert (found[name].items, score.value, score.error, score.chance) == (N, 1.0, 0.0, chance)
        assert abs(score.bigram - chance) < 3 * math.sqrt(chance * (1 - chance) / N)  # the one that knows nothing
        assert found[name].main == "acc"


def test_the_standard_error_is_that_of_a_share(own, tokenizer):
    half = [item["choices"][item["gold"]] for item in OWN["minimal_pairs"]([" ".join(SENTENCES)])[::2]]
    found = own.scores(Planted(tokenizer, half))["minimal_pairs"].metrics["acc"]
    assert found.error == pytest.approx(math.sqrt(found.value * (1 - found.value) / (N - 1)))
    assert 0.5 < found.value < 1
    assert found.bigram is None


def test_a_task_of_the_harness_beside_an_own_one(folder, tokenizer, tmp_path):
    tasks = Tasks(["blimp_adjunct_island", "lambada_openai", "cloze"], folder, [" ".join(SENTENCES)])
    found = tasks.scores(Planted(tokenizer, ["Yes", "Therefore"]), Planted(tokenizer), limit=6)
    assert {name: scores.items for name, scores in found.items()} == {"blimp_adjunct_island": 6, "lambada_openai": 6, "cloze": N}
    blimp, lambada = found["blimp_adjunct_island"], found["lambada_openai"].metrics
    assert (blimp.metrics["acc"].value, blimp.metrics["acc"].chance) == (1.0, 0.5)
    assert (lambada["acc"].value, lambada["acc"].bigram, lambada["acc"].chance) == (1.0, 0.0, None)
    tokens = len(tokenizer.encode("boat. Therefore")) - len(tokenizer.encode("boat."))
    assert lambada["perplexity"].bigram == pytest.approx(tokenizer.vocab_size**tokens)
    assert lambada["perplexity"].value == pytest.approx(tokenizer.vocab_size ** (tokens / 100))
    record = Downstream("lolm", 1, "lolm · smoke · seed 1", "f00d", harness_version(), 64, 6, found, inputs="1234")
    write(tmp_path / "lolm-1.json", record)
    assert read(tmp_path / "lolm-1.json", Downstream) == record


def test_a_group_is_summed_up_by_the_harness(folder, tokenizer, monkeypatch):
    """Its other parts are missing here, so the group is cut down to two."""
    from lm_eval.tasks import TaskManager

    built = TaskManager.load

    def cut(self, names):
        if "blimp" in names:
            entry = self.task_index["blimp"]
            entry.cfg = {"group": "blimp", "task": ["blimp_adjunct_island", "blimp_wh_island"]} | {
                "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean", "weight_by_size": False}]
            }
            entry.yaml_path = None
        return built(self, names)

    monkeypatch.setattr(TaskManager, "load", cut)
    found = Tasks(["blimp"], folder, []).scores(Planted(tokenizer, ["Yes"]), Planted(tokenizer, ["No"]), limit=5)["blimp"]
    assert found.parts == {"blimp_adjunct_island": 1.0, "blimp_wh_island": 1.0}
    assert (found.items, found.metrics["acc"].value, found.metrics["acc"].bigram, found.metrics["acc"].chance) == (
        10,
        1.0,
        0.0,
        0.5,
    )


TASKS = {  # by name: its tag, and how it is asked
    "pair_a": ("pairs", "metric_list: [{metric: acc_norm}, {metric: acc}]"),
    "pair_b": ("pairs", "metric_list: [{metric: acc}]"),
    "norm_a": ("norms", "metric_list: [{metric: acc_norm}]"),
    "norm_b": ("norms", "metric_list: [{metric: acc_norm}]"),
    "odd_a": ("odd", "metric_list: [{metric: acc}]"),
    "odd_b": ("odd", "metric_list: [{metric: acc_norm}]"),
}
CHOICE = "output_type: multiple_choice\ndoc_to_choice: ['Yes', 'No']\ndoc_to_target: 0\n"
WRITTEN = """
output_type: generate_until
fewshot_split: test
num_fewshot: 5
doc_to_target: 'Yes'
metric_list: [{metric: exact_match}]
generation_kwargs: {until: ['.']}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - {name: loose, filter: [{function: regex, regex_pattern: '(Yes)', fallback: 'none'}, {function: take_first}]}
"""


@pytest.fixture
def defined(tmp_path, monkeypatch):
    """Folder with tasks that the harness is given as its own, and their rows."""
    forms = {name: f"tag: {tag}\n{CHOICE}{metrics}" for name, (tag, metrics) in TASKS.items()} | {"written": WRITTEN}
    for name, form in forms.items():
        what = f"task: {name}\ndataset_path: nowhere\ntest_split: test\ndoc_to_text: text\n{form}"
        (tmp_path / f"{name}.yaml").write_text(what, encoding="utf-8")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": s}) + "\n" for s in SENTENCES))
    (tmp_path / "group.yaml").write_text("group: both\ntask: [pair_a, pair_b]\n", encoding="utf-8")
    monkeypatch.setattr(scoring, "FOLDERS", (str(tmp_path),))
    return tmp_path


def test_a_tag_is_the_mean_of_what_all_its_tasks_have(defined, tokenizer):
    model, reference = Planted(tokenizer, [f"{s} Yes" for s in SENTENCES[:6]]), Planted(tokenizer, ["No"])
    found = Tasks(["pairs", "pair_a", "norms"], defined, []).scores(model, reference, limit=12)
    assert list(found["pairs"].metrics) == ["acc"], "acc_norm is of one alone"
    acc, part = found["pairs"].metrics["acc"], found["pair_a"].metrics["acc"]
    assert (acc.value, acc.error, acc.chance, acc.bigram) == (part.value, None, 0.5, 0.0)
    assert found["pairs"].parts == {"pair_a": part.value, "pair_b": part.value}
    assert found["pairs"].items == 24
    assert (part.bigram, set(found["pair_a"].metrics)) == (0.0, {"acc", "acc_norm"})
    assert part.error is not None
    both = Tasks(["both"], defined, []).scores(model, reference, limit=12)["both"]
    assert both == found["pairs"], "a group that the harness does not sum up"
    assert (list(found["norms"].metrics), found["norms"].main, found["norms"].parts) == (["acc_norm"], "acc_norm", {})


def test_tasks_that_have_no_metric_in_common_are_refused_before_they_are_scored(defined):
    with pytest.raises(
        ConfigError, match=r"tasks of odd have no metric in common \(odd_a: acc,none; odd_b: acc_norm,none\); name"
    ):
        Tasks(["odd"], defined, [])


def test_a_task_beside_its_group_and_a_hub_out_of_reach_are_one_line(defined):
    with pytest.raises(ConfigError, match=r"downstream\.tasks: Duplicate task 'pair_a'.*'both'.*name it alone"):
        Tasks(["both", "pair_a"], defined, [])
    with pytest.raises(DataError, match=r"downstream\.tasks: .*nowhere.*downstream\.data names a folder"):
        Tasks(["pair_b"], None, [])


def test_filtered_answers_are_scored_without_examples(defined, tokenizer):
    class Writes(Planted):
        def continued(self, context, tokens):
            asked.append(self.ids.decode(context))
            yield from self.ids.encode(" Yes, it does.").tolist()[:tokens]

    asked = []
    found = Tasks(["written"], defined, []).scores(Writes(tokenizer), limit=3)["written"]
    assert asked == SENTENCES[:3], "zero-shot, whatever the task says"
    assert {name: metric.value for name, metric in found.metrics.items()} == {"exact_match,strict": 0.0, "exact_match,loose": 1.0}
    assert found.main == "exact_match,strict"


def test_texts_without_a_sentence_are_refused(tokenizer):
    with pytest.raises(DataError, match="no sentence of the test split makes an item of cloze"):
        Tasks(["cloze"], None, ["Too short."])


def test_the_record_of_a_run(monkeypatch, data, folder, tmp_path):
    """The whole stage but for training: a model without training, the project's own tokenizer and test split, and a bigram."""
    from builders import make_model

    from lolm.config import DownstreamConfig
    from lolm.corpus.tokenizer import Tokenizer
    from lolm.evaluation.ngram import Bigram
    from pipeline import downstream as stage

    vocabulary = Tokenizer.load(data / "tokenizer").vocab_size
    run = make_run("lolm", vocab_size=vocabulary, training={"seq_len": 24, "steps": 8, "cooldowns": ()})
    model, asked = make_model("lolm", vocab_size=vocabulary), []
    context = SimpleNamespace(
        run=run,
        trained=SimpleNamespace(at=lambda step: asked.append(step) or model),
        bigram=lambda: Bigram(ArrayStream(900, vocab_size=vocabulary), np.array([[1, 900]])),
        identity={"arm": "lolm", "seed": 1, "name": run.name, "fingerprint": "f00d", "inputs": "1234"},
    )
    layout = SimpleNamespace(
        tokenizer=data / "tokenizer",
        shards=data / "shards",
        corpus=data / "corpus",
        downstream=lambda *key: tmp_path / "record.json",
    )
    config = DownstreamConfig(("minimal_pairs", "blimp_wh_island"), str(folder), 3)
    made = SimpleNamespace(
        params=SimpleNamespace(downstream=config), layout=layout, preset=SimpleNamespace(evaluation=SimpleNamespace(batch_size=2))
    )
    monkeypatch.setattr(stage, "inputs", lambda *of: "1234")
    monkeypatch.setattr(stage, "open_run", lambda *of: context)
    monkeypatch.setitem(
        OWN, "minimal_pairs", lambda texts: [{"context": "", "choices": [texts[0][:9], texts[0][9:20]], "gold": 0}] * 4
    )
    stage.downstream(made, ("lolm", 1))
    record = read(tmp_path / "record.json", Downstream)
    assert (record.max_length, record.limit, asked) == (24, 3, [8])
    assert {name: scores.items for name, scores in record.tasks.items()} == {"minimal_pairs": 4, "blimp_wh_island": 3}
    assert all(scores.metrics["acc"].bigram is not None for scores in record.tasks.values())

    made.params.downstream = DownstreamConfig(("minimal_pairs", "cloze"), str(folder), 3)
    with pytest.raises(ConfigError, match=r"does not name blimp_wh_island, of which .*record\.json has scores"):
        stage.downstream(made, ("lolm", 1))
    assert read(tmp_path / "record.json", Downstream) == record


def test_what_the_command_lacks_is_said(monkeypatch):
    from lolm.config import DownstreamConfig
    from pipeline import downstream as stage

    nowhere = SimpleNamespace(params=SimpleNamespace(downstream=DownstreamConfig(data="no/such/folder")))
    with pytest.raises(ConfigError, match="downstream.data: no folder no/such/folder; null takes"):
        stage.inputs(nowhere, ("lolm", 1))
    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(stage.ExtraError, match=r"pip install -c constraints.txt -e '.\[eval\]'"):
        stage.checked()
