"""From an append to everybody who follows a thread."""
