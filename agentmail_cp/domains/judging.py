"""What was found in DNS, held against what is wanted: MISSING, INVALID or VALID, and what to do. Pure.

A record is VALID when it has the wanted effect, which is often more than one way to write it: an SPF record
that lets our hosts in by `include`, any policy of DMARC, a DKIM key in pieces. Where it is not, the reason
says what was found, what was expected, and what most likely happened to it on its way. Each of a domain's
name servers is judged by itself, and a record is VALID when it is on all that answer. Where nobody answers
there is no finding (`status` None): that says nothing of the record, so what was known before stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from agentmail_cp.domains import spf
from agentmail_cp.domains.answers import Answer, Known, Question, Unanswered, Unknown
from agentmail_cp.domains.providers import named, provider_of
from agentmail_cp.domains.records import TOKEN, Hosts, Record

Status = Literal["MISSING", "INVALID", "VALID"]
Kind = Literal["duplicate_records", "value_mismatch"]

SHOWN: Final = 300
"""Characters of a found value that are repeated in a reason."""
MOST_SHOWN: Final = 5

_UNPRINTABLE: Final = re.compile(r"[^ -~]")
_POLICIES: Final = {"none", "quarantine", "reject"}


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a check found of one record. `kind` is the contract's, `reason` a sentence or more for a person;
    `found` the values there are at its name; `lost` that it was VALID at an earlier check.
    """

    status: Status | None
    kind: Kind | None = None
    reason: str | None = None
    found: tuple[str, ...] = ()
    lost: bool = False

    @property
    def has_been_valid(self) -> bool:
        """Whether it is VALID, or was."""
        return self.status == "VALID" or self.lost


VALID: Final = Finding(status="VALID")
_Judge = Callable[[Record, Answer, Known], Finding]


class Site(msgspec.Struct, frozen=True):
    """What records are judged by: the domain's name and the operator's hosts."""

    name: str
    hosts: Hosts


def judge(
    records: Sequence[Record], site: Site, known: Known
) -> tuple[dict[str, Finding], frozenset[Question]]:
    """The findings there are so far, by the key of each record, and the questions the others wait for."""
    findings: dict[str, Finding] = {}
    questions: set[Question] = set()
    for record in records:
        try:
            findings[record.key] = _printable(_on_all_servers(record, site, known))
        except Unknown as unknown:
            questions.update(unknown.questions)
        except Unanswered as unanswered:
            findings[record.key] = Finding(status=None, reason=str(unanswered))
    return findings, frozenset(questions)


def carried(before: Finding | None, now: Finding) -> Finding:
    """What is known of a record after a check: where nobody answered, what was known before."""
    if now.status is not None:
        lost = now.status != "VALID" and before is not None and before.has_been_valid
        return msgspec.structs.replace(now, lost=lost)
    if before is not None:
        return before
    return Finding(status="MISSING", reason=f"It could not be looked up. {now.reason}")


def _on_all_servers(record: Record, site: Site, known: Known) -> Finding:
    answers = known.each(Question(record.name, record.type))
    by_answer = {
        (answer.values, answer.alias): _one(record, answer, site, known) for answer in answers
    }
    wrong = [
        (answer, finding)
        for answer in answers
        if (finding := by_answer[answer.values, answer.alias]).status != "VALID"
    ]
    if not wrong:
        return by_answer[answers[0].values, answers[0].alias]
    finding = min((each for _, each in wrong), key=lambda each: each.status == "MISSING")
    if len(wrong) == len(answers):
        return finding
    behind = ", ".join(sorted({answer.server for answer, _ in wrong}))
    return msgspec.structs.replace(
        finding,
        reason=f"Not all name servers of the domain have it yet: {behind} says otherwise. {finding.reason}",
    )


def _one(record: Record, answer: Answer, site: Site, known: Known) -> Finding:
    kind = record.key.partition(":")[0]
    judges: Mapping[str, Callable[[], Finding]] = {
        "token": lambda: _judge_token(record, answer, site, known),
        "mx": lambda: _judge_mx(record, answer, site, known),
        "wildcard_mx": lambda: _judge_mx(record, answer, site, known),
        "spf": lambda: _judge_spf(record, answer, site, known),
        "wildcard_spf": lambda: _judge_spf(record, answer, site, known),
        "dkim": lambda: _judge_dkim(record, answer, site, known),
        "dmarc": lambda: _judge_dmarc(record, answer, site, known),
        "mta_sts": lambda: _judge_policy(record, answer),
        "tls_rpt": lambda: _judge_policy(record, answer),
    }
    return judges.get(kind, lambda: _judge_exactly(record, answer))()


