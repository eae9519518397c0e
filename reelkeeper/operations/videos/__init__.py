"""Store, verify, publish and hold single videos."""
