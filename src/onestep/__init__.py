"""OneStep: one-step generative super-resolution."""

__version__ = "0.1.0"
