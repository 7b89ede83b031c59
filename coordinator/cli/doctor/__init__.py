"""`drover doctor`: facts are gathered in one place, and judged in others, by small pure functions."""
