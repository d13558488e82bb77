"""Causal attention: the reference, the kernels that compute it faster, and the check each must pass on a
device before it is used."""
