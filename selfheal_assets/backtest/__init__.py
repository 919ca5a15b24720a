"""Backtest: what each of several policies would have done over a recorded or simulated history.

``run.run_backtest`` is the way in; ``core.backtest`` says what comes out. A private warehouse holds the history
(``history``), each policy is lived through chunk by chunk (``life``) by the functions that the loop itself calls, and
what policies have in common is computed once (``shared``). Nothing of an installation is read or written.
"""
