"""`drover playground`: a whole cluster on one machine, with power cuts and partitions that are real."""
