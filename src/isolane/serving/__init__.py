"""Bounds on connections that uvicorn lacks: deadlines, sizes, floods, and a reset as a last means.

A peer must keep up everything that costs something. The head of a request has 10 s. A message or
body that has begun must make progress. Many small pieces are read as slowly as few large ones. A
peer that takes nothing is reset.
"""
