"""OpenAI's API, as the packages `openai` speak it: models, Chat Completions and Responses."""
