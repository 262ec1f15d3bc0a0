"""Tests of the stores of turnout.shared, and what they need: servers, and walks through the protocol."""
