"""Requests of HTTP clients, carried to their end. `turnout.httpx2` and `turnout.httpx` are made of it."""

__all__: list[str] = []
