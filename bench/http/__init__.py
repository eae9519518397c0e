"""A server to ask, a bare one beside it, and clients that ask both alike."""
