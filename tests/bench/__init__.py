"""The benchmark: the engine beside the loops people write, as ratios within one run. `scripts/bench`."""
