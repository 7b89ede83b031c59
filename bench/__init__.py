"""Measurements: each writes bench/results/NAME.json, and bench/README.md has the table."""
