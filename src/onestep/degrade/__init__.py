"""Degradations: how a high-resolution picture becomes a low-resolution one."""
