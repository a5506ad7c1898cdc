"""What the process watches of itself: memory, disk, its event loop and its own output."""
