"""Log lines: JSON, in ASCII alone, so that nothing in them acts on a terminal."""

import logging
import re
import sys
from typing import Any, TextIO

import structlog

from registry.base.database_errors import quote_no_rows

_SECRETS = re.compile(r"(melo_[0-9a-f]{12}_|whsec_|(?i:bearer\s+))[A-Za-z0-9+/=._~-]{8,}")


def without_keys(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace the secret part of any key in a log line, wherever it came from: a path, a library, a traceback."""
    return {name: _SECRETS.sub(r"\1…", value) if isinstance(value, str) else value for name, value in line.items()}


def without_rows(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take what quotes a row from the database's errors of a traceback that is about to be written."""
    given = line.get("exc_info")
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        quote_no_rows(error)
    return line


SHARED: list[Any] = [  # processors of every program
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    without_rows,
    structlog.processors.format_exc_info,
    without_keys,
]


def configure_logging(stream: TextIO | None = None) -> None:
    """Write log lines as JSON, with the id of their request; those of libraries and Python's warnings, too.

    stream: None for standard error.
    """
    stream = stream or sys.stderr
    structlog.configure(
        processors=[*SHARED, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream),
    )
    lines = logging.StreamHandler(stream)
    lines.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *SHARED],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[lines], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    # The server configures its own loggers before it calls the application: redirect them to the handler above.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        # Each request already has a line here, and a failing one its traceback, under `defect`.
        logger.setLevel(logging.WARNING if name == "uvicorn.access" else logging.INFO)
