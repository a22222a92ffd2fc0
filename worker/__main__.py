"""`python -m worker`: train the jobs that come, until told to stop."""

import sys

import structlog
from pydantic import ValidationError

from registry.errors import RegistryError
from registry.settings import Settings
from worker.celery_app import serve


def main() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    try:
        serve(Settings())
    except RegistryError as error:
        sys.exit(str(error))
    except ValidationError as error:
        sys.exit(f"A setting is not valid: {error}\nCorrect the MELO_ variable that it names.")


if __name__ == "__main__":
    main()
