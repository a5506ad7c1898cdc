"""The process watches itself here: memory, disk, event loop and output."""
