"""The cache of videos by request, for the operations on jobs; it stands in the store."""

from reelkeeper.store.videos.cache import GIVEN, insert, take

__all__ = ["GIVEN", "insert", "take"]
