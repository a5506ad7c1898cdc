"""Engine that rings by Redis or Valkey."""
