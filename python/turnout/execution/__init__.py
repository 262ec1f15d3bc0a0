"""Whole requests: attempts, pauses and fallbacks, up to an answer or a last error."""

__all__: list[str] = []
