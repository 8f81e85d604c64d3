"""What stands between a model of yours and int8, and whether it is worth it.

Begin with ``diagnose(model, x)``: it takes copies of any eager model to int8, and says where that
stops or goes wrong, why, and what to write instead. ``assess`` tries the ways to int8 side by side
and gives a verdict and a file. ``checks`` is one file to copy into a project of your own: one line
for each mistake that raises no error; only it does without the room ``int8``.
"""

from . import checks
from .assess import Assessment, assess
from .findings import CODES, Finding, Findings, diagnose
from .trials import InFloat

__all__ = ["CODES", "Assessment", "Finding", "Findings", "InFloat"]
__all__ += ["assess", "checks", "diagnose"]
