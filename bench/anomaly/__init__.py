"""Series and peers for the benchmark of anomaly detection."""
