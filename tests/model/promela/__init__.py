"""The protocol in Promela, and what runs spin on it. See README.md."""
