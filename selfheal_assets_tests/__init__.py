"""Tests mirror the package: core/ stores/ defs/ serving/ reports/ loop/ e2e/."""
