"""Remove data on request: a video by its user, a takedown, or all data of a user."""
