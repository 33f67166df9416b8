"""The results file of a table."""

import json

from kdbench.reports.results_file import encode_results, read_results, without_places
from tests.reports.records import record


def test_a_results_file_is_read_as_it_was_written(tmp_path):
    complete = record()
    (tmp_path / "results.jsonl").write_bytes(
        encode_results("kdbench table demo", [complete], ["kd, seed 1 (nan)"])
    )
    results = read_results(tmp_path / "results.jsonl")
    assert (results.command, results.missing) == ("kdbench table demo", ["kd, seed 1 (nan)"])
    (read_back,) = results.records
    assert read_back["results"] == complete["results"]
    assert "is_stage" not in read_back
    (tmp_path / "results.jsonl").write_bytes(encode_results("kdbench table demo", [complete]))
    assert read_results(tmp_path / "results.jsonl").missing == []


def test_the_first_samples_of_a_run_are_kept(tmp_path):
    samples = [{"split": "test", "row": row, "prediction": str(row)} for row in range(9)]
    (tmp_path / "samples.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in samples))
    line = encode_results("c", [{**record(), "folder": str(tmp_path)}]).decode().splitlines()[1]
    assert json.loads(line)["samples"] == [{"prediction": "0"}, {"prediction": "1"}, {"prediction": "2"}]


def test_paths_of_this_machine_are_left_out():
    config = {
        "output": "/mine",
        "dataset": {"path": "/mine", "size": 3, "tokenizer": "/mine/words"},
        "teacher": {"checkpoint": "/mine"},
        "loss": {"names": ["/mine/a", "b"]},
        "seed": 0,
    }
    assert without_places({"config": config, "seed": 0})["config"] == {
        "dataset": {"size": 3, "tokenizer": "words"},
        "teacher": {},
        "loss": {"names": ["a", "b"]},
        "seed": 0,
    }
    assert config["output"] == "/mine"
    assert without_places({"seed": 0}) == {"seed": 0}
