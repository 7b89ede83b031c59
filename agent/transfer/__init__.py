"""The data path: one TCP connection a move, relayed by a helper on each side; what is said beside it goes over gRPC."""
