"""Pretrained networks with their tokenizers from a folder: GPT-2, other causal models, and T5."""

import json
import shutil

import pytest
import torch

from kdbench.cli.evaluate import main as evaluate
from kdbench.core.logits import ProjectedLogits
from kdbench.core.records import records
from kdbench.core.types import Batch, Tokens
from kdbench.data.text.rationale_lm import LanguageData
from kdbench.models.checkpoints import load_weights, weights_hash
from kdbench.models.features import answer_batch
from kdbench.models.language.causal_lm import causal_lm
from kdbench.models.language.generation import generate, prompts_of
from kdbench.models.language.t5 import t5
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.tasks import task_of
from tests.helpers.composition import compose_checked
from tests.helpers.model_folders import END, save_gpt2, save_llama, save_t5, save_tokenizer

transformers = pytest.importorskip("transformers", reason="the extra `text` is not installed")
register()


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"))


def data_of(folder, **options) -> LanguageData:
    data = LanguageData(
        name="svamp", seed=0, batch_size=4, tokenizer=str(folder), max_prompt=40, max_response=20, **options
    )
    data.setup()
    return data


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_logits_equal_those_of_transformers(family, request):
    folder = request.getfixturevalue(family)
    data = data_of(folder)
    network = task_of(data).build_model(data, "causal", {"pretrained": str(folder)}).eval()
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    batch = data.eval_batch("test", 0, 4)
    tokens = batch.texts["text"]
    answer = answer_batch(network, batch)
    assert isinstance(answer.lazy_logits, ProjectedLogits)
    expected = reference(input_ids=tokens.ids, attention_mask=tokens.mask).logits[tokens.valid]
    assert answer.logits.shape == (len(batch.target), data.num_classes)
    torch.testing.assert_close(answer.logits, expected[:, : data.num_classes], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_greedy_generation_equals_that_of_transformers(family, request):
    folder = request.getfixturevalue(family)
    data = data_of(folder)
    network = task_of(data).build_model(data, "causal", {"pretrained": str(folder)})
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    prompts = prompts_of(data.eval_batch("test", 0, 3).texts["text"])
    generated = generate([network], prompts, data.end_id, torch.zeros(3, 12, 1), temperature=0.0)
    for prompt, tokens in zip(prompts, generated, strict=True):
        ids = torch.tensor([prompt])
        settings = {
            "max_new_tokens": 12,
            "do_sample": False,
            "pad_token_id": data.end_id,
            "eos_token_id": data.end_id,
        }
        settings["suppress_tokens"] = list(range(data.num_classes, reference.config.vocab_size)) or None
        expected = reference.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :]
        assert tokens == expected.tolist()


def test_end_token_is_the_tokenizers_and_also_pads(gpt2):
    data = data_of(gpt2)
    assert data.tokenizer.id_to_token(data.end_id) == END
    assert data.pad_id == data.end_id
    tokens = data.eval_batch("test", 0, 4).texts["text"]
    assert all(row[0] == data.end_id for row in tokens.ids.tolist())
    assert data.num_classes == data.tokenizer.get_vocab_size()


def test_family_with_scaled_logits_is_refused(tmp_path):
    from transformers import CohereConfig, CohereForCausalLM

    vocab_size = save_tokenizer(tmp_path)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CohereConfig(vocab_size=vocab_size, logit_scale=0.5, max_position_embeddings=128, **sizes)
    CohereForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not a linear layer of the last states"):
        causal_lm("causal", vocab_size, {"pretrained": str(tmp_path)})


