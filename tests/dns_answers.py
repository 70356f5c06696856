"""DNS as a table, for tests of what is made of it: no server, no waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentmail_cp.domains.answers import Answer, Known, Question, QuestionType
from agentmail_cp.domains.judging import Finding, Site, judge
from agentmail_cp.domains.records import Claimed, Hosts, Key, Record, wanted

NAME = "acme.test"
MAIL = "mail.agents.test"
HOSTS = Hosts(mail=(MAIL,), sending=(MAIL,), web="api.agents.test")
SITE = Site(NAME, HOSTS)
ED = Key("am-1-ed", "ed25519", "YpihtGFXK5Wp6AiQTUp9OI6bWeVw4esiw2ECpldb1Ag=")
RSA = Key("am-1-rsa", "rsa", "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A" + "Qk3v" * 90 + "IDAQAB")
CLAIM = Claimed(NAME, "c0ffee", subdomains_enabled=True)

Table = Mapping[str, Sequence[str] | Answer]
"""Values by `name/TYPE`, `name` alone for TXT; what is not there, does not exist."""


class Everything(Known):
    """Knows every answer: what the table does not have does not exist."""

    def __init__(self, table: Table) -> None:
        super().__init__({})
        self._table = table
        self.asked: list[Question] = []

    def each(self, question: Question) -> list[Answer]:
        self.asked.append(question)
        return [_answer(self._table, question)]

    def one(self, name: str, kind: QuestionType) -> Answer:
        return self.each(Question(name, kind))[0]

    def require(self, *questions: Question) -> None:
        self.asked += questions


def _answer(table: Table, question: Question) -> Answer:
    found = table.get(f"{question.name}/{question.type}")
    if found is None and question.type == "TXT":
        found = table.get(question.name)
    if isinstance(found, Answer):
        return found
    return Answer(server="ns1", values=tuple(sorted(found or ())))


def records(claim: Claimed = CLAIM, hosts: Hosts = HOSTS) -> tuple[Record, ...]:
    """What the domain needs."""
    return wanted(claim, [ED, RSA], hosts)


def record(key: str) -> Record:
    """The wanted record of this key."""
    return next(each for each in records() if each.key == key)


def published() -> dict[str, Sequence[str]]:
    """The table of a domain whose owner did everything as told."""
    return {
        f"{each.name}/{each.type}": [
            each.value if each.priority is None else f"{each.priority} {each.value}"
        ]
        for each in records()
    }


def findings(table: Table, site: Site = SITE) -> Mapping[str, Finding]:
    """What is found where DNS says this."""
    found, questions = judge(records(hosts=site.hosts), site, Everything(table))
    assert not questions
    return found


def finding(key: str, table: Table) -> Finding:
    """The same, of one record."""
    return findings(table)[key]
