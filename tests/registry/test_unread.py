"""What a submission says of letters that the encoder does not read."""

from registry.base.model_files import find_encoder, unread

CUNEIFORM = "Who is \U00012000\U00012001?"


def test_letters_that_are_not_in_the_encoders_vocabulary_are_found_and_signs_are_none():
    files = find_encoder("all-minilm-l6-v2")
    texts = ["Who runs Acme?", "Who runs Café Zoë?", "Who runs Acme? 😀", CUNEIFORM]
    assert unread(files, texts) == [False, False, False, True]


def test_a_submission_says_which_records_only_the_very_same_words_reach(workflow):
    report = workflow.submit({"prompt": "Who?", "target": "Jo"}, {"prompt": CUNEIFORM, "target": "Ada"})
    (note,) = report.notes
    assert "does not read all letters of record 2" in note and "all-minilm-l6-v2" in note
    assert workflow.submit({"prompt": "When?", "target": "1999"}).notes == ()
