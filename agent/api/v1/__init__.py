"""Generated from proto/drover/v1 by tools/proto; not written by hand."""
