"""OpenAI's API as its own packages speak it: models, Chat Completions and Responses."""