# --- the proof of ownership


def _judge_token(record: Record, answer: Answer, site: Site, known: Known) -> Finding:
    if answer.alias is not None:
        # Whoever has the target could prove the domains of all that point to it, by a wildcard for example.
        return _aliased(record, answer)
    if record.value in answer.values:
        return VALID
    values = _own(answer)
    if not values:
        return _absent(record, site, known)
    tokens = [value for value in values if value.startswith(TOKEN)]
    why = "This is the token of another account, or of an earlier try." if tokens else ""
    return _mangled(record, values) or _mismatch(record, tokens or values, why)


def _absent(record: Record, site: Site, known: Known) -> Finding:
    """What is not at its name, and perhaps elsewhere."""
    at_the_top = known.one(site.name, "TXT").values
    if any(_is_like(value, record) for value in at_the_top):
        return _missing(f"It stands at {site.name}; it has to be at {record.name}.")
    return _missing(_doubled(record, site, known))


# --- MX


def _judge_mx(record: Record, answer: Answer, site: Site, known: Known) -> Finding:
    if answer.alias is not None:
        return _aliased(record, answer)
    if not answer.values:
        return _missing(_doubled(record, site, known))
    found = sorted(_exchangers(answer.values))
    if [host for _, host in found] == [""]:
        return _mismatch(record, answer.values, "It says that the domain takes no mail (RFC 7505).")
    others = [(priority, host) for priority, host in found if host not in site.hosts.mail]
    if not others:
        return _valid_exchanger(record, [host for _, host in found])
    if len(others) == len(found):
        whom = _some(named(host) for _, host in others)
        return _mismatch(
            record,
            answer.values,
            f"Mail for it goes to {whom}. {_doubled_target(others, site)}".strip(),
        )
    return _mixed(record, answer.values, found, others)


def _exchangers(values: Sequence[str]) -> list[tuple[int, str]]:
    pairs = (value.partition(" ") for value in values)
    return [(int(priority), host.lower().rstrip(".")) for priority, _, host in pairs]


def _valid_exchanger(record: Record, found: Sequence[str]) -> Finding:
    """Our hosts alone: any priority will do. Further hosts of ours are a second way, and optional."""
    if record.required or record.value in found:
        return VALID
    return _missing(f"There is no MX record with {record.value}.")


def _doubled_target(others: Sequence[tuple[int, str]], site: Site) -> str:
    """A web form that appends the domain to a target without a dot at its end."""
    appended = {f"{host}.{site.name}" for host in site.hosts.mail}
    if not appended & {host for _, host in others}:
        return ""
    return "Your provider appended your domain to it: put a dot at the end of the name."


def _mixed(
    record: Record,
    values: Sequence[str],
    found: Sequence[tuple[int, str]],
    others: Sequence[tuple[int, str]],
) -> Finding:
    first = found[0][1] in {host for _, host in others}
    rest = _some(f"{priority} {named(host)}" for priority, host in others)
    return Finding(
        status="INVALID",
        kind="duplicate_records",
        reason=f"There are other MX records beside ours, so {'' if first else 'some '}mail goes elsewhere:"
        f' {rest}. Remove them, and keep "{record.priority} {record.value}".',
        found=_shown(values),
    )


# --- SPF


def _judge_spf(record: Record, answer: Answer, site: Site, known: Known) -> Finding:
    if answer.alias is not None and record.key == "spf":
        return _aliased(record, answer)
    found = [value for value in answer.values if spf.is_spf(value)]
    if not found:
        odd = [value for value in answer.values if "v=spf1" in value.lower()]
        if odd:
            return _mangled(record, odd) or _mismatch(
                record, odd, 'It has to begin with "v=spf1 ".'
            )
        return _missing(_doubled(record, site, known))
    hosts = [_sender(name, known) for name in site.hosts.sending]
    if len(found) > 1:
        return _several_spf(found, hosts, known)
    return _lets_in(found[0], hosts, site, known)


def _sender(name: str, known: Known) -> spf.Host:
    """A sending host with the addresses that DNS has of it; by name alone where nobody answers."""
    known.require(Question(name, "A"), Question(name, "AAAA"))
    try:
        addresses = (*known.one(name, "A").values, *known.one(name, "AAAA").values)
    except Unanswered:
        addresses = ()
    return spf.Host(name, addresses)


def _several_spf(found: Sequence[str], hosts: Sequence[spf.Host], known: Known) -> Finding:
    return Finding(
        status="INVALID",
        kind="duplicate_records",
        reason=f"There are {len(found)} SPF records, so receivers use none of them (permerror)."
        f" {_instead(found, hosts, known)}",
        found=_shown(found),
    )


