"""What is up to date, and why not."""
