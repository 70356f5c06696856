"""Allow and block lists: whom an inbox may write to, hear from and get answers from.

Owns the table `list_entry`. An entry is an address or a bare domain, lower case with an IDNA domain, in the
`allow` or the `block` list of one direction (`send`, `receive`, `reply`) of an organisation, a pod or an
inbox. A domain means exactly that domain, none below it. Entries with an `origin` are suppressions, made
by `suppress` after a bounce or a complaint: callers see them as `read_only` and cannot delete them; the
operator can (`lift`). A recipient `name+tag@…` of one of our own inboxes falls under the entries of
`name@…` too, as our mail server takes it for that; elsewhere, and of a sender, a tag may be anybody.
`verdict` is the whole rule, and pure (docs/adr/lists.md says why it is this one); `verdicts` looks up what it
needs in one statement. Which direction a mail belongs to, and what follows, `policy` decides. Changing a
list never touches mail that was judged before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Literal
from uuid import UUID

import msgspec

from agentmail_cp import addresses, pages
from agentmail_cp.access import Reach
from agentmail_cp.db import Tx, fetch_all, fetch_one
from agentmail_cp.errors import Forbidden, Invalid, LimitExceeded, NotFound

Direction = Literal["send", "receive", "reply"]
ListType = Literal["allow", "block"]
EntryType = Literal["email", "domain"]
Origin = Literal["bounce", "complaint", "reject"]

LONGEST_REASON = 512
"""Characters in the reason of an entry."""


class Verdict(StrEnum):
    """What the lists say of an address; the value is how a refusal puts it."""

    ALLOWED = "allowed"
    BLOCKED = "in block list"
    NOT_ALLOWED = "not in allow list"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a list. `pod_id` and `inbox_id` say whose list it is; without either it is the
    organisation's. An inbox's entry has both.
    """

    organization_id: UUID
    pod_id: UUID | None
    inbox_id: UUID | None
    direction: Direction
    list_type: ListType
    entry: str
    entry_type: EntryType
    reason: str | None
    origin: Origin | None
    created_at: datetime

    @property
    def read_only(self) -> bool:
        return self.origin is not None


class NamedList(msgspec.Struct, frozen=True):
    """Which list: whose, for which direction, of which type."""

    whose: Reach
    direction: Direction
    type: ListType

    @property
    def scope_id(self) -> UUID:
        return self.whose.inbox_id or self.whose.pod_id or self.whose.organization_id

    @property
    def key(self) -> dict[str, object]:
        return {
            "organization_id": self.whose.organization_id,
            "scope_id": self.scope_id,
            "direction": self.direction,
            "list_type": self.type,
        }


class Match(msgspec.Struct, frozen=True):
    """An entry that an address falls under. `distance` counts from the inbox (0) over its pod (1) to the
    organisation (2).
    """

    distance: int
    type: ListType
    suppressed: bool = False


def verdict(matches: Collection[Match], *, exclusive: bool) -> Verdict:
    """The rule. A suppression holds whatever else is said. Otherwise the narrowest scope with a match
    decides, and there block beats allow. Without any match an address is allowed, unless the lists are
    `exclusive`: somewhere from the inbox to the organisation an allow list has entries. Pure.
    """
    if any(match.suppressed for match in matches):
        return Verdict.BLOCKED
    if not matches:
        return Verdict.NOT_ALLOWED if exclusive else Verdict.ALLOWED
    nearest = min(match.distance for match in matches)
    blocked = any(match.type == "block" for match in matches if match.distance == nearest)
    return Verdict.BLOCKED if blocked else Verdict.ALLOWED


def refusal(verdicts: Mapping[str, Verdict]) -> str | None:
    """What the caller of a send is told of those that are not allowed, in the contract's words; None
    when all are.
    """
    refused = [f"{to} ({said})" for to, said in verdicts.items() if said is not Verdict.ALLOWED]
    return f"Message rejected: Recipient(s) blocked: {', '.join(refused)}" if refused else None


