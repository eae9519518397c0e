"""Plans and what became of them."""
