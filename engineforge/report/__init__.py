"""Plans and outcomes as text and as JSON. Pure: prints nothing."""
