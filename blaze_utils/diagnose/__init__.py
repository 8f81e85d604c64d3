"""What stands between a model of yours and int8: ``diagnose``, and ``checks`` to copy."""

from . import checks
from .findings import CODES, Finding, Findings, diagnose
from .trial import InFloat

__all__ = ["CODES", "Finding", "Findings", "InFloat", "checks", "diagnose"]
