"""Progress bars that can be switched off from outside."""
from __future__ import annotations

import os

from tqdm import auto


class tqdm(auto.tqdm):
    """``tqdm.auto.tqdm``, which in a notebook too draws nothing if ``TQDM_DISABLE`` is set.

    tqdm itself heeds that variable in a terminal only. The series is executed with it set when its
    outputs are stored or compared: a bar is never the same twice.
    """

    def __init__(self, *args, disable: bool = False, **kwargs) -> None:
        super().__init__(*args, disable=disable or bool(os.environ.get("TQDM_DISABLE")), **kwargs)
