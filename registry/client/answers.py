"""Client methods for logged answers, for how often edits answer, and for feedback."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from registry.answers.schemas import (
    AnswerView,
    EditUsage,
    ExplainedResponse,
    KeptAnswers,
    NewAnswer,
    TextErasureView,
    UsageView,
)
from registry.base.vocabulary import Rating
from registry.client.calls import call
from registry.client.exchanges import Exchange, at, many, one
from registry.feedback.schemas import FeedbackView, GivenView


class Answers:
    """Methods of both clients on what was answered."""

    @call
    def explain(self, response_id: str) -> Exchange[ExplainedResponse]:
        """Return a logged response's answers, each with the edit that gave it or the reason why none did."""
        return one(ExplainedResponse, "GET", f"/v1/answers/{quote(response_id, safe='')}")

    @call
    def answers(
        self, collection: str, *, edit: int | None = None, since: datetime | None = None, limit: int | None = 100
    ) -> Exchange[list[AnswerView]]:
        """List logged answers, newest first.

        edit: only those that it gave. since: with a zone.
        """
        moment = since.isoformat() if since else None
        return many(AnswerView, at(collection, "answers"), limit, edit=edit, since=moment)

    @call
    def log_answers(self, answers: Sequence[NewAnswer]) -> Exchange[KeptAnswers]:
        """Log answers that a server gave; returns the policies by which they are kept."""
        body = {"answers": [each.model_dump(mode="json") for each in answers]}
        return one(KeptAnswers, "POST", "/v1/answers", json=body)

    @call
    def usage(self, collection: str) -> Exchange[UsageView]:
        return one(UsageView, "GET", at(collection, "usage"))

    @call
    def edit_usage(
        self, collection: str, *, active: bool | None = None, limit: int | None = None
    ) -> Exchange[list[EditUsage]]:
        """Return how often each edit answered, in the order of their ids; also those that never did."""
        return many(EditUsage, at(collection, "usage", "edits"), limit, active=active)

    @call
    def give_feedback(
        self,
        response_id: str,
        rating: Rating | str,
        *,
        choice: int = 0,
        comment: str = "",
        correction: str | None = None,
        prompt: str | None = None,
        collection: str | None = None,
        api_key: str | None = None,
    ) -> Exchange[GivenView]:
        """Say that an answer was right (up) or wrong (down).

        correction: the right answer; an editor's becomes a batch. prompt: needed for it where the log keeps no
        text. collection: needed where the answer is not in the log. api_key: in place of the client's own.
        """
        body: dict[str, Any] = {"response_id": response_id, "rating": str(rating), "choice": choice}
        body |= {"comment": comment, "correction": correction, "prompt": prompt, "collection": collection}
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        return one(GivenView, "POST", "/v1/feedback", json=body, headers=headers)

    @call
    def feedback(
        self, collection: str, *, only_open: bool = False, limit: int | None = 100
    ) -> Exchange[list[FeedbackView]]:
        """List feedback, newest first.

        only_open: only thumbs down of which no draft was made.
        """
        return many(FeedbackView, at(collection, "feedback"), limit, open=only_open)

    @call
    def draft_feedback(
        self, feedback_id: int, target: str, *, prompt: str | None = None, replaces: int | None = None
    ) -> Exchange[FeedbackView]:
        """Submit a correction made of feedback, as a batch that waits for approval."""
        body = {"target": target, "prompt": prompt, "replaces": replaces}
        return one(FeedbackView, "POST", f"/v1/feedback/{feedback_id}/draft", json=body)

    @call
    def erase_answers(self, person: str, reason: str, *, dry_run: bool = False) -> Exchange[TextErasureView]:
        """Erase a person's texts from the log of answers and from feedback; with dry_run, report what would go."""
        body = {"person": person, "reason": reason, "dry_run": dry_run}
        return one(TextErasureView, "POST", "/v1/erasures/answers", json=body)