def test_networks_that_do_not_fit_the_data_are_refused(gpt2, tmp_path):
    data = data_of(gpt2)
    long = LanguageData(
        name="svamp", seed=0, batch_size=4, tokenizer=str(gpt2), max_prompt=200, max_response=99
    )
    long.setup()
    with pytest.raises(ValueError, match="a context of 256 tokens"):
        task_of(long).build_model(long, "causal", {"pretrained": str(gpt2)})
    with pytest.raises(ValueError, match=r"has 500 tokens.*has 501"):
        causal_lm("causal", 501, {"pretrained": str(gpt2)})
    with pytest.raises(ValueError, match=r"gives other tokens than"):
        task_of(data).build_model(data, "causal", {"pretrained": str(save_gpt2(tmp_path, vocabulary=450))})
    with pytest.raises(ValueError, match=r"nowhere cannot be loaded.*student=lm_tiny needs no pretrained"):
        causal_lm("gpt2", 500, {"pretrained": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match=r"pass options.pretrained=FOLDER"):
        causal_lm("gpt2", 500)
    with pytest.raises(ValueError, match=r"use student=causal"):
        causal_lm("lm_tiny", 500, {"pretrained": str(gpt2)})


def overrides_for(folder, *extra) -> list[str]:
    settings = [
        "dataset=svamp_lm",
        "student=gpt2",
        f"student.options.pretrained={folder}",
        "dataset.max_response=20",
    ]
    settings += [
        "dataset.epoch_steps=3",
        "schedule.batch_size=4",
        "schedule.epochs=2",
        "trainer=cpu",
        "threads=1",
    ]
    return [*settings, "dataset.max_prompt=40", "progress=false", "teacher=none", "loss=ce", *extra]


def plan(*overrides):
    return make_plan(compose_checked("train", list(overrides)), dict(one.split("=", 1) for one in overrides))


def test_recipe_hash_ignores_the_path_of_the_weights(gpt2, tmp_path):
    assert plan(*overrides_for(gpt2)).recipe_hash == plan(*overrides_for(save_gpt2(tmp_path))).recipe_hash


def test_student_starts_from_the_weights_and_the_record_has_their_hash(gpt2, tmp_path):
    run(plan(*overrides_for(gpt2, "schedule.lr=1e-12", f"output={tmp_path}")))
    ((folder, record),) = list(records(tmp_path))
    assert record["state"] == "done"
    trained = torch.load(folder / "state.pt", weights_only=True)["model"]
    start = transformers.AutoModelForCausalLM.from_pretrained(gpt2).transformer.state_dict()
    torch.testing.assert_close({k.removeprefix("transformer."): v for k, v in trained.items()}, start)
    assert len(record["hashes"]["init"]) > 8


def test_small_student_learns_with_the_tokenizer_of_a_pretrained_teacher(gpt2, tmp_path):
    common = [
        one
        for one in overrides_for(gpt2, f"output={tmp_path}")
        if not one.startswith(("student", "teacher", "loss"))
    ]
    teacher = ["teacher=gpt2", f"teacher.options.pretrained={gpt2}"]
    without_teacher = plan(*common, *teacher, "student=lm_tiny", "loss=fkl")
    with pytest.raises(
        ValueError, match=r"kdbench train-teacher .*teacher=gpt2 .*options.pretrained="
    ) as caught:
        run(without_teacher)
    command = next(line for line in str(caught.value).splitlines() if "kdbench train-teacher" in line)
    given = [one for one in command.split("train-teacher ")[1].split() if "=" in one]
    keys = {one.partition("=")[0] for one in given}
    given += [one for one in common if one.partition("=")[0] not in keys]
    run(make_plan(compose_checked("train_teacher", given), dict(one.split("=", 1) for one in given)))
    run(plan(*common, *teacher, "student=lm_tiny", "loss=fkl"))
    by_student = {record["names"].get("student"): record for _, record in records(tmp_path)}
    assert by_student["lm_tiny"]["state"] == "done"
    assert "agreement" in by_student["lm_tiny"]["results"]["last"]


@pytest.mark.parametrize("loss", ["ce", "fkl"])
def test_training_uses_the_dropout_of_the_files(loss, gpt2, tmp_path, monkeypatch):
    """transformers loads networks in eval mode, which would silently disable dropout."""
    is_active = []
    dropout = torch.nn.functional.dropout

    def spy(inputs, p=0.5, training=True, inplace=False):
        is_active.append(bool(p) and training)
        return dropout(inputs, p, training, inplace)

    monkeypatch.setattr(torch.nn.functional, "dropout", spy)
    common = overrides_for(gpt2, f"output={tmp_path}", f"loss={loss}")
    if loss != "ce":
        store_teacher(gpt2)
        common = [*common, "teacher=gpt2", f"teacher.options.pretrained={gpt2}"]
    run(plan(*common, "schedule.epochs=1"))
    assert any(is_active)


def store_teacher(folder, name: str = "gpt2") -> int:
    """Store the network of a folder as a teacher without training it."""
    given = [
        "dataset=svamp_lm",
        "dataset.max_prompt=40",
        "dataset.max_response=20",
        f"model={name.partition('/')[0]}",
    ]
    given += [f"model.options.pretrained={folder}", "checkpoint=hub", f"store={name}", "--json"]
    return evaluate([*given, f"model.name={name}", "dataset.eval_batch_size=64"])


def test_finetuned_network_can_be_stored_as_a_teacher(gpt2, tmp_path, capsys):
    assert store_teacher(gpt2, "causal/mine") == 0
    assert json.loads(capsys.readouterr().out)["token_accuracy"] >= 0
    common = [
        one
        for one in overrides_for(gpt2, f"output={tmp_path}")
        if not one.startswith(("student", "teacher", "loss"))
    ]
    common += ["teacher=causal", "teacher.name=causal/mine", "student=lm_tiny", "loss=fkl"]
    run(plan(*common, f"teacher.options.pretrained={gpt2}"))
    ((_, record),) = list(records(tmp_path))
    assert record["names"]["teacher"] == "causal/mine"
    config = json.loads((gpt2 / "config.json").read_text())
    other = tmp_path / "other"
    shutil.copytree(gpt2, other)
    (other / "config.json").write_text(json.dumps({**config, "n_head": 4}))
    with pytest.raises(ValueError, match="was trained as another causal/mine"):
        run(plan(*common, f"teacher.options.pretrained={other}"))


def test_random_weights_cannot_be_stored_as_a_teacher(capsys):
    given = ["dataset=svamp_lm", "model=lm_tiny", "checkpoint=hub", "store=lm_tiny"]
    assert evaluate(given) == 2
    assert "lm_tiny has no weights but random ones" in capsys.readouterr().err


def test_weights_hash_depends_on_the_config_of_the_files(gpt2, tmp_path):
    config = json.loads((gpt2 / "config.json").read_text())
    other = tmp_path / "other"
    shutil.copytree(gpt2, other)
    (other / "config.json").write_text(json.dumps({**config, "n_head": 4}))
    hashes = [weights_hash(causal_lm("gpt2", 500, {"pretrained": str(one)})) for one in (gpt2, other)]
    assert hashes[0] != hashes[1]
    (other / "config.json").write_text(json.dumps({**config, "transformers_version": "9"}))
    assert weights_hash(causal_lm("gpt2", 500, {"pretrained": str(other)})) == hashes[0]


def test_another_end_token_is_another_vocabulary(gpt2, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(gpt2, other)
    config = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "!"}))
    first, second = data_of(gpt2), data_of(other)
    assert first.fingerprint != second.fingerprint
    assert second.eval_batch("test", 0, 1).target[-1] == second.end_id != first.end_id
    with pytest.raises(ValueError, match="gives other tokens"):
        task_of(first).build_model(first, "gpt2", {"pretrained": str(other)})


