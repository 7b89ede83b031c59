"""A deterministic simulation: whole agents on virtual time, and etcd, machines and storage that do all that real ones
have been seen to do. One seed is one run, to the last event. `python -m tests.sim --help`."""
