"""The operator's key of the servers that tests start, and the headers that carry it."""

from pydantic import SecretStr

KEY = "5bd0c1f4e2a94b7c86f3d7a10e5c92b84fa7631d0b98e2c5f16a4d3790be8c2e"
SECRET = SecretStr(KEY)
OPERATOR = {"Authorization": f"Bearer {KEY}"}
