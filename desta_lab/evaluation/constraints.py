"""Output constraints that a rule can check, under the instruction ids of IFEval (strict checking).

The meaning of every id follows IFEval (Zhou et al. 2023, arXiv:2311.07911) in the selection of
Speech-IFEval: no language detection for the two cases, "starts with" is
`combination:repeat_prompt`, and an answer wrapped in `<<…>>` is `detectable_format:title`.
Speech-IFEval reads bullets and paragraphs in another way; that stands in
`benchmarks/speech_ifeval.py`. Three rules are tighter or safer: keywords
are plain text and never patterns, quotation marks must hold something, and sentences are counted
here without a trained splitter. Every check is linear in the answer.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

Check = Callable[..., bool]  # (answer, *, the arguments of its instruction)

_FENCES = ("```json", "```Json", "```JSON", "```")  # of JSON: IFEval takes each away, in turn
_DIVIDER = "***"  # IFEval's boundary between paragraphs
# IFEval's patterns, by which a lone `*` takes the next line for its text
_STAR = re.compile(r"^[^\S\n]*\*[^*].*", re.MULTILINE)
_DASH = re.compile(r"^[^\S\n]*-", re.MULTILINE)
_CLOSERS = "\"'”’)]}*_»"  # may stand between a full stop and the blank after it
_ABBREVIATIONS = re.compile(r"mrs?|ms|dr|st|prof|sr|jr|inc|ltd|co|vs|etc|e\.g|i\.e|ph\.d")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+")  # a middle initial, or U.S.


def english_capital(answer: str) -> bool:
    """No small letter, and at least one capital (É counts as a capital, ß as small)."""
    return answer.isupper()


def english_lowercase(answer: str) -> bool:
    """No capital letter, and at least one small one."""
    return answer.islower()


def json_format(answer: str) -> bool:
    """The whole answer is one JSON value, in a code fence or not."""
    text = answer.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix(_FENCES[-1]).strip())
    except (ValueError, RecursionError):  # a hundred thousand open brackets are no answer
        return False
    return True


def quotation(answer: str) -> bool:
    """The whole answer stands between straight double quotation marks."""
    text = answer.strip()
    return text[:1] == '"' and text[-1:] == '"' and bool(text[1:-1].strip())


def start_checker(answer: str, *, prompt_to_repeat: str) -> bool:
    """The answer starts with this phrase, whatever its case."""
    return answer.strip().casefold().startswith(_phrase(prompt_to_repeat))


def end_checker(answer: str, *, end_phrase: str) -> bool:
    """The answer ends with this phrase, whatever its case; quotation marks may follow it."""
    return answer.strip().strip('"').casefold().endswith(_phrase(end_phrase))


def title(answer: str) -> bool:
    """Some line holds a text wrapped as <<…>>."""
    return any(_wrapped(line) for line in answer.split("\n"))


def existence(answer: str, *, keywords: Sequence[str]) -> bool:
    """Every keyword occurs, whatever its case, inside a longer word too."""
    text = answer.casefold()
    return all(word in text for word in _phrases(keywords))


def forbidden_words(answer: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of these words occurs as a whole word, whatever its case."""
    text = answer.casefold()
    return not any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in _phrases(forbidden_words)
    )


def number_bullet_lists(answer: str, *, num_bullets: int) -> bool:
    """Exactly this many markdown bullets (`* text` or `- text`; `**bold**` is none)."""
    return len(_STAR.findall(answer)) + len(_DASH.findall(answer)) == num_bullets


def number_words(answer: str, *, num_words: int, relation: str) -> bool:
    """At least, or less than, this many words (runs of letters, digits and underscores)."""
    return _compare(len(re.findall(r"\w+", answer)), relation, num_words)


def number_sentences(answer: str, *, num_sentences: int, relation: str) -> bool:
    """At least, or less than, this many sentences."""
    return _compare(_sentences(answer), relation, num_sentences)


def number_paragraphs(answer: str, *, num_paragraphs: int) -> bool:
    """Exactly this many paragraphs, divided by ***; one left empty between two dividers fails."""
    full = [bool(paragraph.strip()) for paragraph in answer.split(_DIVIDER)]
    return all(full[1:-1]) and sum(full) == num_paragraphs


CHECKS: dict[str, Check] = {
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "combination:repeat_prompt": start_checker,
    "detectable_format:json_format": json_format,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:title": title,
    "keywords:existence": existence,
    "keywords:forbidden_words": forbidden_words,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_words": number_words,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
}


def is_obeyed(
    instruction_id: str, answer: str, *, checks: Mapping[str, Check] = CHECKS, **kwargs: Any
) -> bool:
    """Whether an answer obeys one output constraint; an empty answer never does.

    `checks` are the rules by instruction id, by default IFEval's.
    `kwargs` are the arguments IFEval states beside the id (`num_words=50, relation="at least"`);
    those that are None are left out, since published data sets carry every argument in every row.

    Raises:
        KeyError: the id is not among `CHECKS`. TypeError: an argument of this id is missing, or
        another one is given. ValueError: an argument has no meaning (an unknown relation, no
        keyword, an empty phrase).
    """
    if instruction_id not in checks:
        raise KeyError(
            f"No check for the instruction {instruction_id!r}; there are {', '.join(checks)}."
        )
    given = {name: value for name, value in kwargs.items() if value is not None}
    for name, value in given.items():
        if name.startswith("num_") and type(value) is not int:
            raise TypeError(f"{name} is {value!r}; write a whole number.")
    # zero-width marks are nothing, too
    seen = any(char.isprintable() and not char.isspace() for char in answer)
    return checks[instruction_id](answer, **given) and seen


def _phrase(text: str) -> str:
    if not text.strip():
        raise ValueError("The phrase to look for is empty, so every answer would obey; state it.")
    return text.strip().casefold()


def _phrases(words: Sequence[str]) -> list[str]:
    if isinstance(words, str) or not words:
        raise ValueError(f"A list of at least one word is needed, not {words!r}.")
    return [_phrase(word) for word in words]


def _compare(count: int, relation: str, threshold: int) -> bool:
    if relation not in ("at least", "less than"):
        raise ValueError(f"The relation {relation!r} is unknown; it is 'at least' or 'less than'.")
    return count >= threshold if relation == "at least" else count < threshold


def _wrapped(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start < end and bool(line[start : end + 2].lstrip("<").rstrip(">").strip())


def _sentences(answer: str) -> int:
    """Stretches with a letter or digit in them, each up to a closing mark or the end."""
    count, said = 0, 0  # sentences, words in the sentence at hand
    for word, following in pairwise([*answer.split(), ""]):
        said += any(char.isalnum() for char in word)
        numbers_an_item = said == 1 and word[:-1].isdigit()
        ends = not following or (not numbers_an_item and _ends(word.rstrip(_CLOSERS), following))
        if said and ends:
            count, said = count + 1, 0
    return count


def _ends(word: str, following: str) -> bool:
    if word.endswith(("...", "…")):
        return not following[0].islower()
    if word.endswith("."):
        bare = word.lstrip("(\"'")
        return not _INITIALS.fullmatch(bare) and not _ABBREVIATIONS.fullmatch(bare[:-1].lower())
    return word.endswith(("!", "?"))
