"""Programs of stages, each in a process of its own, within a budget of seconds.

A program is a package whose module `plan` holds `STAGES`, the stages by name, and `Plan`, a named
tuple of what every stage is told. A plan has the entry `until`, the time, as `time.time` gives it,
at which no case begins any more.
"""
