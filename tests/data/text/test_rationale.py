"""Rationale data, their T5 and their scores, on SVAMP, which is part of the package."""

import pytest
import torch

from kdbench.core.types import Batch
from kdbench.data.images.image_io import DataError
from kdbench.data.text.ragged import Ragged
from kdbench.data.text.rationale import RationaleData, add_noise
from kdbench.data.text.rationale_files import RationaleExample
from kdbench.metrics.rationale import calibration, overlap_scores
from kdbench.models.checkpoints import load_weights, save_weights
from kdbench.models.features import feature_names
from kdbench.models.language.t5 import Generation
from kdbench.tasks import task_of

pytest.importorskip("transformers", reason="the extra `text` is not installed")

TINY = {
    "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2,
    "dropout_rate": 0.0,
}  # fmt: skip


def svamp(**options) -> RationaleData:
    data = RationaleData(name="svamp", seed=0, batch_size=16, vocabulary=400, **options)
    data.setup()
    return data


@pytest.fixture(scope="module")
def data() -> RationaleData:
    return svamp()


@pytest.fixture(scope="module")
def network(data):
    torch.manual_seed(0)
    return task_of(data).build_model(data, "t5_tiny", TINY).eval()


def test_ragged_sequences_are_padded_to_the_longest():
    ragged = Ragged.of([[1, 2, 3], [], [4]])
    ids, mask = ragged.pad(torch.tensor([2, 0, 1]), 9)
    assert ids.tolist() == [[4, 9, 9], [1, 2, 3], [9, 9, 9]]
    assert mask.sum(dim=1).tolist() == [1, 3, 0]


def test_official_split_and_views_of_a_row(data):
    assert [data.eval_size(split) for split in ("train", "validation", "test")] == [720, 80, 200]
    assert (data.eval_splits, data.final_splits, data.steps_per_epoch) == (("validation",), ("test",), 45)
    batch = data.train_batch(1, 0, ("predict", "explain", "raw"))
    row = data.texts["train"][int(batch.index[0])]
    texts = {
        view: (data.decode(tokens.ids[0].tolist()), data.decode(tokens.labels[0][tokens.valid[0]].tolist()))
        for view, tokens in batch.texts.items()
    }
    question = " ".join(row.input.split())
    assert texts["predict"] == (f"predict: {question}", row.label)
    assert texts["explain"][0] == f"explain: {question}"
    assert texts["raw"] == (question, row.label)
    assert batch.target.equal(batch.texts["raw"].labels[batch.texts["raw"].valid])
    assert len(batch.index) == len(batch.target)
    assert batch.texts["predict"].ids.shape[1] == int(batch.texts["predict"].mask.sum(dim=1).max())


def test_epoch_shows_every_row_once_and_epoch_steps_span_passes(data):
    seen = torch.cat([data.train_batch(2, step).index.unique() for step in range(45)])
    assert seen.sort().values.equal(torch.arange(720))
    in_steps = svamp(epoch_steps=100)
    assert in_steps.steps_per_epoch == 100
    for step in (0, 44, 45, 99):
        number, position = divmod(100 + step, 45)
        assert in_steps.train_batch(2, step).index.equal(data.train_batch(number + 1, position).index)
    assert in_steps.rows(1, 0, 100) == 100 * 16


def test_fraction_labels_and_noise_change_the_training_set_only(data):
    small = svamp(fraction=0.25, label_source="llm", rationale_noise=0.5)
    assert len(small.texts["train"]) == 180
    assert small.texts["test"] == data.texts["test"]
    assert small.texts["validation"] == data.texts["validation"]
    assert all(row.label == row.llm_label for row in small.texts["train"])
    assert "25 % of the training set" in small.protocol
    assert "labels of the language model" in small.protocol
    assert small.fingerprint == data.fingerprint


def test_noise_depends_on_its_seed():
    rows = [RationaleExample(str(n), "l", f"a{n} b{n} c{n} d{n}", "l") for n in range(20)]
    exchanged = add_noise(rows, 0.3, "exchange", 0)
    changed = [n for n in range(20) if exchanged[n] != rows[n]]
    assert len(changed) == 6
    assert {row.rationale for row in exchanged} == {row.rationale for row in rows}
    assert add_noise(rows, 0.3, "exchange", 0) == exchanged
    assert add_noise(rows, 0.3, "exchange", 1) != exchanged
    dropped = add_noise(rows, 1.0, "drop", 0)
    assert all(len(row.rationale.split()) == 2 for row in dropped)
    assert add_noise(rows, 0.0, "drop", 0) == rows


def test_invalid_options_are_refused():
    for options, message in (
        ({"rationale_noise": 2.0}, r"dataset: rationale_noise must be in \[0, 1\]"),
        ({"fraction": 0.0}, r"dataset: fraction must be in \(0, 1\]"),
        ({"train_split": "test"}, "dataset: train_split must be train or valid"),
        ({"vocabulary": 3}, "dataset: vocabulary must be finite and at least 300"),
    ):
        with pytest.raises(ValueError, match=message):
            RationaleData(name="svamp", seed=0, batch_size=4, **options)


def test_missing_train_split_message_suggests_another(big_data):
    with pytest.raises(DataError, match=r"anli1 has no train split .*dataset.train_split=valid"):
        RationaleData(name="anli1", seed=0, batch_size=4, path=str(big_data / "dss")).setup()


def test_tokenizer_depends_on_the_texts_alone(data, monkeypatch, tmp_path):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path))
    assert svamp().tokenizer.to_str() == data.tokenizer.to_str()
    assert len(list((tmp_path / "tokenizers").iterdir())) == 1


