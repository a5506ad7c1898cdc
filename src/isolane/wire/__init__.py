"""The formats of our own clients and of published ones, as values. Pure."""
