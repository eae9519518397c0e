"""What the detectors of odd days are measured on, and beside."""
