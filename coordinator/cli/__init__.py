"""The `drover` command: one file a verb."""
