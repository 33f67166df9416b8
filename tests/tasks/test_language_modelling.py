"""Language modelling: how teachers are trained that read the same tokens."""

from types import SimpleNamespace

import pytest

from kdbench.tasks import TeacherTraining, get

TASK = get("lm")
DATA = SimpleNamespace(name="svamp_lm", label_space="svamp_lm")


@pytest.mark.parametrize(
    ("keys", "pretrained", "training"),
    [
        ({}, None, ("dataset=svamp_lm",)),
        (
            {"vocabulary": 400, "prompt": False},
            None,
            ("dataset=svamp_lm", "dataset.vocabulary=400", "dataset.prompt=False"),
        ),
        ({"eval_batch_size": 7}, None, ("dataset=svamp_lm",)),
        ({"tokenizer": "gpt2"}, None, ("dataset=svamp_lm", "dataset.tokenizer=gpt2")),
        ({"tokenizer": "gpt2"}, "gpt2", ("dataset=svamp_lm",)),
    ],
)
def test_teachers_read_the_tokens_of_the_run(keys, pretrained, training):
    config = {"dataset": keys, "teacher": {"options": {"pretrained": pretrained}}}
    result = TASK.teacher_training(DATA, config, "svamp_lm")
    assert result.dataset == training
    assert result.options == ((f"teacher.options.pretrained={pretrained}",) if pretrained else ())


def test_files_without_an_option_of_their_own_are_instructions():
    config = {"dataset": {"path": "d", "train": "a.jsonl"}, "teacher": {}}
    result = TASK.teacher_training(DATA, config, "mine")
    assert result.dataset == ("dataset=instructions", "dataset.path=d", "dataset.train=a.jsonl")
    assert isinstance(result, TeacherTraining)
