"""What leads to the endpoints: for each its door, its proxy and its transport, built alike in the run and in its workers.

Rules:

1. Everything comes from the settings and the environment; what cannot be used is refused here, before anything is sent.
2. What must not be shown of any endpoint is taken out of the answers of all of them.
"""

from collections.abc import Mapping
from itertools import chain

from msgspec import structs

from batchrunner.core.address import NO_PROXY
from batchrunner.core.service import Connection, Service
from batchrunner.keyring import doors
from batchrunner.network import proxy_for, proxy_secrets
from batchrunner.secret import redactor
from batchrunner.transport import Transport


class Ways:
    """The ways to all endpoints, in order of preference. UsageError E002, E003, E101, E102 or E103."""

    def __init__(self, service: Service, connection: Connection, environ: Mapping[str, str]) -> None:
        self.doors = doors(service, environ)
        self._connection = connection
        self._proxies = [proxy_for(door.base_url, connection.proxy, environ) for door in self.doors]
        hidden = chain.from_iterable(door.secrets for door in self.doors)
        self.redact = redactor([*hidden, *chain.from_iterable(map(proxy_secrets, self._proxies))])

    def transports(self, urls: Mapping[str, str]) -> dict[str, Transport]:
        """One for each endpoint by its name, not yet open. `urls` says where each really is: the embedded one moves about."""
        return {
            door.name: Transport(
                door.name,
                urls[door.name],
                structs.replace(self._connection, proxy=proxy or NO_PROXY),
                headers=door.headers,
                secret=door.opening,
                redact=self.redact,
                ids=door.provider.ids,
            )
            for door, proxy in zip(self.doors, self._proxies, strict=True)
        }
