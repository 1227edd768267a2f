import pytest

from ddrsapc.messages import shown


def test_plain_words_stay():
    assert shown("encoders.0.0.weight") == "encoders.0.0.weight"


@pytest.mark.parametrize(
    "value",
    ["a\nb", "\x1b[31m", "x" * 10**6, b"\xff" * 10**6, ["y" * 100] * 100, {"z": "w" * 1000}, 10**4000, "\u202e"],
)
def test_anything_is_one_printable_line_of_bounded_length(value):
    for limit in (20, 80):
        text = shown(value, limit)
        assert text.isprintable()
        assert 0 < len(text) <= limit
