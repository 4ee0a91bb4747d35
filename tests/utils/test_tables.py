import pytest

from sparse_lib._utils.tables import text_table


def test_columns_are_aligned_and_lines_end_with_text():
    table = text_table([("layer", "kept", "note")], [("conv1", "12,345", ""), ("a_long_name", "6", "2:4")], left=(0, 2))
    assert table == "layer          kept  note\nconv1        12,345\na_long_name       6  2:4"


def test_headings_of_two_lines_are_underlined():
    table = text_table([("", "test"), ("method", "accuracy")], [("RigL", "0.9")], underline=True)
    assert table == "            test\nmethod  accuracy\n------  --------\nRigL         0.9"


def test_a_padded_heading_sets_the_least_width():
    assert text_table([("a", "    b")], [("x", "1")]) == "a      b\nx      1"


def test_lines_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        text_table([("a", "b")], [("x",)])