def test_family_without_a_kv_cache_is_refused_before_training(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    vocabulary = save_tokenizer(tmp_path)
    MambaForCausalLM(
        MambaConfig(vocab_size=vocabulary, hidden_size=16, num_hidden_layers=1, state_size=4)
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no KV cache"):
        causal_lm("causal", vocabulary, {"pretrained": str(tmp_path)})


# ---- T5


@pytest.mark.parametrize("tied", [True, False])
def test_t5_from_a_folder_equals_transformers_after_a_run(tied, tmp_path):
    folder = save_t5(tmp_path / "t5", tied)
    settings = ["schedule.epochs=1", "dataset.epoch_steps=2", "schedule.batch_size=4", "schedule.lr=1e-12"]
    settings += [
        "trainer=cpu",
        "threads=1",
        "progress=false",
        "dataset.max_answer=4",
        "dataset.quality_samples=2",
    ]
    settings += ["dataset=svamp", "teacher=none", "loss=dss", f"output={tmp_path / 'runs'}"]
    run(plan(*settings, "student=t5_small", f"student.options.pretrained={folder}", "dataset.max_target=12"))
    ((run_folder, record),) = list(records(tmp_path / "runs"))
    assert record["state"] == "done"
    own = t5("t5_small", options={"pretrained": str(folder)})
    load_weights(own, run_folder / "student.safetensors")
    reference = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    own.eval()
    torch.testing.assert_close(own.network.lm_head.weight, reference.lm_head.weight)
    ids = torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]])
    tokens = Tokens(ids, ids != 0, torch.tensor([[4, 5, 1], [6, 1, -100]]))
    batch = Batch(ids, tokens.labels[tokens.valid], torch.zeros(5), texts={"predict": tokens})
    with torch.no_grad():
        expected = reference(input_ids=ids, attention_mask=ids != 0, labels=tokens.labels).logits
        torch.testing.assert_close(answer_batch(own, batch).logits, expected[tokens.valid])
    generated = reference.generate(input_ids=ids, attention_mask=ids != 0, max_new_tokens=6, do_sample=False)[
        :, 1:
    ]
    assert own.generate(tokens, 6).ids.tolist() == generated.tolist()
