"""Side-by-side benchmarks: Puerta and each peer in turn, in front of the same backend, under the same load."""
