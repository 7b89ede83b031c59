"""Back ends: what keeps a dataset's bytes. `base.py` is the interface, `contract.py` the suite that each must pass."""