def parse_entry(text: str) -> tuple[str, EntryType]:
    """An entry in its one spelling, and what it is. Raises `Invalid`: INVALID_EMAIL, INVALID_DOMAIN,
    ADDRESS_TOO_LONG, HEADER_INJECTION.
    """
    tidy = addresses.one_line(text, "entry").strip()
    if "@" not in tidy:
        return addresses.check_domain(tidy, "entry"), "domain"
    address = addresses.bare(tidy, "entry").lower()
    local, _, domain = address.rpartition("@")
    # It may stand in an address, but whoever writes it means a pattern, and that would match nobody.
    if "*" in local:
        raise Invalid(
            "entry",
            "An address in a list has no wildcards.",
            fix=f"For all addresses of a domain, write the bare domain, {domain}.",
            detail="INVALID_EMAIL",
        )
    return address, "email"


def spellings(address: str | None) -> tuple[str, ...]:
    """The entries an address falls under: itself and its domain. Hostile and broken ones included: what
    cannot be read as an address has a domain at best.
    """
    local, _, host = addresses.tame(address or "").lower().rpartition("@")
    try:
        domain = addresses.check_domain(host.removesuffix("."), "entry")
    except Invalid:
        return ()
    whole = f"{local}@{domain}"
    return (whole, domain) if local and len(whole) <= addresses.MAX_ADDRESS else (domain,)


def untagged(address: str | None) -> str | None:
    """Whose inbox `name+tag@…` is, if it is one's: `name@…`; None for an address without a tag."""
    name, at, domain = next(iter(spellings(address)), "").rpartition("@")
    local, tag, _ = name.partition("+")
    return f"{local}{at}{domain}" if local and tag else None


async def verdicts(
    tx: Tx, whose: Reach, direction: Direction, asked: Iterable[str]
) -> Mapping[str, Verdict]:
    """What the lists of an inbox, its pod and its organisation say of these addresses, in their order.
    `whose` is the inbox's reach. One statement.
    """
    every = list(dict.fromkeys(asked))
    judged = await judge(tx, whose, [(direction, each) for each in every])
    return {each: judged[direction, each] for each in every}


Question = tuple[Direction, str | None]
"""For which direction is asked about which address; None is a sender who cannot be told."""

NO_QUESTION: Mapping[Question, Verdict] = MappingProxyType({})


class _Found(msgspec.Struct, frozen=True):
    direction: Direction
    entry: str
    scope_id: UUID
    list_type: ListType
    suppressed: bool
    of_inbox: bool


async def judge(
    tx: Tx, whose: Reach, questions: Collection[Question]
) -> Mapping[Question, Verdict]:
    """As `verdicts`, for several directions at once."""
    if not questions:
        return NO_QUESTION
    scopes = [each for each in (whose.inbox_id, whose.pod_id, whose.organization_id) if each]
    entries = {each for _, address in questions for each in spellings(address)}
    bare = {each for question in questions if (each := _inbox_behind(question))}
    found = await fetch_all(
        tx,
        _Found,
        FIND,
        {
            "organization_id": whose.organization_id,
            "scopes": scopes,
            "directions": sorted({direction for direction, _ in questions}),
            "entries": sorted(entries | bare),
            "untagged": sorted(bare),
        },
    )
    exclusive = {each.direction for each in found if not each.entry}
    inboxes = {each.entry for each in found if each.of_inbox}
    matches: defaultdict[Question, list[Match]] = defaultdict(list)
    for each in found:
        match = Match(scopes.index(each.scope_id), each.list_type, each.suppressed)
        matches[each.direction, each.entry].append(match)
    return {
        (direction, address): verdict(
            [
                match
                for entry in _entries((direction, address), inboxes)
                for match in matches[direction, entry]
            ],
            exclusive=direction in exclusive,
        )
        for direction, address in questions
    }


def _entries(question: Question, inboxes: Collection[str]) -> Iterator[str]:
    """The entries a question is about, given which of those behind tags are inboxes."""
    yield from spellings(question[1])
    behind = _inbox_behind(question)
    if behind is not None and behind in inboxes:
        yield behind


def _inbox_behind(question: Question) -> str | None:
    direction, address = question
    return untagged(address) if direction == "send" else None


