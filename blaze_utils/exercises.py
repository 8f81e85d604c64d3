"""Answers to the exercises of the notebooks: typed in by the reader, tried by a property."""

from collections.abc import Callable
from typing import Any


def check(answer: Any, test: Callable[[Any], bool], hint: str) -> None:
    """Print whether an answer is right, without giving the right one away.

    ``answer`` is what the reader typed in, or ``...`` as long as nothing is; ``test`` is called
    with it and says whether it is right; ``hint`` is what to look at if it is not. An answer that
    ``test`` cannot handle (of the wrong type, say) is not right, and the error is named.
    """
    if answer is ...:
        print("Nothing typed in yet: replace the `...` above.")
        return
    try:
        right = bool(test(answer))
    except Exception as error:  # whatever the reader typed in is an answer, not a crash
        print(f"Not yet: {type(error).__name__}: {error}. {hint}")
        return
    print("Right." if right else f"Not yet: {hint}")
