"""selfheal: a tabular classifier in production that is monitored, retrained and rolled back by itself.

The map of the package, from the bottom up; imports point downwards only (held by import-linter):

``core``             pure functions and value types: metrics, maturity, training, gates. No IO, no clock.
``use_case``         the YAML file that describes a model in production, as a typed model.
``settings``         the environment and the folders of one installation.
``stores``           IO: warehouse (DuckDB), prediction log, label ledger, model registry, decisions, sources.
``nannyml_bridge``   the only module that imports NannyML: frames in, tidy frames out.
``serving``          the FastAPI prediction service. Knows neither Dagster nor NannyML.
``reports``          HTML pages with plots.
``defs``             the Dagster assets, checks, sensors and schedules, one file per stage of the loop.
``definitions``      ``build_definitions(settings)``: the only wiring.
``replay``           drives the same assets through recorded history with a simulated clock.
``cli``              the ``selfheal`` command.

This file imports nothing, so that importing the package costs nothing.
"""