FIND = """
select direction, entry, scope_id, list_type, origin is not null as suppressed,
    entry = any(%(untagged)s) and exists (
        select from inbox where address = entry and inbox.state = 'active'
    ) as of_inbox
from list_entry
where organization_id = %(organization_id)s and scope_id = any(%(scopes)s)
    and direction = any(%(directions)s) and list_type in ('allow', 'block')
    and entry = any(%(entries)s)
union all
select asked.direction, '', scope.id, 'allow', false, false
from unnest(%(directions)s::text[]) as asked (direction), unnest(%(scopes)s::uuid[]) as scope (id),
    lateral (
        select from list_entry
        where organization_id = %(organization_id)s and scope_id = scope.id
            and direction = asked.direction and list_type = 'allow'
        order by entry limit 1
    ) as allowing
"""
"""The entries in question, and of those that are about a tag whether they are an inbox's, anybody's; with an
empty entry, which allow lists have any. The order makes that a probe of the index; without it PostgreSQL
reads the table for a row that is not there.
"""

_COLUMNS = (
    "organization_id, pod_id, inbox_id, direction, list_type, entry, entry_type, reason, origin,"
    " created_at"
)

_WHERE = (
    "organization_id = %(organization_id)s and scope_id = %(scope_id)s"
    " and direction = %(direction)s and list_type = %(list_type)s"
)
_SUPPRESSED = (
    "organization_id = %(organization_id)s and scope_id = %(organization_id)s"
    " and direction = 'send' and list_type = 'block' and origin is not null"
)


async def create(
    tx: Tx, named: NamedList, entry: str, reason: str | None, *, most: int
) -> tuple[Entry, bool]:
    """Put an entry into a list; what is there already stays as it is. Returns the entry, and whether it
    is new. Raises `Invalid`, and `LimitExceeded` where the organisation has `most` entries (0: no limit).
    """
    spelt, kind = parse_entry(entry)
    _check_reason(reason)
    found = await _find(tx, named, spelt)
    if found is not None:
        return found, False
    await _ensure_room(tx, named.whose.organization_id, most)
    made = await fetch_one(
        tx,
        Entry,
        "insert into list_entry (organization_id, scope_id, pod_id, inbox_id, direction, list_type,"
        " entry, entry_type, reason) values (%(organization_id)s, %(scope_id)s, %(pod_id)s,"
        " %(inbox_id)s, %(direction)s, %(list_type)s, %(entry)s, %(entry_type)s, %(reason)s)"
        f" on conflict do nothing returning {_COLUMNS}",
        {
            **named.key,
            "pod_id": named.whose.pod_id,
            "inbox_id": named.whose.inbox_id,
            "entry": spelt,
            "entry_type": kind,
            "reason": reason or None,
        },
    )
    return (made, True) if made else (await get(tx, named, spelt), False)


def _check_reason(reason: str | None) -> None:
    if reason is None or (len(reason) <= LONGEST_REASON and reason.isprintable()):
        return
    raise Invalid(
        "reason",
        "This reason does not fit.",
        fix=f"Use at most {LONGEST_REASON} printable characters on one line.",
    )


async def _ensure_room(tx: Tx, organization_id: UUID, most: int) -> None:
    """One at a time, so that many at once do not all see the last place free."""
    if not most:
        return
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended('list_entry/' || %(id)s, 0))",
        {"id": str(organization_id)},
    )
    row = await (
        await tx.execute(
            "select count(*) as entries from list_entry"
            " where organization_id = %(organization_id)s and origin is null",
            {"organization_id": organization_id},
        )
    ).fetchone()
    if row is not None and row["entries"] >= most:
        raise LimitExceeded(
            f"The lists of this organization have as many entries as they may have: {most}.",
            fix="Delete entries, or list a whole domain instead of its addresses.",
        )


