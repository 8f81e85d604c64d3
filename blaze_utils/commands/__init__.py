"""The commands of ``python -m blaze_utils``, one a module.

Each has ``add_options(parser)`` and ``run(options) -> int``, which returns the exit status. What a
user can mend is raised as ``OSError`` or ``ValueError``; ``__main__`` makes one line of it.
"""
