"""The same fact asked as a question: rules for the cloze forms of CounterFact's relations."""

import re
from dataclasses import replace

from benchmarks.edits.data import BenchEdit

# A cloze pattern, with {} for its subject, and the question; the first match counts. \1 is the rule's group.
RULES = [
    (r"(?:The )?(mother tongue|religion|occupation|profession|location) of {} (?:is|was)", r"What is the \1 of {}?"),
    (r"The official (language|religion) of {} (?:is|was)", r"What is the official \1 of {}?"),
    (r"The original language of {} (?:is|was)", "What is the original language of {}?"),
    (r"The language of {} (?:is|was)", "What is the language of {}?"),
    (r"The language used by {} (?:is|was)", "Which language does {} use?"),
    (r"In {}, they understand", "Which language do they understand in {}?"),
    (
        r"In {}, (?:an|the) official language is|The law in {} declares the language",
        "What is an official language of {}?",
    ),
    (r"{}(?:, a native| is a native speaker of|, speaker of)", "What is the native language of {}?"),
    (r"{} (?:speaks|spoke)(?: the language)?", "Which language does {} speak?"),
    (r"{} writes in", "Which language does {} write in?"),
    (
        r"{}(?:'s|, whose) (?:expertise|(?:area|domain|field) of (?:work|activity))(?: is)?",
        "What field does {} work in?",
    ),
    (r"The (?:domain|area|field) of (?:work|activity) of {} is", "What field does {} work in?"),
    (r"{} (?:works in the (?:area|field) of|specializes in)", "What field does {} work in?"),
    (r"{}(?:'s|, whose) (occupation|profession)(?: is)?(?: an?)?", r"What is the \1 of {}?"),
    (r"{} works as", "What is the occupation of {}?"),
    (
        r"{} (?:is located in the|belongs to the|is a part of the|is in the) continent(?: of)?",
        "Which continent is {} in?",
    ),
    (r"{}(?: is|, which is|,)? (?:located|situated) in the country of", "Which country is {} in?"),
    (r"{}(?:,| is|, which is)?(?: located| situated)? (?:in|within)|{} can be found in", "Where is {}?"),
    (r"{}(?: plays in the|, who plays the) position(?: of)?|{} plays as", "Which position does {} play?"),
    (r"{} professionally plays the sport|{} is a professional", "Which sport does {} play?"),
    (r"{}(?: performs on|, playing| plays|,) the(?: instrument)?", "Which instrument does {} play?"),
    (
        r"{} (?:performs|plays|is known for performing)|{}, who plays|The genre played by {} is",
        "Which genre does {} play?",
    ),
    (
        r"{}(?: is| was|,| which is)?(?: a product)? (created|developed|produced|manufactured) by",
        r"Which company \1 {}?",
    ),
    (r"{}(?: is owned by|'s owner| owner|, by|, from)", "Who owns {}?"),
    (
        r"{}(?: is| was| is to)? (?:originally )?(?:debut|debuted|premieres|premiered|released|aired) on",
        "Which network did {} first appear on?",
    ),
    (r"{}(?:,| is| was|, which is|, which was) (?:named|called) (?:after|for)", "What is {} named after?"),
    (r"The headquarters? of {} (?:is|are)(?: located)? in", "Where is the headquarters of {}?"),
    (r"{}(?: is headquartered| is based|, whose headquarters are) in", "Where is the headquarters of {}?"),
    (
        r"{}(?:,| is| holds| has|, who)?(?: is| holds| has)?(?: a)? (?:citizen of|citizenship from)",
        "Which country is {} a citizen of?",
    ),
    (r"{} (?:died|passed away|expired|succumbed) (?:at|in)", "Where did {} die?"),
    (r"{} was born in", "Where was {} born?"),
    (r"{} (?:took up work|worked|was employed|found employment) in(?: the city of)?", "Where did {} work?"),
    (r"{} is a twin city of", "What is the twin city of {}?"),
    (r"{} was created in the country of", "In which country was {} created?"),
    (r"{}(?:,? that)?(?:,| was)? (formulated|created|developed|started|founded|formed) in", r"Where was {} \1?"),
    (
        r"{}(?:, that)? (?:is from|was from|originate[sd] (?:from|in)|(?:is|was) originally from|(?:is|was) native to)",
        "Where does {} come from?",
    ),
    (
        r"{}(?: is affiliated with(?: the)?| belongs to the organization of|, of)",
        "Which organization does {} belong to?",
    ),
    (r"{}(?: works for|(?:,? who)? is employed by)", "Who does {} work for?"),
    (r"{}(?:, who)? (?:has|holds) the position of|{} is an?", "Which position does {} hold?"),
    (r"{} is (?:a )?follower of|{} follows the religion of", "What is the religion of {}?"),
]


def as_question(cloze: str, subject: str) -> str:
    """Ask what a cloze leaves open, e.g. "The mother tongue of Ada is": "What is the mother tongue of Ada?".

    A form without a rule becomes a blank to fill in.
    """
    begun = re.match(r"(?:What|Which|Where|Who)\b[^?]*\?", cloze)
    if begun:  # "Where is the opera? It is located in"
        return begun[0]
    form = cloze.replace(subject, "{}", 1) if subject else cloze
    for said, question in RULES:
        if fits := re.fullmatch(said.replace("{}", r"\{\}"), form):
            return fits.expand(question).replace("{}", subject)
    return f'Fill in the blank: "{cloze} ___"'


def asked_as_question(edit: BenchEdit) -> BenchEdit:
    """Return a completion with its own prompt as a question; its other prompts stay, and are asked as questions."""
    if edit.kind != "completion":
        return edit
    return replace(edit, prompt=as_question(edit.prompt, edit.subject), kind="qa")
