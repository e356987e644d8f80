"""One attempt over aiohttp: a `Reply` or a `Fault`, never an exception."""

from batchrunner.core.endpoints import Connection as Connection
