"""The promise, without I/O: no clock is read and nothing is sent here; state and event in, state and actions out."""
