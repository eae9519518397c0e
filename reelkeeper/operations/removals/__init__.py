"""Remove what people ask to be removed: a video by its user, a takedown, all of a user."""
