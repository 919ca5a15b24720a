"""The Dagster side, thin: an asset loads, calls one core function, saves and reports. One file per stage."""
