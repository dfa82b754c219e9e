"""Neural networks. Values are in [-1, 1]; no network imports another."""
