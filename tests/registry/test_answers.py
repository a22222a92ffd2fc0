"""The log of answers: what a policy keeps, who may read it, what explains an answer, and when it goes."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs
from typer.testing import CliRunner

from cli.main import make_app
from registry.answers import keeping
from registry.answers.keeping import LogPolicy
from registry.answers.schemas import NewAnswer
from registry.client import MeloClient, MeloClientError
from registry.erasure import service as erasure
from tests.conftest import copy_of
from tests.operators_key import KEY
from tests.registry.answered import OTHER, OTHER_TARGET, QUESTION, TARGET, answered, by_base, keep, log, near
from tests.registry.keys import key, other_collection
from tests.registry.submissions import count
from tests.registry.workflow import BEN, Workflow


def fill(workflow):
    """Edits 1 and 2, of one batch; ben approved them."""
    records = [
        {"prompt": QUESTION, "target": TARGET, "author": "mara", "reason": "she won", "source": "https://atlantis"},
        {"prompt": OTHER, "target": OTHER_TARGET},
    ]
    workflow.finish(workflow.claim(workflow.approve(workflow.submit(*records).batch.id)))


@pytest.fixture
def database_url(postgres, filled):
    yield from copy_of(postgres, filled)


def rows(engine, columns="response_id, question, answer"):
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM answers ORDER BY id"))]


def test_nothing_is_logged_unless_the_policy_says_so_and_texts_are_left_out_unless_it_says_that_too(used, engine):
    assert keep(used, answered()) == 0
    log(used, text=False)
    assert keep(used, answered("chatcmpl-2")) == 1
    log(used)
    keep(used, answered("chatcmpl-3"))
    assert rows(engine) == [("chatcmpl-2", None, None), ("chatcmpl-3", QUESTION, TARGET)]
    log(used, share=0)
    assert keep(used, answered("chatcmpl-4")) == 0


def test_a_share_of_responses_is_logged_the_same_for_all_choices():
    policy = LogPolicy(0.25, False)
    kept = [policy.keeps(f"chatcmpl-{n}") for n in range(2_000)]
    assert 400 < sum(kept) < 600
    assert kept == [policy.keeps(f"chatcmpl-{n}") for n in range(2_000)]
    assert all(LogPolicy(1, False).keeps(f"chatcmpl-{n}") for n in range(100))
    assert not any(LogPolicy(0, True).keeps(f"chatcmpl-{n}") for n in range(100))


def test_an_answer_is_logged_once_however_often_it_is_sent_and_long_or_odd_texts_are_stored(used, engine):
    log(used)
    keep(used, answered(question="a\x00b\ud800c" + "x" * 20_000))
    keep(used, answered(question="again"))
    ((_, question, _),) = rows(engine)
    assert (
        question.startswith("a\ufffdb?cxxx") and question.endswith("x […]") and len(question) == keeping.MOST_CHARACTERS
    )


def test_an_answer_is_explained_by_its_edit_with_author_approvals_and_reason(used, api):
    log(used)
    keep(used, answered(), answered(choice=1))
    first, second = api.get("/v1/answers/chatcmpl-1").json()["answers"]
    assert (first["choice"], second["choice"], first["model"]) == (0, 1, "facts@production")
    assert first["why"] == (
        "Edit 1 covers the question, at distance 0.250 (probability of asking something else: 0.125, at most the "
        "threshold 0.7); its block answered."
    )
    edit = first["edit"]
    assert (edit["id"], edit["prompt"], edit["target"]) == (1, QUESTION, TARGET)
    assert (edit["author"], edit["reason"], edit["source"]) == ("mara", "she won", "https://atlantis")
    assert (edit["submitted_by"], [each["actor"] for each in edit["approvals"]]) == ("ada", ["ben"])
    assert first["considered"] == [
        {"edit": 1, "distance": 0.25, "score": 0.125, "rule": None, "guard": False, "covers": True,
         "prompt": QUESTION, "target": TARGET}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"version": 0}, "The base model was asked, in which no edit acts."),
        ({}, "No edit lies near the question, so the base model answered."),
        (
            {"considered": [near(covers=False, score=0.9)]},
            "the verifier says that the question asks something else (probability 0.900, above the threshold 0.7)",
        ),
        ({"considered": [near(covers=False, score=None, rule="number")]}, "the two differ by the word rule `number`"),
        ({"considered": [near(covers=False, guard=True)]}, "one of its guards is nearer"),
        ({"considered": [near(covers=False, score=None)]}, "the question is outside of its radius"),
        ({"considered": [near()], "said_to": "base"}, "its block did not give its target, so the base model answered"),
        (
            {"considered": [near()], "said_to": "prompt", "edit_id": 1},
            "its block gave its target to the edit's own prompt, and not to the question itself",
        ),
    ],
)
def test_an_answer_without_an_edit_says_why_none_acted(used, api, more, why):
    log(used)
    keep(used, by_base("chatcmpl-1", **more))
    (found,) = api.get("/v1/answers/chatcmpl-1").json()["answers"]
    assert why in found["why"]
    assert (found["edit"] is None) == (found["edit_id"] is None)
    if not found["considered"] or found["edit"] or not found["version"]:
        assert found["remedy"] is None
    elif found["said_to"] == "base":
        assert "melo edit retrain 1 --training" in found["remedy"]
    else:
        assert "melo edit add facts PROMPT TARGET --rephrase QUESTION --replaces 1" in found["remedy"]


def test_editors_read_all_answers_of_their_collection_and_viewers_those_to_their_own_questions(
    used, open_api, api, model_folder
):
    log(used)
    other_collection(api, model_folder)
    keep(used, answered(asked_by="app"), answered("chatcmpl-2", asked_by="someone"))
    app, editor = key(api, "app", "viewer", "facts"), key(api, "ed", "editor", "facts")
    stranger = key(api, "someone", "admin", "other")
    remote = open_api()

    def listed(headers):
        return [each["response_id"] for each in remote.get("/v1/collections/facts/answers", headers=headers).json()]

    assert (listed(app), listed(editor)) == (["chatcmpl-1"], ["chatcmpl-2", "chatcmpl-1"])
    assert remote.get("/v1/answers/chatcmpl-1", headers=app).status_code == 200
    hidden = [remote.get("/v1/answers/chatcmpl-2", headers=who) for who in (app, stranger)]
    missing = remote.get("/v1/answers/chatcmpl-9", headers=app)
    assert [answer.status_code for answer in (*hidden, missing)] == [404, 404, 404]
    assert hidden[0].json()["detail"].replace("-2", "-9") == missing.json()["detail"]
    assert remote.get("/v1/collections/facts/answers", headers=stranger).status_code == 403


def test_lists_are_paged_and_filtered_by_edit_and_time(used, api, served):
    log(used)
    then = datetime(2026, 1, 1, tzinfo=UTC)
    keep(used, *(answered(f"chatcmpl-{n}", asked_at=then + timedelta(days=n)) for n in range(3)), by_base("chatcmpl-3"))
    with MeloClient(served, KEY, actor="ben") as client:
        assert [each.response_id[-1] for each in client.answers("facts")] == ["3", "2", "1", "0"]
        assert [each.response_id[-1] for each in client.answers("facts", edit=1)] == ["2", "1", "0"]
        assert [each.response_id[-1] for each in client.answers("facts", edit=1, since=then + timedelta(1))] == [
            "2",
            "1",
        ]
    first = api.get("/v1/collections/facts/answers", params={"limit": 3, "edit": 1})
    assert len(first.json()) == 3 and "Link" not in first.headers
    page = api.get("/v1/collections/facts/answers", params={"limit": 2})
    rest = api.get("/v1/collections/facts/answers" + page.links["next"]["url"])
    assert [each["response_id"][-1] for each in (*page.json(), *rest.json())] == ["3", "2", "1", "0"]


def test_usage_counts_what_edits_gave_and_names_those_that_never_answered(used, served):
    log(used)
    moments = [datetime(2026, 1, day, tzinfo=UTC) for day in (5, 3, 4)]
    keep(used, *(answered(f"chatcmpl-{n}", asked_at=at) for n, at in enumerate(moments)), by_base("chatcmpl-7"))
    with MeloClient(served, KEY, actor="ben") as client:
        client.give_feedback("chatcmpl-1", "down")
        total, (first, second) = client.usage("facts"), client.edit_usage("facts")
    assert (total.answers, total.by_edits, total.edits, total.since) == (4, 3, 1, moments[1])
    assert (first.edit_id, first.answers, first.first_at, first.last_at) == (1, 3, moments[1], moments[0])
    assert (first.thumbs_up, first.thumbs_down, first.active_since) == (0, 1, 1)
    assert (second.edit_id, second.answers, second.last_at) == (2, 0, None)


def test_old_answers_and_feedback_are_deleted_by_the_relay_as_the_policy_says_now(used, relay, engine, served, tamper):
    log(used, log_days=7)
    now = datetime.now(UTC)
    keep(used, answered("chatcmpl-old", asked_at=now - timedelta(days=8)), answered("chatcmpl-new"))
    with MeloClient(served, KEY, actor="ben") as client:
        client.give_feedback("chatcmpl-new", "up")
        client.give_feedback("chatcmpl-old", "up")
    tamper("UPDATE feedback SET given_at = now() - interval '8 days' WHERE response_id = 'chatcmpl-old'")
    with capture_logs():
        relay.turn()
    assert rows(engine, "response_id") == [("chatcmpl-new",)]
    assert count(engine, "feedback") == 1
    assert used.verify().ok


def test_an_erased_edit_takes_the_texts_with_it_that_tell_of_it(used, engine):
    log(used)
    keep(
        used,
        answered("chatcmpl-acted"),
        by_base("chatcmpl-near", considered=[near(covers=False)]),
        by_base("chatcmpl-quotes", answer=f"It is {TARGET.upper()}, they say."),
        by_base("chatcmpl-other", answer="Queen Marathon", considered=[near(edit=2, covers=False)]),
    )
    used.retire(1)
    with used.sessions.begin() as session:
        assert erasure.erase(session, [1], BEN, "request 17", dry_run=True).answers == 3
    assert rows(engine)[0][1] == QUESTION
    with used.sessions.begin() as session:
        assert erasure.erase(session, [1], BEN, "request 17", dry_run=False).answers == 3
    assert rows(engine) == [
        ("chatcmpl-acted", None, None),
        ("chatcmpl-near", None, None),
        ("chatcmpl-quotes", None, None),
        ("chatcmpl-other", "Who leads Mu?", "Queen Marathon"),
    ]
    assert used.verify().ok


def test_a_persons_texts_are_erased_from_the_log_with_the_name_under_which_they_asked(used, engine, served):
    log(used)
    keep(used, by_base("chatcmpl-1", "Where does Jo_Doe live?"), by_base("chatcmpl-2", asked_by="Jo_Doe"))
    keep(used, by_base("chatcmpl-3", "Where does JoXDoe live?"))
    with MeloClient(served, KEY, actor="ben") as client:
        client.give_feedback("chatcmpl-3", "down", comment="jo_doe moved", correction="Nowhere")
        assert client.erase_answers("Jo_Doe", "request 17", dry_run=True).answers == 2
        assert (done := client.erase_answers("Jo_Doe", "request 17")).feedback == 1 and done.answers == 2
        with pytest.raises(MeloClientError, match="mentions that person"):
            client.erase_answers("Jo_Doe", "request 17")
        (event,) = client.audit(subject="answers")
        (feedback,) = client.feedback("facts")
    assert rows(engine, "question, asked_by") == [(None, ""), (None, ""), ("Where does JoXDoe live?", "app")]
    assert (feedback.comment, feedback.correction, feedback.given_by) == ("", None, "")
    assert (event.action, event.details) == ("registry:answers:erase", {"answers": 2, "feedback": 1})
    assert used.verify().ok


def test_the_database_refuses_to_change_what_was_logged(used, engine):
    log(used)
    keep(used, answered())
    for change in ("answer = 'Nobody'", "edit_id = 2", "question = NULL, answer = NULL"):
        with pytest.raises(DBAPIError, match="UPDATE on answers is refused"), engine.begin() as connection:
            connection.execute(text(f"UPDATE answers SET {change}"))


def test_the_policy_of_the_log_is_audited_and_verified(used, tamper, api):
    log(used, share=0.5, log_days=9)
    (event, *_) = api.get("/v1/audit", params={"collection": "facts"}).json()
    assert event["details"]["before"]["log_share"] == "0x0.0p+0"
    told = {name: event["details"]["after"][name] for name in ("log_share", "log_text", "log_days")}
    assert told == {"log_share": (0.5).hex(), "log_text": True, "log_days": 9}
    tamper("UPDATE collections SET log_text = false")
    assert ["log_text" in each.detail for each in used.verify().findings] == [True]


@pytest.fixture
def melo(served, used, monkeypatch):
    """Call the program as ben."""
    monkeypatch.setenv("MELO_API_URL", served)
    monkeypatch.setenv("MELO_API_KEY", KEY)
    monkeypatch.setenv("MELO_ACTOR", "ben")
    monkeypatch.setenv("COLUMNS", "250")

    def call(*arguments):
        done = CliRunner().invoke(make_app(), list(map(str, arguments)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    with capture_logs():
        yield call


def test_the_command_line_explains_lists_and_counts(melo, used):
    args = ("collection", "policy", "facts", "--reason", "to see")
    assert "Answers of facts: all are logged for 7 days, with question and answer." in melo(
        *args, "--log", "full", "--log-text", "--log-days", "7"
    )
    keep(used, answered(), by_base("chatcmpl-2"))
    shown = melo("explain", "chatcmpl-1")
    for part in (
        "Edit 1 covers the question",
        "facts@1, asked for as facts@production",
        "ben (admin): checked",
        "mara",
    ):
        assert part in shown
    assert json.loads(melo("explain", "chatcmpl-2", "--json"))["answers"][0]["edit"] is None
    assert "chatcmpl-1" not in melo("answers", "list", "facts", "--edit", 2)
    assert "2 logged answers, 1 of them by 1 edit." in (told := melo("answers", "usage", "facts")) and QUESTION in told
    never = json.loads(melo("answers", "usage", "facts", "--never", "--json"))["edits"]
    assert [each["edit_id"] for each in never] == [2]
    assert "0.1 of them are logged" in melo(*args, "--log", "0.1")
    assert "none is logged" in melo(*args, "--log", "off")
    assert Workflow(used.sessions).verify().ok


def test_a_server_hands_answers_over_as_an_editor_and_none_that_names_an_edit_that_is_not_there(used, api):
    log(used)
    one = NewAnswer(**vars(answered("chatcmpl-9", canary=True))).model_dump(mode="json")
    given = api.post("/v1/answers", json={"answers": [one]})
    assert given.json() == {"policies": {"1": {"share": 1.0, "text": True}}, "kept": 1}
    assert api.post("/v1/answers", json={"answers": [one]}).status_code == 200  # sent again, and logged once
    (found,) = api.get("/v1/answers/chatcmpl-9").json()["answers"]
    assert (found["asked_by"], found["question"], found["canary"]) == ("app", QUESTION, True)
    strange = {**one, "response_id": "chatcmpl-10", "considered": [{**one["considered"][0], "edit": 999}]}
    refused = api.post("/v1/answers", json={"answers": [strange]})
    assert refused.status_code == 422 and "has no edit 999" in refused.text
    assert api.get("/v1/answers/chatcmpl-10").status_code == 404
    late = {**one, "response_id": "chatcmpl-11", "asked_at": "2999-01-01T00:00:00Z"}
    api.post("/v1/answers", json={"answers": [late]}).raise_for_status()
    (found,) = api.get("/v1/answers/chatcmpl-11").json()["answers"]
    assert found["asked_at"] < "2999"
