"""IO without Dagster: each module owns one store and is its only writer."""
