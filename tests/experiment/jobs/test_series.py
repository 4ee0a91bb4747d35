"""Several runs in one process: how its command line is read. tests/analysis/tickets compares the results."""

import pytest
from absl import flags

from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.jobs import series
from sparse_lib.experiment.runtime.errors import SettingError


@pytest.fixture(autouse=True)
def flag_values():
    cli.define_common_flags()
    yield
    flags.FLAGS.unparse_flags()


def test_a_run_knows_nothing_of_the_flags_of_another():
    words = "--logdir=a --seed=3 --gin_config=x.gin --gin_bindings=b=1 then --logdir=b --gin_config=y --gin_config=z"
    first, other = map(series.parse_arguments, series.split_arguments(words.split()))
    assert str(first[1]) == "a" and first[0].seed == 3
    assert list(first[0].gin_config) == ["x.gin"] and list(first[0].gin_bindings) == ["b=1"]
    assert str(other[1]) == "b" and other[0].seed is None
    assert list(other[0].gin_config) == ["y", "z"] and list(other[0].gin_bindings) == []


@pytest.mark.parametrize("words", [[], ["then"], ["--logdir=a", "then"], ["then", "--logdir=a"]])
def test_a_run_without_arguments_is_told(words):
    with pytest.raises(SettingError, match="no arguments"):
        series.split_arguments(words)


@pytest.mark.parametrize("word", ["--logdirs=a", "logdirs"])
def test_an_unknown_flag_is_told(word):
    with pytest.raises(SettingError, match="logdirs"):
        series.parse_arguments([word])
