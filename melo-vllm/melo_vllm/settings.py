"""Settings from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Where blocks come from and go to."""

    url: str
    key: str | None = field(default=None, repr=False)
    folder: Path | None = None  # None: a fresh temporary one
    most_bytes: int = 4096 << 20

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> "Settings | None":
        """Return the settings; None where no registry is named. Raises ValueError."""
        url = environment.get("MELO_API_URL", "").rstrip("/")
        if not url:
            return None
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"MELO_API_URL is {url!r}: write it as http://HOST:PORT or https://HOST")
        folder, megabytes = environment.get("MELO_BLOCKS_FOLDER"), environment.get("MELO_BLOCKS_MB", "4096")
        if not megabytes.isdecimal() or int(megabytes) == 0:
            raise ValueError(f"MELO_BLOCKS_MB is {megabytes!r}: write a whole number of megabytes")
        key = environment.get("MELO_API_KEY", "").strip() or None
        return cls(url, key, Path(folder) if folder else None, int(megabytes) << 20)
