"""What becomes of an engine after it was built: promoted between environments by digest, with what
is known of it signed, and pulled by whoever runs it."""
