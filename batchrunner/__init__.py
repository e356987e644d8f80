"""batchrunner: bring every line of a file of requests to an answer."""

__version__ = "0.1.0"
