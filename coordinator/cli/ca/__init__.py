"""`drover ca`: one file a verb."""