def test_logits_are_rows_and_padded_parts(data, network):
    assert feature_names(network) == ("pooled",)
    batch = data.train_batch(1, 0, ("predict", "explain"))
    answer = network.answer_batch(batch, ("pooled",))
    predict = batch.texts["predict"]
    assert answer.logits.shape == (len(batch.target), data.num_classes)
    assert answer.logits.equal(answer.parts["predict"].logits[predict.valid])
    assert answer.parts["explain"].logits.shape[:2] == batch.texts["explain"].labels.shape
    loss = network.network(input_ids=predict.ids, attention_mask=predict.mask, labels=predict.labels).loss
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(answer.logits, batch.target))
    assert answer.parts["explain"].features["pooled"].shape == (16, 16)


def test_padding_does_not_change_logits(data, network):
    batch = data.eval_batch("test", 0, 8)
    together = network.answer_batch(batch).logits
    alone = torch.cat([network.answer_batch(data.eval_batch("test", n, n + 1)).logits for n in range(8)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_tied_weights_are_saved_once_and_restored(data, network, tmp_path):
    save_weights(network, tmp_path / "w.safetensors", {})
    assert not any("lm_head" in name for name in network.state_dict())
    other = task_of(data).build_model(data, "t5_tiny", TINY).eval()
    load_weights(other, tmp_path / "w.safetensors")
    batch = data.eval_batch("test", 0, 2)
    assert other.answer_batch(batch).logits.equal(network.answer_batch(batch).logits)
    assert other.network.lm_head.weight is other.network.shared.weight


def test_initial_loss_is_that_of_a_uniform_prediction(data, network):
    """Tied but unscaled outputs would start at a cross-entropy of 60."""
    batch = data.train_batch(1, 0)
    loss = torch.nn.functional.cross_entropy(network.answer_batch(batch).logits, batch.target)
    assert loss.item() < 2 * torch.tensor(float(data.num_classes)).log().item()


def test_generation_is_greedy(data, network):
    tokens = data.eval_batch("test", 0, 3).texts["predict"]
    generated = network.generate(tokens, 5)
    ids = torch.cat([torch.zeros(3, 1, dtype=torch.int64), generated.ids], dim=1)
    for position in range(generated.ids.shape[1]):
        logits = network.network(
            input_ids=tokens.ids, attention_mask=tokens.mask, decoder_input_ids=ids[:, : position + 1]
        ).logits[:, -1]
        live = ~(generated.ids[:, :position] == 1).any(dim=1)
        assert logits.argmax(dim=-1)[live].equal(generated.ids[live, position])
        log = logits.log_softmax(dim=-1).max(dim=-1).values
        torch.testing.assert_close(log[live], generated.log_probability[live, position], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("t5_tiny", {"pretrained": "/nowhere/t5"}, "needs the tokens that it was trained with"),
        ("t5_tiny", {"d_modle": 3}, "T5Config has no such key"),
    ],
)
def test_invalid_networks_are_refused(data, name, options, message):
    with pytest.raises(ValueError, match=message):
        task_of(data).build_model(data, name, options)
    with pytest.raises(ValueError, match="model resnet8: task=rationale of svamp needs one of t5_tiny"):
        task_of(data).check_model(data, "resnet8")


def test_missing_pretrained_network_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"/nowhere/t5 cannot be loaded .*student.options.pretrained=FOLDER"):
        svamp(tokenizer="/nowhere/t5")


def score(data, texts, monkeypatch, split="test"):
    from kdbench.metrics import rationale as module

    class Scripted(torch.nn.Module):
        def generate(self, tokens, max_tokens):
            ids = [[*data.tokenizer.encode(text, add_special_tokens=False).ids, 1] for text in texts]
            longest = max(map(len, ids))
            rows = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
            return Generation(rows, torch.full(rows.shape, -0.01))

    monkeypatch.setattr(module, "T5", Scripted)
    metric, batch = task_of(data).build_metric(data, split), data.eval_batch(split, 0, len(texts))
    only = Batch(batch.inputs, batch.target, batch.index, texts={"predict": batch.texts["predict"]})
    metric.update(Scripted(), only, torch.zeros(len(batch.target), data.num_classes))
    return metric, metric.compute()


def test_scores_of_correct_labels_values_and_junk(data, monkeypatch):
    labels = [data.texts["test"][row].label for row in range(4)]
    assert labels[0] == "( 10.0 * 45.0 )"
    metric, scores = score(data, [labels[0], "( 10.0 - 9.0 )", "()", "9 ** 9"], monkeypatch)
    assert (scores["accuracy"], scores["exact_match"], scores["unparsed"]) == (50, 25, 50)
    assert scores["nll"] == pytest.approx(torch.tensor(float(data.num_classes)).log().item(), rel=1e-5)
    assert metric.samples[0]["prediction"] == labels[0]
    assert score(data, labels, monkeypatch)[1]["accuracy"] == 100


def test_calibration_equals_values_by_hand():
    confidence, right = [0.9] * 20 + [0.3] * 20, [True] * 10 + [False] * 10 + [True] * 6 + [False] * 14
    errors = calibration(confidence, right, "ece")
    assert errors["ece"] == pytest.approx(20, abs=1e-3)
    assert errors["ece_mass"] == pytest.approx(20, abs=1e-9)
    assert calibration([1.0], [True], "e") == {"e": pytest.approx(0, abs=1e-4), "e_mass": 0.0}


def test_quality_of_equal_and_unrelated_rationales():
    pytest.importorskip("rouge_score", reason="the extra `text` is not installed")
    same = overlap_scores([("the answer is two plus two .", "the answer is two plus two .")])
    assert same == {"rouge_l": 100.0, "bleu": pytest.approx(100)}
    other = overlap_scores([("nothing of it", "the answer is two plus two .")])
    assert other["rouge_l"] == 0
