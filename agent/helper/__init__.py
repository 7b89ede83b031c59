"""Helper processes: whatever can write to storage runs in one, inside the dataset's cgroup."""
