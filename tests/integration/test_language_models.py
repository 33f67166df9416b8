"""Text for language models: rows, networks, scores, and runs that are resumed and shared to the bit."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from kdbench.config.build import build
from kdbench.core.logits import ProjectedLogits
from kdbench.core.records import records
from kdbench.core.types import IGNORED, Batch, Tokens
from kdbench.data.images.image_io import DataError
from kdbench.data.text.rationale_lm import LanguageData
from kdbench.metrics.token import TokenScores
from kdbench.models.features import answer_batch
from kdbench.models.language.causal_lm import causal_lm
from kdbench.runs.cohort import cohorts
from kdbench.runs.execute import run, run_cohort
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import Plan, make_plan
from kdbench.tasks import task_of
from kdbench.teachers.store import put
from kdbench.training.evaluation import Scoring
from kdbench.training.run_folder import RunFolder
from tests.helpers.composition import compose_checked

register()


@pytest.fixture(scope="module")
def data() -> LanguageData:
    made = LanguageData(name="svamp", seed=0, batch_size=8, vocabulary=400, max_prompt=24, max_response=20)
    made.setup()
    return made


def decoded(data: LanguageData, ids) -> str:
    return data.tokenizer.decode(list(ids), skip_special_tokens=True)


def test_rows_are_the_tokens_of_the_response_and_its_end(data):
    batch = data.eval_batch("test", 0, 5)
    tokens = batch.texts["text"]
    for row, (prompt, response) in enumerate(data.texts["test"][:5]):
        ids, labels = tokens.ids[row][tokens.mask[row]].tolist(), tokens.labels[row].tolist()
        said = [label for label in labels if label != IGNORED]
        first = labels.index(said[0])
        assert ids[0] == ids[first] == data.end_id  # before the prompt and between the two
        assert ids[first + 1 :] == said[:-1], "each position says the token after it"
        assert prompt.startswith(decoded(data, ids[1:first])[:20])
        assert decoded(data, said)[:15] == response[:15]
        assert len(said) <= 20
    assert torch.equal(batch.target, tokens.labels[tokens.labels != IGNORED])


def test_batches_are_functions_of_their_position_and_a_pass_shows_every_text_once(data):
    again = LanguageData(name="svamp", seed=0, batch_size=8, vocabulary=400, max_prompt=24, max_response=20)
    again.setup()
    late = again.train_batch(2, 3)
    assert torch.equal(late.inputs, data.train_batch(2, 3).inputs)
    shown = torch.cat([data.train_batch(1, step).index.unique() for step in range(data.steps_per_epoch)])
    assert sorted(shown.tolist()) == list(range(data.train_size))


def test_the_validation_part_is_held_out_by_its_own_seed(data):
    parts = [set(data.texts[split]) for split in ("train", "validation", "test")]
    assert abs(len(data.texts["validation"]) - 0.1 * (data.train_size + len(data.texts["validation"]))) <= 1
    whole = LanguageData(name="svamp", seed=3, batch_size=8, vocabulary=400, validation=0.0)
    whole.load()
    assert set(whole.texts["train"]) == parts[0] | parts[1]
    assert whole.eval_splits == ("test",)
    assert data.final_splits == ("test",)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"name": "esnli"}, "name must be cqa or svamp"),
        ({"vocabulary": 10}, "vocabulary"),
        ({"validation": 1.0}, "validation"),
        ({"max_prompt": 400, "max_response": 400}, "a context of 512 tokens"),
    ],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=named):
        LanguageData(**{"name": "svamp", "seed": 0, "batch_size": 8, **wrong})


def test_missing_texts_say_where_was_looked(tmp_path):
    with pytest.raises(DataError, match="data set cqa not found in"):
        LanguageData(name="cqa", seed=0, batch_size=8, path=str(tmp_path)).setup()


# ---- the network


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return causal_lm("lm_tiny", 50).eval()


def batch_of(*rows: list[int]) -> Batch:
    """Every token but the first is a row."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row[1:] + [IGNORED] * (longest - len(row) + 1) for row in rows])
    tokens = Tokens(ids, ids != 0, labels)
    return Batch(ids, labels[tokens.valid], torch.zeros(0), texts={"text": tokens})


@torch.no_grad()
def test_padding_and_what_comes_later_change_nothing(network):
    alone = answer_batch(network, batch_of([3, 4, 5])).logits
    padded = answer_batch(network, batch_of([3, 4, 5], [7, 8, 9, 10, 11])).logits
    torch.testing.assert_close(padded[:2], alone)
    longer = answer_batch(network, batch_of([3, 4, 5, 6])).logits
    torch.testing.assert_close(longer[:2], alone)


def test_it_answers_before_its_last_layer_and_learns_through_both_uses_of_its_words(network):
    answer = answer_batch(network, batch_of([3, 4, 5]))
    assert isinstance(answer.lazy_logits, ProjectedLogits)
    assert answer.logits.shape == (2, 50)
    assert answer.lazy_logits.weight is network.transformer.wte.weight
    assert len(network.state_dict()) == len(set(map(torch.Tensor.data_ptr, network.state_dict().values())))


