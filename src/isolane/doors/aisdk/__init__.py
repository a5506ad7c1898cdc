"""What the package `ai` and its `useChat` speak, over HTTP and over a WebSocket."""
