"""Watches over the process itself: memory, disk, event loop and output."""
