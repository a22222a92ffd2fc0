"""The API as typed Python calls, for the command line and any other program.

with MeloClient("http://127.0.0.1:8410") as melo: ...
async with AsyncMeloClient("https://melo.example.org", key) as melo: ...
"""

from registry.client.clients import AsyncMeloClient, MeloClient
from registry.client.corrections import SubmissionOptions
from registry.client.errors import MeloClientError

__all__ = ["AsyncMeloClient", "MeloClient", "MeloClientError", "SubmissionOptions"]
