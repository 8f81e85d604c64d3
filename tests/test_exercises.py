"""What the checks of the exercises say."""

import pytest

from blaze_utils.exercises import check


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (..., "Nothing typed in yet: replace the `...` above.\n"),
        (4, "Right.\n"),
        (5, "Not yet: Look at the sign.\n"),
        (
            "four",
            "Not yet: TypeError: unsupported operand type(s) for -: 'str' and 'int'. "
            "Look at the sign.\n",
        ),
    ],
)
def test_an_answer_is_tried_by_a_property(capsys, answer, says):
    check(answer, lambda a: abs(a - 4) < 0.5, "Look at the sign.")
    assert capsys.readouterr().out == says
