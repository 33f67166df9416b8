import math

import pytest

from kdbench.utils.validation import (
    check_at_least,
    check_between,
    check_choice,
    check_finite,
    check_fraction,
    check_non_negative,
    check_positive,
)


@pytest.mark.parametrize(
    ("check", "values", "message"),
    [
        (check_positive, {"t": 0}, "KD: t must be positive and finite, got 0"),
        (check_positive, {"t": math.inf}, "KD: t must be positive and finite, got inf"),
        (check_positive, {"t": math.nan}, "KD: t must be positive and finite, got nan"),
        (check_non_negative, {"w": -0.5}, "KD: w must be finite and not negative, got -0.5"),
        (check_non_negative, {"w": math.nan}, "KD: w must be finite and not negative, got nan"),
        (check_finite, {"a": 1.0, "b": -math.inf}, "KD: b must be finite, got -inf"),
        (check_fraction, {"head": 1.5}, "KD: head must be in [0, 1], got 1.5"),
        (check_fraction, {"head": 1.0, "closed": "left"}, "KD: head must be in [0, 1), got 1.0"),
        (check_fraction, {"head": 0.0, "closed": "right"}, "KD: head must be in (0, 1], got 0.0"),
        (check_fraction, {"head": 1, "closed": "neither"}, "KD: head must be in (0, 1), got 1"),
        (check_fraction, {"head": math.nan}, "KD: head must be in [0, 1], got nan"),
    ],
)
def test_message_states_owner_argument_requirement_and_value(check, values, message):
    with pytest.raises(ValueError) as error:
        check("KD", **values)
    assert str(error.value) == message


def test_accepts_the_boundaries():
    check_positive("KD", t=1e-300)
    check_non_negative("KD", w=0)
    check_finite("KD", a=-1e300)
    check_fraction("KD", low=0, high=1)
    check_fraction("KD", closed="left", low=0.0)
    check_between("KD", -10, 10, low=-10, high=10)
    check_at_least("KD", 1, rows=1)
    check_choice("KD", ("a", "b"), first="a", second="b")


def test_message_states_interval_and_minimum():
    with pytest.raises(ValueError, match=r"^KD: theta must be in \[-10, 10\], got 11$"):
        check_between("KD", -10, 10, theta=11)
    with pytest.raises(ValueError, match=r"^KD: rows must be finite and at least 1, got 0$"):
        check_at_least("KD", 1, rows=0)


@pytest.mark.parametrize(
    ("possible", "requirement"), [(("a",), "a"), (("a", "b"), "a or b"), (("a", "b", "c"), "a, b or c")]
)
def test_message_lists_the_choices(possible, requirement):
    with pytest.raises(ValueError, match=f"^KD: form must be {requirement}, got 'z'$"):
        check_choice("KD", possible, form="z")
