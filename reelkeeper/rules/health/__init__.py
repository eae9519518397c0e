"""What performance figures say."""
