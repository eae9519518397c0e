"""Plans and their outcomes."""
