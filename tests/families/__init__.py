"""Real clients of LLM providers over the transports: every scenario with every client that is installed."""
