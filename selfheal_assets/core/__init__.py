"""Pure functions and value types. No Dagster, no IO, no clock, no globals.

Time and randomness are arguments (``as_of``, ``seed``); a function takes frames and a policy and returns
a frame or a frozen dataclass.
"""
