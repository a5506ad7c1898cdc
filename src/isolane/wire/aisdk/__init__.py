"""The formats of the package `ai` and its `useChat`: written from logs and read from requests.

Pure.
"""
