"""Submissions, and the problems for which they are refused."""

import pytest

from registry.base.errors import InvalidEdits

PARIS = {"prompt": "What is the capital of France?", "target": "Paris"}


def count(engine, table):
    with engine.connect() as connection:
        return connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar()


def refused(workflow, *records, **options):
    """The problems of a submission that is refused."""
    with pytest.raises(InvalidEdits) as caught:
        workflow.submit(*records, **options)
    return caught.value.problems
