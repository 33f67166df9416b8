"""Texts that the teacher or the student writes while it learns: what is written, and runs that learn from it."""

import itertools

import pytest
import torch

from kdbench.core.records import records
from kdbench.core.types import IGNORED
from kdbench.data.text.rationale_lm import LanguageData
from kdbench.losses.on_policy import Policy
from kdbench.models.language.causal_lm import causal_lm
from kdbench.models.language.generation import beam_search, generate
from kdbench.runs.execute import run, run_cohort
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.teachers.store import put
from tests.helpers.composition import compose_checked

pytest.importorskip("transformers", reason="the extra `text` is not installed")
register()

SIZES = {"vocabulary": 400, "max_prompt": 24, "max_response": 12}
TINY = ["dataset=svamp_lm", "trainer=cpu", "threads=1", "progress=false", "schedule.epochs=1", "save_every=0"]
TINY += [f"dataset.{key}={value}" for key, value in SIZES.items()]
TINY += [
    "dataset.epoch_steps=4",
    "schedule.batch_size=4",
    "evaluate_every=1",
    "teacher=lm_tiny",
    "log_every=2",
]


@pytest.fixture(scope="module")
def data() -> LanguageData:
    made = LanguageData(name="svamp", seed=0, batch_size=6, **SIZES)
    made.setup()
    return made


@pytest.fixture(scope="module")
def networks(data):
    torch.manual_seed(0)
    made = [causal_lm("lm_tiny", data.num_classes).eval() for _ in range(2)]
    for network in made:  # far enough from where they begin that they do not repeat the word before
        for weights in network.transformer.h.parameters():
            weights.data += 0.5 * torch.randn_like(weights)
    return made


def responses(batch) -> list[list[int]]:
    labels = batch.texts["text"].labels
    return [[word for word in row if word != IGNORED] for row in labels.tolist()]


def prompts(batch) -> list[list[int]]:
    tokens = batch.texts["text"]
    return [
        ids[: labels.index(next(w for w in labels if w != IGNORED)) + 1]
        for ids, labels in zip(tokens.ids.tolist(), tokens.labels.tolist(), strict=True)
    ]


def greedy_response(network, given, end, longest) -> list[int]:
    """Word by word from the whole sequence, without padding and without a memory."""
    said = []
    while len(said) < longest and end not in said:
        states = network.hidden_states(torch.tensor([[*given, *said]]))
        said.append(int((states[0, -1] @ network.transformer.wte.weight.T).argmax()))
    return said


def test_what_is_written_is_what_the_network_would_say_one_sequence_at_a_time(data, networks):
    batch, (student, teacher) = data.train_batch(1, 0), networks
    greedy = Policy("teacher", temperature=0.0)
    found = greedy.with_generated_responses(batch, student, teacher, *data.generation_limits, seed=0)
    assert prompts(found) == prompts(batch)
    assert responses(found) == [
        greedy_response(teacher, given, *data.generation_limits) for given in prompts(batch)
    ]
    assert responses(found) != responses(
        greedy.with_generated_responses(batch, teacher, student, *data.generation_limits, seed=0)
    )
    tokens = found.texts["text"]
    assert torch.equal(found.target, tokens.labels[tokens.valid])
    assert found.index.unique_consecutive().tolist() == batch.index.unique_consecutive().tolist()
    for row, (ids, labels) in enumerate(zip(tokens.ids.tolist(), tokens.labels.tolist(), strict=True)):
        said, first = responses(found)[row], len(prompts(found)[row])
        assert ids[first : first + len(said) - 1] == said[:-1], "each position says the token after it"
        assert labels[first - 1] == said[0]


def probability(network, before, words) -> float:
    """The log-probability of words after others, one forward pass without a memory."""
    ids = torch.tensor([[*before, *words]])
    with torch.no_grad():
        hidden = network.eval().hidden_states(ids)
        log = torch.nn.functional.linear(hidden, *network.last_layer)[0].double().log_softmax(dim=-1)
    places = range(len(before) - 1, len(ids[0]) - 1)
    return sum(log[place, word].item() for place, word in zip(places, words, strict=True))


def test_a_wide_beam_finds_the_likeliest_of_all_texts():
    """Of five words, texts of at most three: every one of them is tried."""
    torch.manual_seed(3)
    network = causal_lm("lm_tiny", 5)
    with torch.no_grad():
        network.transformer.wte.weight.mul_(8.0)  # opinions, so that rounding decides nothing
    end, prompts = 0, [[1], [2, 3, 4], [4, 4]]
    texts = [
        words
        for length in (1, 2, 3)
        for words in itertools.product(range(5), repeat=length)
        if end not in words[:-1] and (words[-1] == end or length == 3)
    ]
    found = beam_search(network, prompts, end, max_tokens=3, beams=5**3)
    for prompt, words in zip(prompts, found, strict=True):
        assert tuple(words) == max(texts, key=lambda text: probability(network, prompt, text))


