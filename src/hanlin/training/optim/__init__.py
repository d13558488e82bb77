"""Optimisers: Muon for the matrices of the blocks, AdamW for everything else."""
