"""What a run will take before it runs: memory, time, communication and money of each stage."""
