"""Workloads: what uses datasets. `base.py` is the interface, one file per kind."""