async def suppress(
    tx: Tx, organization_id: UUID, address: str, *, origin: Origin, reason: str | None = None
) -> None:
    """Never send to an address again, in the whole organisation: a mailbox that is gone, or somebody who
    complained. The first origin stays; a caller's own entry for the address becomes read-only.
    """
    spelt = next(iter(spellings(address)), None)
    if spelt is None or "@" not in spelt:
        return
    await tx.execute(
        "insert into list_entry (organization_id, scope_id, direction, list_type, entry, entry_type,"
        " reason, origin) values (%(organization_id)s, %(organization_id)s, 'send', 'block',"
        " %(entry)s, 'email', %(reason)s, %(origin)s)"
        " on conflict (organization_id, scope_id, direction, list_type, entry) do update"
        " set origin = excluded.origin, reason = coalesce(excluded.reason, list_entry.reason)"
        " where list_entry.origin is null",
        {
            "organization_id": organization_id,
            "entry": spelt,
            "origin": origin,
            "reason": addresses.tame(reason)[:LONGEST_REASON] if reason else None,
        },
    )


async def list_suppressed(
    tx: Tx, organization_id: UUID, *, after: str = "", limit: int
) -> list[Entry]:
    """The suppressions of an organisation by address, those behind `after`."""
    return await fetch_all(
        tx,
        Entry,
        f"select {_COLUMNS} from list_entry where {_SUPPRESSED} and entry > %(after)s"
        " order by entry limit %(limit)s",
        {"organization_id": organization_id, "after": after, "limit": limit},
    )


async def lift(tx: Tx, organization_id: UUID, address: str) -> None:
    """Let an address be written to again. `NotFound` when it is not suppressed."""
    lifted = await tx.execute(
        f"delete from list_entry where {_SUPPRESSED} and entry = %(entry)s",
        {"organization_id": organization_id, "entry": _as_stored(address)},
    )
    if not lifted.rowcount:
        raise NotFound(f"{address} is not suppressed.", fix="List the suppressions to see who is.")


async def list_page(
    tx: Tx, named: NamedList, *, limit: int, page_token: str | None
) -> tuple[list[Entry], str | None]:
    """One page of a list by entry, and the token of the next page."""
    scope = f"lists/{named.scope_id}/{named.direction}/{named.type}"
    after = pages.decode(scope, page_token, tuple[pages.Text])[0] if page_token else ""
    rows = await fetch_all(
        tx,
        Entry,
        f"select {_COLUMNS} from list_entry where {_WHERE} and entry > %(after)s"
        " order by entry limit %(limit)s",
        {**named.key, "after": after, "limit": limit + 1},
    )
    return pages.cut(scope, rows, limit, lambda last: (last.entry,))


async def get(tx: Tx, named: NamedList, entry: str) -> Entry:
    """The entry of a list that is spelt like this, in any case and as Unicode or IDNA; `NotFound`
    otherwise.
    """
    found = await _find(tx, named, _as_stored(entry))
    if found is None:
        raise _missing()
    return found


async def delete(tx: Tx, named: NamedList, entry: str) -> None:
    """Take an entry off a list. `NotFound` without one, `Forbidden` for one that is read-only."""
    gone = await tx.execute(
        f"delete from list_entry where {_WHERE} and entry = %(entry)s and origin is null",
        {**named.key, "entry": _as_stored(entry)},
    )
    if gone.rowcount:
        return
    found = await get(tx, named, entry)
    raise Forbidden(
        f"{found.entry} was put on this list by the server after a {found.origin}.",
        fix="Write to another address.",
    )


async def erase(tx: Tx, whose: Reach) -> None:
    """Forget the lists of a pod or inbox that is deleted, those of the organisation never."""
    await tx.execute(
        "delete from list_entry where organization_id = %(organization_id)s"
        " and scope_id = %(scope_id)s and scope_id <> organization_id",
        {
            "organization_id": whose.organization_id,
            "scope_id": whose.inbox_id or whose.pod_id,
        },
    )


def _as_stored(entry: str) -> str:
    """How an entry that a caller names would be stored; never raises, as what is none is not there."""
    found = spellings(entry)
    return found[0] if found else entry.strip().lower()


async def _find(tx: Tx, named: NamedList, entry: str) -> Entry | None:
    return await fetch_one(
        tx,
        Entry,
        f"select {_COLUMNS} from list_entry where {_WHERE} and entry = %(entry)s",
        {**named.key, "entry": entry},
    )


def _missing() -> NotFound:
    return NotFound(
        "There is no such entry in this list.", fix="List the entries to see what there is."
    )
