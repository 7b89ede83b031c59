"""`make demo`: a database moves between machines, one of them dies, and its own check and a client's count prove that
nothing was lost and that never two wrote."""
