"""Sockets, and the managers that feed them."""
