"""The embedded endpoint: an OpenAI-compatible server on the loopback, with faults that can be sown and repeated.

    bytes ─► connection ─Call─► server ──draws──► profile        what this sending shall suffer, how long it takes
                                  │  └──asks────► answers        what a complete answer says
                                  └─────plays───► wire           the answer as timed bytes, whole or spoiled

Rules:

1. It binds 127.0.0.1 only, keeps no key, and echoes no credential.
2. What happens to a request is a function of (seed, request, how often it was sent): order and speed do not matter,
   and each sending draws anew, so that retries recover. Only the capacity limits depend on the traffic.
3. The good answer is made first; a fault spoils its bytes. Nothing else decides what goes over the wire.
4. Memory is bounded: counters, and the last `ledger.KEPT` requests.
"""

from batchrunner.simulator.profile import FAULTS, PROFILES, Profile, profile_named
from batchrunner.simulator.server import Simulator, serve

__all__ = ["FAULTS", "PROFILES", "Profile", "Simulator", "profile_named", "serve"]
