import json

import pytest

from kdbench.data.images.image_io import DataError
from kdbench.data.text import rationale_files
from kdbench.data.text.rationale_files import RationaleExample, read_split


def test_svamp_is_part_of_the_package(monkeypatch):
    monkeypatch.delenv("KDBENCH_DATA", raising=False)
    train, test = (read_split("svamp", split, None) for split in ("train", "test"))
    assert (len(train), len(test)) == (800, 200)
    assert train[0].label == "( 84.0 / 2.0 )"
    assert sum(row.is_blank for row in train) == 13
    assert read_split("svamp", "valid", None) is None


def write_official(folder, name="cqa", completions=2):
    (folder / name / "llm").mkdir(parents=True)
    record = {"question": "Where?", "choices": list("vwxyz"), "answer": "x", "id": 0}
    (folder / name / f"{name}_test.json").write_text(f"{json.dumps(record)}\n" * 12)
    for chunk in range(completions):  # two digits, to test numeric order
        texts = [f"Reason {chunk}. So the answer is (c) x.\n\nQ: y"] * (12 // completions)
        (folder / name / "llm" / f"test_CoT_{chunk}.json").write_text(json.dumps(texts))
    return str(folder)


def test_official_layout_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(rationale_files.ROWS, "cqa", {"test": 12})
    rows = read_split("cqa", "test", write_official(tmp_path, completions=12))
    text = "Where?\nAnswer Choices:\n(a) v\n(b) w\n(c) x\n(d) y\n(e) z"
    assert rows == [RationaleExample(text, "x", f"Reason {chunk}.", "x") for chunk in range(12)]
    (tmp_path / "cqa" / "llm" / "test_CoT_3.json").unlink()
    with pytest.raises(DataError, match="12 rows, but 11 completions in 11 files"):
        read_split("cqa", "test", str(tmp_path))


def test_missing_rows_and_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="cqa has 1221 rows, found 12"):
        read_split("cqa", "test", write_official(tmp_path))
    monkeypatch.delenv("KDBENCH_DATA", raising=False)
    with pytest.raises(DataError, match=r"data set cqa not found in .*KDBENCH_DATA"):
        read_split("cqa", "test", None)


def test_nli_inputs_are_joined_by_the_end_token(big_data):
    if not (big_data / "dss" / "esnli").is_dir():
        pytest.skip("no esnli")
    rows = read_split("esnli", "test", str(big_data / "dss"))
    assert rows[0].input.count("</s>") == 1
    assert {row.label for row in rows} == set(rationale_files.NLI)