def test_an_unknown_network_is_refused_with_what_is_possible():
    words = ["dataset=svamp_lm", "student=resnet8"]
    with pytest.raises(ValueError, match=r"resnet8.*lm_tiny, lm_small, lm_medium"):
        make_plan(compose_checked("train", words), {})


def test_a_loss_for_images_is_refused():
    with pytest.raises(ValueError, match="the task of svamp_lm is lm, and at is for images"):
        make_plan(compose_checked("train", ["dataset=svamp_lm", "loss=at"]), {})


def test_a_missing_teacher_is_answered_with_the_command_that_trains_it(tmp_path):
    words = ["dataset=svamp_lm", "dataset.vocabulary=321", "teacher=lm_medium", f"output={tmp_path}"]
    command = "kdbench train-teacher dataset=svamp_lm dataset.vocabulary=321 teacher=lm_medium\n"
    with pytest.raises(ValueError, match=command):
        run(plan(*words))
    with pytest.raises(ValueError, match=r"teacher\.checkpoint"):
        make_plan(compose_checked("train_teacher", [*words, "teacher.checkpoint=x"]), {})


# ---- the scores


def test_scores_are_means_over_tokens_however_they_come(network):
    draw = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(23, 50, generator=draw) for _ in range(2))
    target = torch.randint(50, (23,), generator=draw)
    metric = TokenScores()
    for start, stop in ((0, 1), (1, 15), (15, 23)):
        span = slice(start, stop)
        metric.update(network, Batch(target, target[span], target), logits[span], teacher[span])
    found = metric.compute()
    nll = F.cross_entropy(logits, target).item()
    assert found["nll"] == pytest.approx(nll, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(nll), rel=1e-6)
    assert found["token_accuracy"] == pytest.approx(100 * (logits.argmax(1) == target).float().mean().item())
    agree = (logits.argmax(1) == teacher.argmax(1)).float().mean().item()
    assert found["agreement"] == pytest.approx(100 * agree)
    metric.update(network, Batch(target, target, target), logits)
    assert "agreement" not in metric.compute()


# ---- runs


SHORT = [
    "teacher=lm_tiny",
    "schedule.epochs=2",
    "schedule.batch_size=64",
    "dataset.max_response=12",
    "log_every=3",
    "save_every=0",
]


def plan(*words: str) -> Plan:
    return make_plan(compose_checked("train", list(words)), dict(word.split("=", 1) for word in words))


@pytest.fixture(scope="module")
def teacher(common) -> None:
    """Random weights in the store: what it answers does not matter here."""
    cfg = compose_checked("train", [*common, *SHORT])
    made = build(cfg.dataset, seed=0, batch_size=8)
    made.setup()
    torch.manual_seed(1)
    put(
        task_of(made).build_model(made, "lm_tiny"),
        made.label_space,
        "lm_tiny",
        {"model": "lm_tiny", **made.label_info},
    )


class KillError(Exception):
    """Stands for a kill."""


def weights(output) -> dict[str, torch.Tensor]:
    ((folder, _),) = list(records(output))
    return torch.load(folder / "state.pt", weights_only=True)["model"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, common, teacher):
    output = tmp_path_factory.mktemp("whole")
    record = run(plan(*common, *SHORT, "loss=js", f"output={output}"))
    assert record["task"] == "lm"
    assert record["results"]["best_validation"].keys() >= {"nll", "perplexity", "agreement"}
    return output


def test_a_killed_run_is_resumed_to_the_bit(tmp_path, common, whole, monkeypatch):
    words = [*common, *SHORT, "loss=js", f"output={tmp_path}"]
    append = RunFolder.append_metrics

    def die(folder, row):
        if (row["epoch"], row.get("step")) == (2, 6):
            raise KillError
        append(folder, row)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", die)
        with pytest.raises(KillError):
            run(plan(*words))
    run(plan(*words, "resume=true"))
    ours = weights(tmp_path)
    for name, value in weights(whole).items():
        assert torch.equal(value, ours[name]), name


def test_a_student_in_a_cohort_is_the_same_to_the_bit(tmp_path, common, whole, monkeypatch):
    plans = [plan(*common, *SHORT, f"loss={loss}", f"output={tmp_path}") for loss in ("js", "abkd_lm")]
    (group,) = cohorts(plans)
    scored: list[tuple[str, int]] = []
    logits = Scoring._answers

    def counted(self, chunk, batch):
        before = len(self._teacher_logits)
        found = logits(self, chunk, batch)
        scored.extend([(chunk.split, chunk.start)] * (len(self._teacher_logits) - before))
        return found

    monkeypatch.setattr(Scoring, "_answers", counted)
    run_cohort(group)
    passes = Counter(place for place in scored if place[0] == "validation")
    assert set(passes.values()) == {group[0].cfg.trainer.max_epochs}, "one teacher call for both students"
    ((folder, _),) = [found for found in records(tmp_path) if found[1]["names"]["loss"] == "js"]
    state = torch.load(folder / "state.pt", weights_only=True)["model"]
    for name, value in weights(whole).items():
        assert torch.equal(value, state[name]), name
