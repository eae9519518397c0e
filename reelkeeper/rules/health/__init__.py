"""Performance figures, and findings about them."""
