"""tspo: train, evaluate and compare LLM agents that search over several turns."""

__version__ = "0.2.0"
