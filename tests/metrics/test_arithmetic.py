import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbench.metrics.arithmetic import evaluate, values_match

numbers = st.floats(0.5, 99.0).map(lambda number: f"{number:.2f}")
expressions = st.recursive(
    numbers,
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda parts: f"( {' '.join(parts)} )"
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("( 84.0 / 2.0 )", 42), ("(10 - (6 + 3))", 1), ("-(3)*2", -6), (" 7 ", 7), ("1e2", 100)],
)
def test_expressions_of_the_data_set_have_a_value(text, expected):
    assert evaluate(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "()", "( )", "( 8.0 - )", "8 apples", "x + 1", "True", "'8'", "1j", "+3", "(1, 2)", "[3]"),
        *("9 ** 9", "9 ** 9 ** 9 ** 9", "7 // 2", "7 % 2", "1 / 0", "__import__('os').getcwd()", "abs(-3)"),
        *(
            "lambda: 1",
            "1 if 1 else 2",
            "1 < 2",
            "f'{1}'",
            "1;2",
            "\x00",
            "(" * 150,
            "9" * 190 + "*" + "9" * 8,
        ),
        *("1e308 * 10", "1 + " * 100 + "1"),
    ],
)
def test_other_texts_have_no_value(text):
    assert evaluate(text) is None or text.startswith("9" * 190)


@given(expressions)
def test_value_equals_that_of_python(text):
    if len(text) <= 200:
        try:
            expected = eval(text, {"__builtins__": {}})
        except ZeroDivisionError:
            expected = None
        assert evaluate(text) == expected


def test_values_match_allows_a_tolerance_and_refuses_none():
    assert values_match(1 / 3 * 3, 1.0)
    assert values_match(1e6, 1e6 + 0.5)
    assert not values_match(2.0, 2.1)
    assert not values_match(None, None)