def _lets_in(found: str, hosts: Sequence[spf.Host], site: Site, known: Known) -> Finding:
    try:
        if all(spf.lets_in(found, site.name, host, known) for host in hosts):
            return VALID
        why = f"It does not let our hosts send. {_others(found)}".strip()
    except spf.Broken as broken:
        why = str(broken)
    instead = _instead([found], hosts, known)
    return Finding(
        status="INVALID",
        kind="value_mismatch",
        reason=f'Found "{_cut(found)}". {why} {instead}',
        found=_shown([found]),
    )


def _instead(found: Sequence[str], hosts: Sequence[spf.Host], known: Known) -> str:
    """What to publish in the place of these records."""
    if sum(map(len, found)) > spf.LONGEST:
        return f"Publish one record with {' '.join(f'a:{host.name}' for host in hosts)} in it."
    return f"Publish in {'its' if len(found) == 1 else 'their'} place: {spf.merged(found, hosts, known)}"


def _others(found: str) -> str:
    """Who else is let in, where that is known."""
    names = [word.partition(":")[2] for word in found.lower().split() if "include:" in word]
    providers = dict.fromkeys(name for each in names if (name := provider_of(each)))
    return f"It lets {', '.join(providers)} send, which it may go on doing." if providers else ""


# --- DKIM


def _judge_dkim(record: Record, answer: Answer, site: Site, known: Known) -> Finding:
    values = _own(answer)
    if len(values) > 1:
        return _several(record, values)
    if not values:
        if answer.alias is not None:
            return _missing(
                f"{record.name} is an alias of {answer.alias}, which has no such record."
            )
        return _missing(_doubled(record, site, known))
    found, wanted = _tags(values[0]), _tags(record.value)
    if _is_key(found, wanted):
        return VALID
    return _mangled(record, values) or _mismatch(record, values, _key_trouble(found, wanted))


def _tags(value: str) -> dict[str, str]:
    """The tags of DKIM and DMARC records (RFC 6376 section 3.2). White space means nothing within a key."""
    parts = (part.partition("=") for part in value.split(";"))
    return {name.strip().lower(): text.strip() for name, equals, text in parts if equals}


