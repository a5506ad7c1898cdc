"""What the package `ai` and its `useChat` speak, made of logs and read from requests. Pure."""
