"""Many processes, one training: strategies over torch's process groups, and DeepSpeed as one of them."""
