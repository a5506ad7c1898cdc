"""The doors for `useChat` of the package `ai`: over HTTP and over a WebSocket."""
