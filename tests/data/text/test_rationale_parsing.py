import pytest

from kdbench.data.text.rationale_files import read_split
from kdbench.data.text.rationale_parsing import BLANK, RULES


@pytest.mark.parametrize(
    ("name", "completion", "expected"),
    [
        (
            "cqa",
            "Only gravity. So the answer is (e) gravity.\n\nQ: next So the answer",
            ("Only gravity.", "gravity"),
        ),
        ("cqa", "No phrase here (a) park.", (BLANK, BLANK)),
        ("cqa", "Why. So the answer is park.", ("Why.", BLANK)),
        ("svamp", "2 rounds. The answer is (84 / (1 + 1)).\n\nQ: x", ("2 rounds.", "(84 / (1 + 1))")),
        ("svamp", "2 rounds. The answer is 42.", ("2 rounds.", BLANK)),
        ("svamp", "2 rounds.", (BLANK, BLANK)),
        ("esnli", "A man. Answer: neutral\n\nPremise: b", ("A man.", "neutral")),
        ("esnli", "A man.", ("A man.", BLANK)),
        ("anli1", "As said. So the answer is entailment.\nPremise: b", ("As said.", "entailment")),
        ("anli1", "As said. So the answer is entailment", ("As said.", "entailmen")),
        ("anli1", "As said.", ("", "")),
    ],
)
def test_parsing_follows_the_official_loader(name, completion, expected):
    assert RULES[name](completion) == expected


@pytest.mark.parametrize(
    ("name", "split"), [("cqa", "train"), ("svamp", "train"), ("svamp", "test"), ("esnli", "test")]
)
def test_parsing_reproduces_the_published_files(big_data, name, split):
    import pyarrow.parquet as pq

    file = big_data / "dss" / name / f"{split}-00000-of-00001.parquet"
    if not file.is_file():
        pytest.skip(f"no {file}")
    rows = read_split(name, split, str(big_data / "dss"))
    outputs = pq.read_table(file, columns=["llm_output"]).column(0).to_pylist()
    for row, output in zip(rows, outputs, strict=True):
        rationale, label = RULES[name](output)
        assert (rationale.strip(), label.strip()) == (row.rationale.strip(), row.llm_label.strip())
