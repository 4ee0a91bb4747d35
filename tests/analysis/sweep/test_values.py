"""What may be typed after --over, --tune and --seeds."""

import pytest

from analysis.sweep import values
from sparse_lib.experiment.runtime.errors import SettingError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SPARSITY=0.8,0.90", ("0.8", "0.9")),
        ("a.b= 1 , 1e-4", ("1", "0.0001")),
        ("a.b=erk,'uniform',\"er\"", ("'erk'", "'uniform'", "'er'")),
        ("a.b=(1,2),[3,(4,5)],{'x': 0.5}", ("(1, 2)", "[3, (4, 5)]", "{'x': 0.5}")),
        ("a.b='one, two',None,True,%SPARSITY", ("'one, two'", "None", "True", "%SPARSITY")),
        ("a.b=-1,block:16x16".replace(":16x16", "-16"), ("-1", "'block-16'")),
        ("a.b='block:16x16'", ("'block:16x16'",)),
    ],
)
def test_values_are_gin_literals(text, expected):
    assert values.parse_dimension(text).values == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SPARSITY", "--over SPARSITY is not NAME=VALUE,VALUE with a setting or a macro"),
        ("SPARSITY=", "--over SPARSITY= is not NAME=VALUE,VALUE"),
        ("a.b.c=1", "--over a.b.c=1 is not NAME=VALUE,VALUE"),
        ("a=1,,2", "--over a=1,,2: an empty value is no value"),
        ("a=(1,2", "--over a=(1,2: ( is not closed."),
        ("a=1),2", "--over a=1),2: the bracket ) closes nothing."),
        ("a='x", "--over a='x: ' is not closed."),
        ("a=0.8,0.80", "--over a=0.8,0.80 has 0.8 twice"),
        ("a=1 2", "--over a=1 2: 1 2 is no value; write a Python literal"),
    ],
)
def test_what_is_no_dimension_is_one_sentence(text, message):
    with pytest.raises(SettingError) as raised:
        values.parse_dimension(text)
    assert str(raised.value).startswith(message)


def test_ranges():
    assert values.parse_range("a=50:1000") == values.Range("a", 50, 1000, is_integer=True)
    assert values.parse_range("a=1e-4:1e-1:log") == values.Range("a", 1e-4, 0.1, is_log=True)
    assert values.parse_range("a=erk,uniform") == values.Range("a", choices=("'erk'", "'uniform'"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=0.6:0.1", "--tune a=0.6:0.1 is an empty range; the first number must be below the second."),
        ("a=0:1:log", "--tune a=0:1:log is an empty range; the first number must be above 0 and below the second."),
        ("a=0:1:2", "--tune a=0:1:2 is no range of numbers"),
        ("a=x:y", "--tune a=x:y is no range of numbers"),
        ("a=0.5", "--tune a=0.5 has one choice"),
        ("=1:2", "--tune =1:2 is not NAME=LOW:HIGH"),
    ],
)
def test_what_is_no_range_is_one_sentence(text, message):
    with pytest.raises(SettingError) as raised:
        values.parse_range(text)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("text", ["0", "3-2", "x", "", "-1"])
def test_what_is_no_number_of_seeds(text):
    with pytest.raises(SettingError, match="is no number of seeds"):
        values.parse_seeds(text)
