"""What is measured of a file: latency, start-up, memory, throughput, accuracy, peak arithmetic."""
