"""What DNS was asked, and what it said. Pure.

Judging a domain needs answers that depend on earlier ones (an `include:` of SPF leads to the next). It
therefore looks into what is `Known` and, where that says nothing yet, stops with the questions it has:
whoever judges asks them and begins again. A name of the domain itself is asked of each of its name servers,
any other of a resolver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

QuestionType = Literal["TXT", "MX", "CNAME", "SRV", "A", "AAAA", "NS", "PTR"]


class Question(msgspec.Struct, frozen=True, order=True):
    """A name, lower case and without a dot at its end, and a type."""

    name: str
    type: QuestionType


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one server says. `values` are TXT strings put together, `10 mx.example.com`, names or addresses;
    none when there is no such record. `alias` is the name that the question's name is an alias of (CNAME).
    `problem` says why there is no answer: nothing is known then.
    """

    server: str = ""
    values: tuple[str, ...] = ()
    alias: str | None = None
    problem: str | None = None


class Unknown(Exception):
    """These questions have to be asked before anything can be said."""

    def __init__(self, *questions: Question) -> None:
        super().__init__()
        self.questions = questions


class Unanswered(Exception):
    """Nobody answers a question, so nothing can be said. The message says who and why."""


class Known:
    """Answers so far, those of several servers for each question."""

    def __init__(self, answers: Mapping[Question, Sequence[Answer]]) -> None:
        self._answers = answers

    def each(self, question: Question) -> list[Answer]:
        """What each server that answers says. Raises `Unknown`, and `Unanswered` when none does."""
        if question not in self._answers:
            raise Unknown(question)
        answers = self._answers[question]
        good = [answer for answer in answers if answer.problem is None]
        if not good:
            reasons = sorted({answer.problem or "" for answer in answers})
            raise Unanswered(" ".join(reasons) or "There is no name server to ask.")
        return good

    def one(self, name: str, kind: QuestionType) -> Answer:
        """What the first server that answers says. Raises `Unknown` and `Unanswered`."""
        return self.each(Question(name, kind))[0]

    def require(self, *questions: Question) -> None:
        """Ask for several at once. Raises `Unknown`."""
        missing = [each for each in questions if each not in self._answers]
        if missing:
            raise Unknown(*missing)