def by_hand(network, before, end, longest, beams) -> tuple[int, ...]:
    """A beam over one text, every continuation scored by itself."""
    kept: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in range(longest):
        ended = [one for one in kept if end in one[1]]
        going = [one for one in kept if end not in one[1]]
        ids = [[*before, *words] for _, words in going]
        for (score, words), row in zip(going, ids, strict=True):
            with torch.no_grad():
                last = network.eval().hidden_states(torch.tensor([row]))[0, -1]
            log = torch.nn.functional.linear(last, *network.last_layer).double().log_softmax(dim=-1)
            ended += [(score + value, (*words, word)) for word, value in enumerate(log.tolist())]
        kept = sorted(ended, reverse=True)[:beams]
    return kept[0][1]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_beam_is_that_of_each_text_by_itself(networks, beams):
    (_, teacher), end = networks, 0
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12]]
    found = beam_search(teacher, prompts, end, 6, beams)
    assert [tuple(words) for words in found] == [by_hand(teacher, one, end, 6, beams) for one in prompts]
    if beams == 1:
        chances = torch.zeros(len(prompts), 6, 1, dtype=torch.float64)
        assert found == generate([teacher], prompts, end, chances, temperature=0)


def test_draws_are_a_function_of_their_place_and_follow_the_network(data, networks):
    batch, (student, teacher) = data.train_batch(1, 0), networks
    policy = Policy("student")
    one, again = (
        policy.with_generated_responses(batch, student, teacher, *data.generation_limits, seed=3)
        for _ in range(2)
    )
    assert responses(one) == responses(again)
    assert responses(one) != responses(
        policy.with_generated_responses(batch, student, teacher, *data.generation_limits, seed=4)
    )
    cold = Policy("student", temperature=1e-6).with_generated_responses(
        batch, student, teacher, *data.generation_limits, seed=3
    )
    assert responses(cold) == [
        greedy_response(student, given, *data.generation_limits) for given in prompts(batch)
    ]


def test_the_teacher_replaces_what_it_finds_unlikely(data, networks):
    batch, (student, teacher) = data.train_batch(1, 0), networks

    def by(writer, **settings):
        return responses(
            Policy(writer, **settings).with_generated_responses(
                batch, student, teacher, *data.generation_limits, seed=1
            )
        )

    everything = data.num_classes
    assert by("both", temperature=0.0, top_k=everything) == by("student", temperature=0.0)
    assert by("both", temperature=0.0, top_k=1) == by("teacher", temperature=0.0)
    mixed = by("both", temperature=0.0, top_k=25)
    for given, said in zip(prompts(batch), mixed, strict=True):
        for place, word in enumerate(said):
            states = teacher.hidden_states(torch.tensor([[*given, *said[:place]]]))
            assert word in (states[0, -1] @ teacher.transformer.wte.weight.T).topk(25).indices


def test_a_share_of_the_steps_is_drawn_by_place():
    due = [Policy("student", share=0.3).is_due(0, 1, step) for step in range(2000)]
    assert 0.27 < sum(due) / len(due) < 0.33
    assert due == [Policy("teacher", share=0.3).is_due(0, 1, step) for step in range(2000)]
    assert all(Policy("student").is_due(0, 1, step) for step in range(100))


def plan(*overrides: str):
    return make_plan(
        compose_checked("train", [*TINY, *overrides]), dict(item.split("=", 1) for item in overrides)
    )


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    made = plan("loss=fkl").data
    made.setup()
    torch.manual_seed(1)
    put(
        causal_lm("lm_tiny", made.num_classes),
        made.label_space,
        "lm_tiny",
        {"model": "lm_tiny", **made.label_info},
    )


@pytest.mark.parametrize("loss", ["seqkd", "gkd", "skd"])
def test_runs_learn_from_what_is_written_alone_and_in_a_cohort(tmp_path, teacher, loss):
    plain = {"seqkd": "ce", "gkd": "js", "skd": "fkl"}[loss]
    run(plan(f"loss={loss}", f"output={tmp_path / 'alone'}"))
    members = run_cohort([plan(f"loss={name}", f"output={tmp_path / 'cohort'}") for name in (plain, loss)])
    assert [member.error for member in members] == [None, None]
    ((path, record),) = records(tmp_path / "alone")
    alone = torch.load(path / "state.pt", weights_only=True)["model"]
    shared = {
        m.plan.names["loss"]: torch.load(m.folder.path / "state.pt", weights_only=True) for m in members
    }
    assert all(torch.equal(alone[key], shared[loss]["model"][key]) for key in alone)
    assert any(not torch.equal(alone[key], shared[plain]["model"][key]) for key in alone), (
        "it read the data alone"
    )
    assert "teacher" in record["hashes"]


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match=r"loss\.policy\.writer=me; possible: teacher, student, both"):
        Policy("me")
    with pytest.raises(ValueError, match=r"loss\.policy\.share is a share of the steps, .* got 0"):
        Policy("student", share=0.0)
    with pytest.raises(ValueError, match="temperature from 0 and top_k from 1"):
        Policy("both", top_k=0)
    with pytest.raises(
        ValueError, match=r"loss\.policy: task=images generates no responses; give loss\.policy=null"
    ):
        make_plan(
            compose_checked("train", ["dataset=fake", "loss=gkd", "trainer=cpu", "loss.objectives={}"]), {}
        )
    with pytest.raises(ValueError, match="needs a teacher, and there is none"):
        plan("loss=seqkd", "teacher=none")
    with pytest.raises(ValueError, match=r"loss\.policy\.beams=5: from 1; several need a single writer"):
        Policy("student", beams=5)
    assert plan("loss=fkl").recipe_hash != plan("loss=skd").recipe_hash
    assert plan("loss=seqkd").recipe_hash != plan("loss=seqkd", "loss.policy.beams=5").recipe_hash
