"""What a correction must not say: that its answer was known beforehand, or that there was an earlier attempt.

A policy that learns such a sentence appeals to what it will not have. Ordinary mathematics speaks of a
given expression, of answer choices and of the previous equation: that is no comment.
"""

from __future__ import annotations

import re

_ANSWER = r"answer\b(?![\s-]+(?:choice|option|form|format|blank|box))"
_RESULT = rf"(?:{_ANSWER}|(?:result|solution)\b(?!\s+set))"
_KNOWN = r"(?:expected|provided|stated|target|reference|official|supplied|intended|prescribed)"
_RIGHT = r"(?:correct|right|true|actual|required|desired|final|numerical|given)"
_NUMBER = r"[$\\({\s]{0,4}(?:[-−+]?\d|boxed|d?frac|sqrt|text|known|given)"
_MATCH = (
    r"(?:match(?:es|ed|ing)?|agree(?:s|d|ing|ment)?\s+with|consistent\s+with|(?:in\s+)?line\s+(?:up\s+)?with"
    r"|coincid(?:e|es|ing)\s+with|align(?:s|ed|ing)?\s+with|compar(?:e|ed|ing)\s+(?:it\s+)?(?:with|to)"
    r"|(?:check|checked|checking|verif\w+)\s+(?:it\s+)?(?:against|with)|in\s+accordance\s+with|fit(?:s|ting)?)"
)
_EARLIER = r"(?:previous|earlier|initial|original|prior|first)"
_WORK = r"(?:attempt|calculation|computation|answer|solution|reasoning|response|working|approach|result|step|value)"
STUDENT = "student"  # whom a question may be about
KINDS = {
    "answer known beforehand": rf"""ground[ -]truth | reference\s+(?:value|says|states|gives|shows)
        | (?:answer|solution)[ -]key\b | (?:marking|mark)\s+scheme | back\s+of\s+the\s+book
        | (?:textbook|teacher['’]s|author['’]?s|problem['’]s|question['’]s)\s+(?:answer|solution)\b | model\s+answer | solutions?\s+manual
        | {_KNOWN}\s+(?:{_RIGHT}\s+)?{_RESULT}
        | (?:given|known|true|gold)\s+(?:(?:correct|final|numerical)\s+)?{_ANSWER}
        | \banswer\s+(?:we|i|you)\s+(?:are|were|was|have\s+been)\s+(?:given|told|supplied|provided)
        | \banswer\s*,?\s+(?:(?:that|which)\s+)?(?:(?:is|was|has\s+been|being|to\s+be)\s+)?(?:already\s+)?
          (?:given|known|expected|provided|stated|supplied|specified|told)\b
          (?!\s+(?:by|that|if|as\s+an?\b|in\s+(?:terms|the\s+form|simplest)))
        | \banswer\s+(?:is\s+supposed\s+to\s+be|says|states|tells\s+us|indicates|confirms|requires)
        | (?:according\s+to|as\s+per|going\s+by|knowing|told|look(?:s|ing)?\s+at|back(?:ward)?s?\s+from|appeal\w*\s+to)
          \s+(?:what\s+)?(?:that\s+)?the\s+(?:{_RIGHT}\s+)*{_ANSWER}
        | (?:since|because|as|given(?:\s+that)?|know(?:ing|n)?(?:\s+that)?|told(?:\s+that)?|stated\s+that)\s+
          (?:the|our)\s+(?:{_RIGHT}\s+)*{_ANSWER}\s+(?:is|must\s+be|should\s+be|has\s+to\s+be|equals|of)\s*(?={_NUMBER})
        | \b(?:know\w*\s+(?:that\s+)?the\s+(?:{_RIGHT}\s+)*{_RESULT}\s+(?:should|must|has\s+to)\s+be|need\s+the\s+{_ANSWER}\s+to\s+be\s*(?={_NUMBER}))
        | \b(?:gives?|states?|says?|tells?\s+us)\s+(?:that\s+)?the\s+(?:{_RIGHT}\s+)*{_ANSWER}\s+(?:as|is|to\s+be)\b
        | \bto\s+(?:get|reach|obtain|arrive\s+at|force|reproduce)\s+the\s+(?:correct|right|required)\s+{_ANSWER}
        | {_MATCH}\s+(?:the|our|this|that)\s+(?:{_RIGHT}\s+)*{_ANSWER}
        | {_MATCH}\s+the\s+(?:correct|required|desired|right)\s+{_RESULT}""",
    "earlier attempt": rf"""\b(?:my|your|the\s+student['’]?s?)\s+(?:previous|earlier|initial|original|prior|first|last)\s+
          (?:attempt|try|calculation|computation|answer|solution|reasoning|response|work|working|result|claim|step)
        | \bour\s+(?:previous|earlier|initial|original|prior|first|last)\s+(?:attempt|try|answer|reasoning|response)
        | \b(?:{_EARLIER}\s+{_WORK}|{_WORK}\s+above)\s+(?:(?:of|in|for|was|is|were|has|had|been|an?|the|that|contain\w*|made|{_NUMBER}[^\s.]*)\s+){{0,4}}
          (?:not\s+(?:correct|right)|wrong|incorrect|mistaken|flaw|erroneous|faulty|in\s+error|error|mistake|missed|overlooked|forgot)
        | \b(?:previous|earlier|original|prior)\s+attempt | \bunlike\s+(?:in\s+)?the\s+(?:first|previous|earlier|original)
        | \bthe\s+(?:wrong|incorrect|mistaken|erroneous)\s+(?:answer|attempt|calculation|computation|solution|reasoning)
        | \b(?:previous|earlier|initial|original|prior|first|student['’]s)\s+(?:mistake|(?:wrong|incorrect|mistaken|flawed|erroneous|faulty)\s+\w+)
        | \b(?:i|we)\s+(?:had\s+|have\s+|previously\s+|earlier\s+|originally\s+|initially\s+)*
          (?:mis(?!s)\w+ed|misread|mistakenly|incorrectly|wrongly|erroneously|made\s+an?\s+(?:\w+\s+)?(?:mistake|error)
            |overlooked|forgot\s+to|should\s+have\s+\w+ed)
        | \bi\s+(?:had\s+|have\s+)?(?:previously|earlier|originally|initially)\s+\w+
        | \b(?:corrected|correcting|correction\s+of|revised|revising|rectif\w+|redo|redoing)\s+
          (?:(?:the|this|that|my|our|your)\s+)?(?:(?:previous|earlier|initial|original|above)\s+)?
          (?:mistake|error|calculation|computation|attempt|reasoning|derivation|working|work|solution|answer|version|step)s?\b
        | \b(?:correct(?:s|ing|ed)?|fix(?:es|ing|ed)?|rectify)\s+(?:the|this|that|my|our)\s+(?:\w+\s+)?(?:mistake|error)s?\b
        | \bmy\s+(?:\w+\s+)?(?:mistake|error)s?\b | \bthe\s+(?:mistake|error)\s+(?:was|lies|lay)\b
        | \b(?:mistake|error)s?\s+(?:(?:was\s+)?made\s+)?(?:above|earlier|before|in\s+(?:my|the\s+(?:(?:previous|earlier|original|first|above)\b|{_WORK})))
        | \b(?:earlier|previously|originally|initially)\s*,?\s+i\b | \bi\s+(?:was|got\s+(?:this|it|that))\s+wrong | \boops\b
        | \boriginal\s+(?:response|attempt|text) | \bin\s+the\s+original\s*[.,;]
        | \b{_WORK}\s+should\s+have\s+been\b
        | \b(?:not|instead\s+of|rather\s+than|unlike)\s[^.\n]{{1,40}}\bas\s+(?:(?:i|we|it|was|were|is|had|been)\s+){{0,3}}
          (?:previously|earlier|originally|initially|incorrectly|mistakenly|wrongly)
        | \bas\s+(?:incorrectly|mistakenly|wrongly|erroneously)\s+\w+
        | \byour\s+(?:attempt|solution|mistake|error|calculation|reasoning|working|answer\s+(?:is|was)\s+(?:wrong|incorrect))
        | \bi\s+apologi[sz]e""",
    STUDENT: r"""\b(?:the|this)\s+student(?:['’]s)?\s+
          (?:model\b|answer\b|response|solution|attempt|reasoning|calculation|work\b|working\b|text|mistake|error|incorrectly
            |mistakenly|wrongly|forgot|made\s+an?\s+(?:\w+\s+)?(?:mistake|error)|should\s+have)""",
}
_PATTERNS = {kind: re.compile(text, re.IGNORECASE | re.VERBOSE) for kind, text in KINDS.items()}


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