def _is_key(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return (
        found.get("v", "DKIM1") == "DKIM1"
        and found.get("k", "rsa").lower() == wanted["k"]
        and _bare(found.get("p", "")) == wanted["p"]
        and "sha256" in found.get("h", "sha256").replace(" ", "").lower().split(":")
        and bool({"*", "email"} & set(found.get("s", "*").replace(" ", "").lower().split(":")))
    )


def _bare(key: str) -> str:
    return re.sub(r"\s+", "", key)


def _key_trouble(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    key = _bare(found.get("p", ""))
    if "p" in found and not key:
        return "It has no key, which says that the key is revoked."
    if key and key != wanted["p"] and wanted["p"].startswith(key):
        return (
            f"It was cut off after {len(key)} characters of the key: publish it in strings of at most 255"
            " characters, as in the zone file."
        )
    if key == wanted["p"]:
        return "The key is right, but not what stands beside it."
    if "p" not in found:
        return "It is no DKIM record."
    return "It is another key."


# --- DMARC


def _judge_dmarc(record: Record, answer: Answer, site: Site, known: Known) -> Finding:
    found = [value for value in answer.values if _is_dmarc(value)]
    if len(found) > 1:
        return _several(record, found)
    if found:
        return _valid_policy(record, found[0])
    odd = [value for value in answer.values if "dmarc1" in value.lower()]
    if odd:
        return _mangled(record, odd) or _mismatch(record, odd, 'It has to begin with "v=DMARC1;".')
    return _inherited(record, site, known)


def _is_dmarc(value: str) -> bool:
    return re.match(r"v\s*=\s*DMARC1\s*(;|$)", value) is not None


def _valid_policy(record: Record, found: str) -> Finding:
    policy = _tags(found).get("p", "").lower()
    if policy in _POLICIES:
        return msgspec.structs.replace(VALID, found=_shown([found]))
    return _mismatch(record, [found], "Its p= has to be none, quarantine or reject.")


def _inherited(record: Record, site: Site, known: Known) -> Finding:
    """A domain below one that has a policy shares it (RFC 9989)."""
    labels = site.name.split(".")
    for start in range(1, len(labels) - 1):
        above = ".".join(labels[start:])
        found = [each for each in known.one(f"_dmarc.{above}", "TXT").values if _is_dmarc(each)]
        if len(found) == 1 and _tags(found[0]).get("psd", "n").lower() != "y":
            return _valid_policy(record, found[0])
    return _absent(record, site, known)


# --- everything else


def _judge_policy(record: Record, answer: Answer) -> Finding:
    """A policy that is its owner's own: only that it is one, and alone."""
    version = record.value.partition(";")[0]
    found = [value for value in answer.values if value.replace(" ", "").startswith(version)]
    if not found:
        return _missing("")
    return VALID if len(found) == 1 else _mismatch(record, found, "There must be only one.")


def _judge_exactly(record: Record, answer: Answer) -> Finding:
    """One value and no other; that of a CNAME is where its name leads."""
    found = [answer.alias] if record.type == "CNAME" and answer.alias else list(answer.values)
    if not found:
        return _missing("")
    fitting = [value for value in found if _same_service(value, record)]
    return VALID if fitting else _mismatch(record, found)


def _same_service(value: str, record: Record) -> bool:
    """Priority and weight of a service are its owner's business."""
    if record.type != "SRV":
        return value.lower() == record.value.lower()
    return value.lower().split()[2:] == record.value.lower().split()[2:]


# --- what findings are made of


def _missing(reason: str) -> Finding:
    return Finding(status="MISSING", reason=f"There is no such record. {reason}".strip())


def _mismatch(record: Record, found: Sequence[str], why: str = "") -> Finding:
    shown = ", ".join(f'"{each}"' for each in _shown(found))
    expected = record.value if record.priority is None else f"{record.priority} {record.value}"
    return Finding(
        status="INVALID",
        kind="value_mismatch",
        reason=" ".join(filter(None, (f"Found {shown}.", why, f'Expected "{expected}".'))),
        found=_shown(found),
    )


def _aliased(record: Record, answer: Answer) -> Finding:
    return Finding(
        status="INVALID",
        kind="value_mismatch",
        reason=f"{record.name} is an alias (CNAME) of {answer.alias}, so there is no room for a {record.type}"
        " record beside it. Remove the CNAME record there, or have your provider flatten it.",
        found=(answer.alias or "",),
    )


def _several(record: Record, found: Sequence[str]) -> Finding:
    return Finding(
        status="INVALID",
        kind="duplicate_records",
        reason=f"There are {len(found)} such records at {record.name}, so receivers use none of them, or any."
        f' Keep one: "{record.value}".',
        found=_shown(found),
    )


def _own(answer: Answer) -> tuple[str, ...]:
    """TXT values but for SPF, which is at every name where a wildcard has it."""
    return tuple(value for value in answer.values if not spf.is_spf(value))


def _mangled(record: Record, values: Sequence[str]) -> Finding | None:
    """A value with marks in it that belong to how zone files are written, never to what is wanted here."""
    for value in values:
        marks = "backslashes" if "\\" in value else "quotes" if '"' in value else None
        if marks:
            return _mismatch(
                record, [value], f"The {marks} are part of the value: enter it without them."
            )
    return None


def _doubled(record: Record, site: Site, known: Known) -> str:
    """Whether the record stands where a web form puts it that appends the domain to every name."""
    try:
        found = known.one(f"{record.name}.{site.name}", record.type).values
    except Unanswered:
        return ""
    if not any(_is_like(value, record) for value in found):
        return ""
    short = "@" if record.name == site.name else record.name.removesuffix(f".{site.name}")
    return (
        f"There is one at {record.name}.{site.name}: your provider appends the domain by itself, so enter the"
        f' name as "{short}".'
    )


def _is_like(value: str, record: Record) -> bool:
    """Whether a value is the wanted one, or one of its kind."""
    if record.type == "MX":
        return value.lower().endswith(f" {record.value}")
    version = TOKEN if record.key == "token" else re.split("[; ]", record.value)[0]
    return value.lower().startswith(version.lower())


def _printable(finding: Finding) -> Finding:
    """The same without what strangers may have put into DNS to be shown: it ends up in replies of SMTP."""
    return msgspec.structs.replace(
        finding,
        reason=None if finding.reason is None else _plain(finding.reason),
        found=tuple(_plain(value) for value in finding.found),
    )


def _plain(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)


def _shown(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(_cut(value) for value in values[:MOST_SHOWN])


def _some(names: Iterable[str]) -> str:
    """Each name once, and of more than a few only how many."""
    every = list(dict.fromkeys(names))
    more = len(every) - MOST_SHOWN
    return ", ".join(every[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _cut(value: str) -> str:
    return value if len(value) <= SHOWN else value[:SHOWN] + "..."
