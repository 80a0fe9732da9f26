"""What a correction must not say: that its answer was known beforehand, or that there was an earlier attempt.

A policy that learns such a sentence appeals to what it will not have. Ordinary mathematics speaks of a
given expression, of answer choices and of the previous equation: that is no comment
(`performance/false_alarms.py` measures it).
"""

from __future__ import annotations

import re

STUDENT = "student"  # whom a question may be about

# Parts of the phrases below, by the name that stands for them there.
_PARTS = {
    "ANSWER": r"answer\b(?![\s-]+(?:choice|option|form|format|blank|box))",
    "RESULT": r"(?:ANSWER|(?:result|solution)\b(?!\s+set))",
    "KNOWN": r"(?:expected|provided|stated|target|reference|official|supplied|intended|prescribed)",
    "RIGHT": r"(?:correct|right|true|actual|required|desired|final|numerical|given)",
    "NUMBER": r"\s*(?=[$\\({\s]{0,4}(?:[-−+]?\d|boxed|d?frac|sqrt|text|known|given))",
    "MATCHING": (
        r"(?:match(?:es|ed|ing)?|agree(?:s|d|ing|ment)? with|consistent with|(?:in )?line (?:up )?with"
        r"|coincid(?:e|es|ing) with|align(?:s|ed|ing)? with|compar(?:e|ed|ing) (?:it )?(?:with|to)"
        r"|(?:check|checked|checking|verif\w+) (?:it )?(?:against|with)|in accordance with|fit(?:s|ting)?"
        r"|differs? from|different from|contradict\w*|disagree\w* with)"
    ),
    "EARLIER": r"(?:previous|earlier|initial|original|prior|first|above|my)",
    "WORK": (
        r"(?:attempt|calculation|computation|answer|solution|reasoning|response|working|approach|result"
        r"|step|value)"
    ),
    "WRONG": r"(?:wrong|incorrect|mistaken|flawed|erroneous|faulty)",
    "WRONGLY": r"(?:incorrectly|mistakenly|wrongly|erroneously)",
    "SLIP": r"(?:mistake|error)",
    "DIDSO": (
        r"(?:wrote|said|stated|claimed|thought|assumed|computed|calculated|found|got|obtained|used|added"
        r"|subtracted|multiplied|divided|counted|made|took|concluded|answered|WRONGLY)"
    ),
}
# One phrase a line; a blank stands for any.
_PHRASES = {
    "answer known beforehand": r"""
        ground[\s-]truth
        reference (?:value|says|states|gives|shows)
        the reference\s*(?:[,.;:]|$)
        (?:answer|solution)[\s-]key\b
        (?:marking|mark) scheme
        back of the book
        solutions? manual
        model answer
        (?:textbook|teacher['’]s|author['’]?s|problem['’]s|question['’]s) (?:answer|solution)\b
        KNOWN (?:RIGHT )?RESULT
        (?:given|known|true|gold) (?:(?:correct|final|numerical) )?ANSWER
        given the (?:RIGHT )*ANSWER
        answer (?:we|i|you) (?:are|were|was|have been) (?:given|told|supplied|provided)
        answer\s*,? (?:(?:that|which|as) )?(?:(?:is|was|has been|being|to be) )?(?:already )?(?:given|known|expected|provided|stated|supplied|specified|told)\b(?! (?:by|that|if|as an?\b|in (?:terms|the form|simplest)))
        answer (?:is supposed to be|says|states|tells us|indicates|confirms|requires)
        solution (?:provided|supplied)\b(?! (?:by|that))
        (?:according to|as per|going by|knowing|told|look(?:s|ing)? at|back(?:ward)?s? from|appeal\w* to) (?:what )?(?:that )?the (?:RIGHT )*ANSWER
        (?:since|because|as|given(?: that)?|know(?:ing|n)?(?: that)?|told(?: that)?|stated that) (?:the|our) (?:RIGHT )*ANSWER (?:is|must be|should be|has to be|equals|of)NUMBER
        know (?:\w+ ){0,3}(?:that )?the (?:RIGHT )+RESULT isNUMBER
        know (?:\w+ ){0,3}that the ANSWER isNUMBER
        know\w* (?:that )?the (?:RIGHT )*RESULT (?:should|must|has to) be
        need the ANSWER to beNUMBER
        (?:but|however|hmm|wait)[,\s]+the (?:RIGHT )*ANSWER (?:should|must|has to) beNUMBER
        (?:stated|shown|seen|read|deduced?|infer\w*|see|know) (?:\w+ )?(?:in|from) the (?:RIGHT )*ANSWER(?! (?:to|of|above|for|from)\b)
        with the (?:RIGHT )*ANSWER being\b
        (?:gives?|states?|says?|tells? us) (?:that )?the (?:RIGHT )*ANSWER (?:as|is|to be)\b
        (?:review|see|consult|check)\w* the (?:correct|given|known) ANSWER
        to (?:get|reach|obtain|arrive at|force|reproduce) the (?:correct|right|required) ANSWER
        MATCHING (?:the|our|this|that) (?:RIGHT )*ANSWER
        MATCHING the (?:correct|required|desired|right|given|KNOWN) RESULT
        MATCHING the (?:KNOWN|true|stored|known) (?:value|total|number|figure)
        told (?:that )?the (?:RIGHT )*RESULT
        (?:stored|recorded|hidden) (?:RIGHT )?ANSWER
        as the expected output
        (?:RESULT|total) (?:is|was) supposed to (?:be|equal|come)
        (?:since|because|as) the (?:RIGHT )*(?:RESULT|total) (?:has to|needs to|ought to|is known to|must) (?:be|equal|come out (?:as|to))NUMBER
        ANSWER (?:that )?(?:we|i|you) (?:are|were|was) (?:supposed|meant|expected|asked) to""",
    "earlier attempt": r"""
        my (?:previous|earlier|initial|original|prior)\b
        (?:my|your|the student['’]?s?) (?:first|last|previous|earlier|initial|original|prior) (?:WORK|try|work|claim)
        our (?:first|last|previous|earlier|initial|original|prior) (?:attempt|try|answer|reasoning|response)
        (?:EARLIER WORK|WORK above) (?:(?:of|in|for|was|is|were|has|had|been|an?|the|that|contain\w*|made|[$\\({]*[-−+]?\d[^\s.]*) ){0,4}(?:not (?:correct|right)|WRONG|flaw|in error|SLIP|missed|overlooked|forgot)
        (?:previous|earlier|original|initial|prior) attempt
        original (?:response|attempt|text)
        in the original\s*[.,;]
        unlike (?:in )?the (?:first|previous|earlier|original)
        the WRONG (?:WORK|sum)
        (?:previous|earlier|initial|original|prior|first|student['’]s) (?:mistake|WRONG \w+)
        (?:i|we) (?:had |have |previously |earlier |originally |initially )*(?:mis(?!s)\w+ed|misread|WRONGLY|made an? (?:\w+ )?SLIP|overlooked|forgot to|should have \w+ed)
        i (?:had |have )?(?:previously|earlier|originally|initially) DIDSO
        (?:earlier|previously|originally|initially)\s*,? i (?:had |have )?DIDSO
        i (?:was|got (?:this|it|that)) wrong
        i (?:now )?(?:see|notice|spot|realize|found) (?:an?|my|the) (?:\w+ )?SLIP\b
        (?:corrected|correcting|correction of|revised|revising|rectif\w+|redo|redoing) (?:(?:the|this|that|my|our|your) )?(?:(?:previous|earlier|initial|original|above) )?(?:WORK|SLIP|derivation|work|version)s?\b
        (?:correct(?:s|ing|ed)?|fix(?:es|ing|ed)?|rectify) (?:the|this|that|my|our) (?:\w+ )?SLIPs?\b
        let me (?:fix|correct|redo|revise|rectify)\b
        let(?:['’]s| us) (?:fix|redo|revise)\b
        my (?:\w+ )?SLIPs?\b
        the SLIP (?:here|was|lies|lay|comes|came)\b
        the mistake is\b
        SLIPs? (?:(?:was )?made )?(?:above|earlier|before|in (?:my|the (?:(?:previous|earlier|original|first|above)\b|WORK)))
        WORK should have been\b
        (?:not|instead of|rather than|unlike)\s[^.\n]{1,40}\bas (?:(?:i|we|it|was|were|is|had|been) ){0,3}(?:previously|earlier|originally|initially|WRONGLY)
        as WRONGLY \w+
        your (?:attempt|solution|SLIP|calculation|reasoning|working|answer (?:is|was) WRONG)
        (?<![a-z,]\s)corrections?\s*:
        corrected (?:from|to)\b
        oops\b
        i apologi[sz]e""",
    STUDENT: r"""
        (?:the|this) student(?:['’]s)? (?:(?:final|own|first|original|WRONG) )?(?:model\b|answer\b|response|solution|attempt|reasoning|calculation|work\b|working\b|text|SLIP|WRONGLY|forgot|made an? (?:\w+ )?SLIP|should have)""",
}


def _compiled(phrases: str) -> re.Pattern[str]:
    text = "|".join(line.strip() for line in phrases.strip().split("\n"))
    for _ in range(2):  # a part may have parts
        text = re.sub("[A-Z]{4,}", lambda name: _PARTS[name[0]], text)
    return re.compile(r"\b(?:" + text.replace(" ", r"\s+") + ")", re.IGNORECASE)


_PATTERNS = {kind: _compiled(phrases) for kind, phrases in _PHRASES.items()}


def comment(chosen: str, attempt: str = "", question: str = "") -> tuple[str, str] | None:
    """`(kind, words)` of the first comment in a correction, or None.

    Words that the attempt has are the student's own; a question that speaks so itself may be answered so.
    """
    own = " ".join(attempt.casefold().split())
    for kind, pattern in _PATTERNS.items():
        if pattern.search(question) or (kind == STUDENT and STUDENT in question.casefold()):
            continue
        for match in pattern.finditer(chosen):
            words = " ".join(match[0].split())
            if words.casefold() not in own:
                return kind, words
    return None
