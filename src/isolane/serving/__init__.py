"""What uvicorn leaves open on a connection, closed: deadlines, sizes, floods, and a hard way out.

A peer costs nothing that it doesn't keep up: a head has 10 s, what has begun must go on, many small
things are taken as slowly as few large ones, and whoever takes nothing is reset.
"""
