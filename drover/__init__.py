"""Drover keeps containers and their data together while they move between machines."""

__version__ = "0.1.0"
