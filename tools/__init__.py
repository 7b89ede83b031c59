"""What developers run: set-up, the demo, code generation."""
