"""Reelkeeper's server, a bare one to compare with, and clients for both."""
