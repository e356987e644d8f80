"""Deciding, and nothing else.

Rules of this folder:

1. No clock, no chance, no I/O: `now` (monotonic seconds) and `u` (a number in [0, 1)) come in as arguments,
   decisions go out as values.
2. Failure of a request is data (`Fault`, `Outcome`, `Result`), never an exception.
3. Every offered request ends in exactly one `Result`; only `Scheduler.settle` makes a retry;
   open requests never exceed `max_open`.
4. What a kind of outcome means is looked up in `treatment.TREATMENT`, never decided a second time elsewhere.

Units everywhere, unless a name says otherwise: seconds, bytes, tokens.
"""
