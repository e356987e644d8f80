"""The real scheduler and engine against modelled servers on virtual time. `python -m tests.simulation`."""
