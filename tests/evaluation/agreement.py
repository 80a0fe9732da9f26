"""Prompts for every instruction of IFEval with responses by hand, and what each is worth.

Where texts are split into sentences they are plain enough for every model of sentences.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """One instruction with its arguments; responses that follow it and that break it.

    `forgiven` are responses that break it to the letter but follow it when read loosely.
    """

    instruction: str
    arguments: dict[str, Any]
    prompt: str
    follows: tuple[str, ...]
    breaks: tuple[str, ...]
    forgiven: tuple[str, ...] = ()


ENGLISH = "The old lighthouse keeper walked slowly down to the harbour and looked at the sea."
GERMAN = "Der alte Leuchtturmwärter ging langsam zum Hafen hinunter und schaute auf das Meer."
FRENCH = "Le vieux gardien du phare descendit lentement vers le port et regarda la mer."
JAPANESE = "古い灯台守はゆっくりと港へ歩いて行き、海を眺めていました。"
REPEAT = "Name three rivers of Europe."

CASES = [
    Case(
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "Advertise a kettle. Use at least two words in capital letters.",
        ("Buy it NOW and SAVE money", "IT IS HOT"),
        ("Buy it NOW and save money", "Buy it Now And Save"),
    ),
    Case(
        "change_case:english_capital",
        {},
        "Describe a harbour. Write in English and in capital letters only.",
        (ENGLISH.upper(),),
        (ENGLISH, GERMAN.upper()),
        ("Sure:\n" + ENGLISH.upper(),),
    ),
    Case(
        "change_case:english_lowercase",
        {},
        "Describe a harbour. Write in English and in small letters only.",
        (ENGLISH.lower(),),
        (ENGLISH, GERMAN.lower()),
        (ENGLISH.lower() + "\nHope That Helps",),
    ),
    Case(
        "combination:repeat_prompt",
        {"prompt_to_repeat": REPEAT},
        f"{REPEAT} First repeat the request word for word. Then answer.",
        (f"{REPEAT}\nThe Danube and the Rhine and the Oder.", f"  {REPEAT.upper()} Po."),
        ("The Danube and the Rhine and the Oder.", f"Here: {REPEAT}"),
        (f"Here it is:\n{REPEAT}\nThe Po.", f"**{REPEAT}**\nThe Po."),
    ),
    Case(
        "combination:two_responses",
        {},
        "Invent a name for a cat. Give two different responses with ****** between them.",
        ("Milo\n******\nLuna", "Milo******Luna"),
        ("Milo\n******\nMilo", "Milo", "Milo******Luna******Kit"),
    ),
    Case(
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        "Write an invitation with at least two placeholders in square brackets.",
        ("Dear [name], come on [date].", "[] and []"),
        ("Dear [name], come on Friday.", "Dear (name), come on (date)."),
    ),
    Case(
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        "Write a letter. End with a postscript that begins with P.S.",
        ("Dear Ann, all is well.\n\nP.S. Bring the cat.", "Hello. p. s. Bye."),
        ("Dear Ann, all is well.", "Dear Ann\nPS: Bring the cat."),
        ("Dear Ann\n*P.*S. Bring the cat.",),
    ),
    Case(
        "detectable_format:constrained_response",
        {},
        'Is it late? Answer "My answer is yes.", "My answer is no." or "My answer is maybe."',
        ("My answer is no.", "Well, My answer is maybe. Who knows?"),
        ("No.", "my answer is no.", "My answer is no"),
        ("My answer is *no*.",),
    ),
    Case(
        "detectable_format:json_format",
        {},
        "Describe a cat. All of your output must be JSON.",
        ('{"name": "Milo", "legs": 4}', '```json\n["Milo", null]\n```', "4"),
        ("name: Milo", '{"name": "Milo",}', 'Here: {"name": "Milo"}'),
        ('Here it is:\n{"name": "Milo"}',),
    ),
    Case(
        "detectable_format:multiple_sections",
        {"num_sections": 2, "section_spliter": "SECTION"},
        "Describe a house in two sections. Begin each with SECTION X.",
        ("SECTION 1\nThe roof.\nSECTION 2\nThe cellar.", "SECTION1 a SECTION2 b SECTION3 c"),
        ("SECTION 1\nThe roof.", "Section 1\nThe roof.\nSection 2\nThe cellar."),
        ("SECTION 1\nThe roof.\nSECTION **2**\nThe cellar.",),
    ),
    Case(
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        "Name two fruits in exactly two bullet points.",
        ("* apple\n* pear", "Fruits:\n- apple\n  - pear", "- apple\n* pear"),
        ("* apple", "* apple\n* pear\n* plum\n* fig\n* date", "1. apple\n2. pear"),
        ("- Here are two:\n- apple\n- pear",),
    ),
    Case(
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        "Describe a garden. Highlight at least two parts, as in *highlighted*.",
        ("A *red* rose and a *tall* oak", "A **red** rose and a *tall* oak"),
        ("A *red* rose", "A _red_ rose and a _tall_ oak", "A ** ** rose and ** ** oak"),
    ),
    Case(
        "detectable_format:title",
        {},
        "Write a poem with a title in double angular brackets.",
        ("<<The Sea>>\nIt is blue.", "It is blue. << The Sea >>"),
        ("The Sea\nIt is blue.", "<The Sea>\nIt is blue.", "<< >>\nIt is blue."),
        ("<*<The Sea>*>\nIt is blue.",),
    ),
    Case(
        "keywords:existence",
        {"keywords": ["harbour", "keeper"]},
        "Tell a story with the words harbour and keeper.",
        (ENGLISH, "HARBOUR! Bookkeeper!"),
        ("The keeper slept.", "The har bour slept near the keeper."),
        ("The keeper slept in the har*bour*.",),
    ),
    Case(
        "keywords:forbidden_words",
        {"forbidden_words": ["sea", "harbour"]},
        "Tell a story without the words sea and harbour.",
        ("The keeper slept.", "Seasons change near the harbours."),
        (ENGLISH, "The SEA was calm."),
        ("A story of the sea:\nThe keeper slept.",),
    ),
    Case(
        "keywords:frequency",
        {"frequency": 3, "keyword": "tea", "relation": "at least"},
        "Praise tea. Use the word tea at least three times.",
        ("Tea, tea, tea!", "A teapot of steaming tea"),
        ("Tea and more tea.", "Coffee."),
        ("tea tea t*ea*",),
    ),
    Case(
        "keywords:letter_frequency",
        {"let_frequency": 3, "let_relation": "less than", "letter": "z"},
        "Describe a zebra with fewer than three letters z.",
        ("A zebra at the zoo.", "A horse."),
        ("Zebras doze in zoos.",),
        ("Zzz\nA zebra at the zoo.",),
    ),
    Case(
        "language:response_language",
        {"language": "de"},
        "Describe a harbour in German and in no other language.",
        (GERMAN, "12345"),  # the official check forgives what has no language at all
        (ENGLISH, FRENCH, JAPANESE),
        (ENGLISH * 3 + "\n" + GERMAN,),
    ),
    Case(
        "length_constraints:nth_paragraph_first_word",
        {"first_word": "later", "nth_paragraph": 2, "num_paragraphs": 2},
        "Tell a story in two paragraphs with an empty line between. Begin the second with later.",
        ("They met.\n\nLater, they parted.", 'They met.\n\n"Later" he said.'),
        (
            "They met.\n\nThey parted.",
            "Later they met.\nLater they parted.",
            "a\n\nb\n\nc\n\nlater d",
        ),
        ("They met.\n\n**Later** they parted.", "They met.\n\nLater they parted.\n\nThe end."),
    ),
    Case(
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        "Describe a day in two paragraphs with *** between them.",
        ("The morning.\n***\nThe evening.", "*** The morning. *** The evening. ***"),
        ("The morning.\n\nThe evening.", "a\n***\n***\nb", "a *** b *** c *** d"),
        ("Sure:\n***\nThe morning.\n***\nThe evening.",),
    ),
    Case(
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        "Describe a tree in at least three sentences.",
        ("It is tall. It is green. It is old.", "Is it tall? It is! Look at it. Go on."),
        ("It is tall. It is green.", "It is tall, green, and old"),
    ),
    Case(
        "length_constraints:number_words",
        {"num_words": 5, "relation": "less than"},
        "Describe a tree in fewer than five words.",
        ("Tall and green.", "It is tall, old"),
        ("It is tall and green.", "It's tall, it's"),  # the official check counts "It's" as two
        ("Here is what I think:\nTall and green.",),
    ),
    Case(
        "punctuation:no_comma",
        {},
        "Describe a tree without any commas.",
        ("Tall and green.", "Tall; green、old"),
        ("Tall, green.", ","),
        ("Well, then:\nTall and green.", "Tall and green.\nHope this helps, friend!"),
    ),
    Case(
        "startend:end_checker",
        {"end_phrase": "That is all."},
        "Describe a tree. End with the exact phrase: That is all.",
        ("Tall and green. That is all.", 'Tall. "THAT IS ALL."'),
        ("That is all. Tall and green.", "Tall and green. That is all"),
        ("Tall. That is all.\nAnything else?", "Tall. **That is all.**"),
    ),
    Case(
        "startend:quotation",
        {},
        "Describe a tree. Wrap all of your response in double quotation marks.",
        ('"Tall and green."', '  "Tall"\n', '""'),
        ("Tall and green.", '"Tall" and green.', '"', "“Tall and green.”"),
        ('Sure:\n"Tall and green."', '**"Tall and green."**'),
    ),
]


def row(key: int, prompt: str, cases: list[Case]) -> dict[str, Any]:
    """A row in the layout of the data set that asks for what the cases ask."""
    return {
        "key": key,
        "prompt": prompt,
        "instruction_id_list": [case.instruction for case in cases],
        "kwargs": [case.arguments for case in cases],
    }


def responses(case: Case) -> tuple[str, ...]:
    """All responses of a case."""
    return case.follows + case.breaks + case.forgiven


def answered() -> list[tuple[dict[str, Any], str]]:
    """(row, response): every response for its own instruction, and for all instructions at once."""
    own = [(response, case.prompt, [case]) for case in CASES for response in responses(case)]
    joint = [(response, "Follow everything.", CASES) for response, _, _ in own]
    return [
        (row(number, f"{prompt} ({number})", cases), response)
        for number, (response, prompt, cases) in enumerate(own + joint)
    ]
