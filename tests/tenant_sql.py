"""Which tables of a statement are not held to one organisation, and every statement of the package.

A table is held when the conditions that every row has to meet (`where`, and `on` or `using` of an inner
join; nothing below `or` or `not`) make its `organization_id` equal to a parameter, to a row of an
enclosing query, or to a table that is held. A new row must name the column, and what `on conflict` may
change must be held as well. Whatever this reading of SQL does not understand counts as not held.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Collection, Iterator
from functools import cache, partial
from operator import attrgetter
from pathlib import Path

import msgspec
import sqlglot
from sqlglot import exp

TENANT = "organization_id"
STATEMENT = re.compile(r"\s*(select|insert into|update|delete from|with)\s+\w")
PACKAGE = Path(__file__).parents[1] / "agentmail_cp"

TENANTLESS = {"migration": "belongs to the database"}
"""Tables without the column, and why."""

FOR_EVERY_TENANT = {
    "access/organizations.list_organizations": "the operator's command line lists them all",
    "access/keyring.find_by_hash": "the key says which organisation is calling",
    "access/keyring.find_each": "the same, for all who are connected",
    "idempotency.forget_old": "removes old rows of all tenants",
    "credentials/app_passwords._ABANDONED": "settling is the operator's work, over all tenants",
    "credentials/app_passwords.forget_old": "removes old rows of all tenants",
    "credentials/logins._CLAIM": "one worker brings the passwords of all tenants to the mail server",
    "credentials/logins._CHOSEN": "reads what a claim over all tenants is about",
    "credentials/logins._POSTPONE": "gives back what a claim over all tenants took",
    "credentials/logins._SETTLE": "takes note of a claim over all tenants",
    "credentials/mail_passwords._DEAD": "one worker looks after the keys of all tenants",
    "lists.FIND": "our mail server knows the tags of every inbox, whoever has it",
    "limits.forget_old": "removes old rows of all tenants",
    "domains/claiming._HOLD_ABOVE": "a name another organisation has is nobody else's",
    "domains/claiming._PROVE": "a name another organisation has is nobody else's",
    "domains/releasing._HOLDER": "the operator takes a name from whoever has it",
    "domains/settlement._claim_unsettled": "settling is the operator's work, over all tenants",
    "domains/use._NEARER_PROVED": "a name another organisation has is nobody else's",
    "domains/subdomains._GIVE_WAY": "a name another organisation has is nobody else's",
    "domains/subdomains._LEFTOVERS": "what others left on a name is put away for who has it now",
    "domains/subdomains._NAMES": "a name another organisation has is nobody else's",
    "domains/subdomains._NEARER": "a name another organisation has is nobody else's",
    "events/publishing._PUBLISH": "one worker publishes the events of all tenants",
    "events/retention._EXPIRE": "retention is the operator's setting",
    "events/publishing.unpublished": "one worker publishes the events of all tenants",
    "events/publishing.published_since": "one reader hands each tenant's events to its own subscribers",
    "events/publishing.newest_position": "one reader hands each tenant's events to its own subscribers",
    "events/publishing.oldest_unpublished": "a metric of the whole service",
    "inboxes/changing._claim": "settling is the operator's work, over all tenants",
    "inboxes/settlement._claim_unsettled": "settling is the operator's work, over all tenants",
    "inboxes/deletion.erase_retained": "retention is the operator's setting",
    "intake/doorbell.ring": "Stalwart names accounts, which are unique in all",
    "intake/claims._RENEW": "keeps a claim over all tenants",
    "intake/reading.measure": "a metric of the whole service",
    "intake/reading._CLAIM_DUE": "one worker reads inboxes of all tenants",
    "intake/reading._CLAIM_STALE": "one worker reads inboxes of all tenants",
    "intake/reading._confirm": "takes note of a claim over all tenants",
    "intake/reading._release": "gives back what a claim over all tenants took",
    "domains/schedule._CLAIM": "one worker checks domains of all tenants",
    "domains/schedule._DUE": "one worker checks domains of all tenants",
    "domains/schedule._TURNS": "one worker checks domains of all tenants",
    "domains/surveying._COUNT": "the operator's doctor looks at the domains of all tenants",
    "domains/surveying._LIST": "the operator's command line lists them all",
    "domains/surveying._WORST": "the operator's doctor looks at the domains of all tenants",
    "drafts/schedule.claim_due": "one worker sends due drafts of all tenants",
    "drafts/settlement.claim": "settling is the operator's work, over all tenants",
    "sending/settlement.claim": "settling is the operator's work, over all tenants",
    "sending/record.is_under_way": "Stalwart names the sender, whose inbox has one id in all",
    "sending/record.forget_old": "removes old rows of all tenants",
    "outcomes/record.forget_old": "removes old rows of all tenants",
    "outcomes/record.queued": "Stalwart names senders, whose addresses are unique in all",
    "outcomes/record.note": "Stalwart names senders, whose addresses are unique in all",
    "outcomes/settlement._DUE": "one worker tells what became of mail of all tenants",
    "outcomes/settlement.next_due": "one worker tells what became of mail of all tenants",
    "outcomes/settlement._wait": "takes note of what it took over all tenants",
    "outcomes/settlement._forget": "takes note of what it took over all tenants",
    "outcomes/watching._ARRIVED": "mail among inboxes here may arrive at another tenant's; only that it did",
    "outcomes/watching._OWNER": "a complaint names the sender, whose address is unique in all",
    "recipients._CLAIM": "one worker asks about mail of all tenants",
    "submissions/record._CLAIM": "one worker files mail of all tenants",
    "submissions/record.forget_old": "removes old rows of all tenants",
    "throttle.forget_old": "removes old rows of all tenants",
    "webhooks/publishing.count_enabled": "one worker publishes the events of all tenants",
    "webhooks/publishing.FAN_OUT": "publishes the events of all tenants, each to endpoints of its own",
    "webhooks/claims._CLAIM": "one worker delivers to endpoints of all tenants",
    "webhooks/claims._JUDGE": "takes note of a claim over all tenants",
    "webhooks/claims._RECORD": "takes note of a claim over all tenants",
    "webhooks/claims.events_of": "reads what a claim over all tenants is about",
    "webhooks/claims.forget_old": "removes old rows of all tenants",
    "webhooks/claims.give_up": "ends deliveries of all tenants",
    "webhooks/claims.hold": "gives back what a claim over all tenants took",
    "webhooks/claims.put_off": "gives back what a claim over all tenants took",
    "webhooks/claims.measure": "a metric of the whole service",
    "submissions/taking._OWNER": "the login of a mail client says whose inbox it is",
}
"""Statements that may touch rows of any organisation, by module and function or constant, and why."""

_Statement = exp.Select | exp.Update | exp.Delete | exp.Insert
_PARAMETER = (exp.Placeholder, exp.Parameter)
_KEEPS_ALL = {"LEFT", "RIGHT", "FULL"}
"""Joins whose condition leaves rows of the other side in."""


class Statement(msgspec.Struct, frozen=True):
    """A piece of SQL and where it stands: module and enclosing function or constant."""

    module: str
    place: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.module}.{self.place}"


@cache
def statements() -> tuple[Statement, ...]:
    """Everything in the package that reads like SQL, with the constants it is put together from.

    What a statement gets only at run time is left out; `tests/fix_tenant_sql.py` looks at those.
    """
    return tuple(
        Statement(module, place, text)
        for path in sorted(PACKAGE.rglob("*.py"))
        if not (module := path.relative_to(PACKAGE).with_suffix("").as_posix()).startswith(
            ("dev/", "web/")
        )
        for place, text in strings(
            ast.parse(path.read_text(encoding="utf-8")), partial(_joined_text, module=module)
        )
        if STATEMENT.match(text)
    )


@cache
def tenant_tables() -> frozenset[str]:
    """Every table that has the column, as the migrations make them."""
    return frozenset(name for name, columns in _created().items() if TENANT in columns)


@cache
def all_tables() -> frozenset[str]:
    """Every table the migrations make, and `migration` itself; procrastinate's are its own business."""
    return frozenset(_created()) | {"migration"}


def _created() -> dict[str, str]:
    return {
        name: columns
        for path in sorted((PACKAGE / "migrations").glob("*.sql"))
        if not path.name.endswith("_procrastinate.sql")
        for name, columns in re.findall(
            r"^create (?:unlogged )?table (\w+) \((.*?)^\)",
            path.read_text(encoding="utf-8"),
            re.MULTILINE | re.DOTALL,
        )
    }


def strings(
    node: ast.AST, joined: Callable[[ast.JoinedStr], str], place: str = ""
) -> Iterator[tuple[str, str]]:
    """Every string with the name of the function, class or constant it stands in; `joined` says how an
    f-string is read.
    """
    match node:
        case ast.Constant(value=str(text)):
            yield place, text
            return
        case ast.JoinedStr():
            yield place, joined(node)
            return
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            place = f"{place}.{name}".lstrip(".")
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            place = place or name
        case _:
            pass
    for child in ast.iter_child_nodes(node):
        yield from strings(child, joined, place)


def _joined_text(node: ast.JoinedStr, module: str) -> str:
    """An f-string with the module's constants in it."""
    return "".join(
        str(each.value) if isinstance(each, ast.Constant) else _value(each, module)
        for each in node.values
    )


def _value(node: ast.expr, module: str) -> str:
    if not isinstance(node, ast.FormattedValue):
        return ""
    try:
        home = importlib.import_module(f"agentmail_cp.{module.replace('/', '.')}")
        return str(attrgetter(ast.unparse(node.value))(home))
    except AttributeError:
        return ""


def unheld(statement: str, tenant_tables: Collection[str]) -> list[str]:
    """The tenant tables, by the name they have in the statement, that are not held to one organisation.

    Raises `sqlglot.ParseError` for what is no SQL.
    """
    whole = sqlglot.parse_one(statement, dialect="postgres")
    return [
        name
        for part in whole.find_all(exp.Select, exp.Update, exp.Delete, exp.Insert)
        for name in _unheld_in(part, tenant_tables)
    ]


def tables(statement: str) -> set[str]:
    """The names of all tables, views and common table expressions a statement reads or writes."""
    whole = sqlglot.parse_one(statement, dialect="postgres")
    return {each.name for each in whole.find_all(exp.Table)}


def _unheld_in(part: _Statement, tenant_tables: Collection[str]) -> list[str]:
    if isinstance(part, exp.Insert):
        return _unheld_rows(part, tenant_tables)
    sources = list(_sources(part))
    tenants = {
        each.alias_or_name
        for each in sources
        if isinstance(each, exp.Table) and each.name in tenant_tables and not _is_derived(each)
    }
    held = _held(part, [each.alias_or_name for each in sources], tenants)
    return sorted(tenants - held)


def _unheld_rows(insert: exp.Insert, tenant_tables: Collection[str]) -> list[str]:
    """The table of an `insert` whose new rows or changed rows may be anybody's."""
    table, named = insert.this, set[str]()
    if isinstance(table, exp.Schema):
        table, named = table.this, {each.name for each in _each(table, "expressions")}
    if table.name not in tenant_tables:
        return []
    conflict: exp.Expr | None = insert.args.get("conflict")
    if TENANT in named and (conflict is None or _conflict_is_held(conflict, table.name)):
        return []
    return [table.name]


def _conflict_is_held(conflict: exp.Expr, table: str) -> bool:
    """Whether `on conflict` changes nothing, or only a row of the organisation of the new one."""
    if not conflict.expressions:
        return True
    keys = {
        column.name
        for key in _each(conflict, "conflict_keys")
        for column in key.find_all(exp.Column)
    }
    where: exp.Expr | None = conflict.args.get("where")
    return TENANT in keys or any(
        isinstance(each, exp.EQ)
        and table in {_tenant_of(each.this, [table]), _tenant_of(each.expression, [table])}
        for each in _conjuncts(where.this if where else None)
    )


def _each(node: exp.Expr, argument: str) -> list[exp.Expr]:
    return node.args.get(argument) or []


def _is_derived(table: exp.Table) -> bool:
    """Whether a name stands for a common table expression, which is looked at by itself."""
    around: exp.Expr | None = table
    while around is not None:
        ctes: exp.Expr | None = around.args.get("with_")
        if ctes is not None and table.name in {each.alias for each in _each(ctes, "expressions")}:
            return True
        around = around.parent
    return False


def _sources(part: exp.Expr) -> Iterator[exp.Expr]:
    """Everything a statement itself takes rows from."""
    for each in _own(part):
        if isinstance(each, exp.Table | exp.Unnest | exp.Lateral) or (
            isinstance(each, exp.Subquery) and isinstance(each.parent, exp.From | exp.Join)
        ):
            yield each


def _own(part: exp.Expr) -> Iterator[exp.Expr]:
    """The nodes of a statement without those of the queries inside it."""
    for each in part.iter_expressions():
        if isinstance(each, exp.With):
            continue
        yield each
        if not isinstance(each, exp.Query | exp.Lateral):
            yield from _own(each)


def _held(part: exp.Expr, sources: list[str], tenants: set[str]) -> set[str]:
    """The sources that are held, found by following equalities until nothing is added."""
    held = set(sources) - tenants
    pairs = list(_equalities(part, sources))
    while True:
        more = {one for one, other in pairs if other is None or other in held} - held
        if not more:
            return held
        held |= more


def _equalities(part: exp.Expr, sources: list[str]) -> Iterator[tuple[str, str | None]]:
    """Pairs of a source and what holds it: another source, or None for something from outside."""
    for node in _own(part):
        if isinstance(node, exp.Where):
            for each in _conjuncts(node.this):
                yield from _pairs(each, sources)
        elif isinstance(node, exp.Join):
            yield from _joined(node, sources)


def _joined(join: exp.Join, sources: list[str]) -> Iterator[tuple[str, str | None]]:
    name = join.this.alias_or_name
    keeps_all = join.side.upper() in _KEEPS_ALL
    found: list[tuple[str, str | None]] = []
    for each in _conjuncts(join.args.get("on")):
        found += _pairs(each, sources)
    if TENANT in {each.name for each in _each(join, "using")}:
        before = sources[: sources.index(name)]
        found += [(name, other) for other in before] + [(other, name) for other in before]
    for one, other in found:
        if not keeps_all or (one == name and join.side.upper() == "LEFT"):
            yield one, other


def _conjuncts(condition: exp.Expr | None) -> Iterator[exp.Expr]:
    match condition:
        case None:
            return
        case exp.And():
            yield from _conjuncts(condition.this)
            yield from _conjuncts(condition.expression)
        case exp.Paren():
            yield from _conjuncts(condition.this)
        case _:
            yield condition


def _pairs(condition: exp.Expr, sources: list[str]) -> Iterator[tuple[str, str | None]]:
    match condition:
        case exp.EQ(this=exp.Tuple() as left, expression=exp.Tuple() as right):
            for one, other in zip(left.expressions, right.expressions, strict=False):
                yield from _pair(one, other, sources)
        case exp.EQ():
            yield from _pair(condition.this, condition.expression, sources)
        case exp.In(this=exp.Tuple() as left) if condition.args.get("query") is not None:
            # The rows compared with come from a query that is looked at by itself.
            for one in left.expressions:
                name = _tenant_of(one, sources)
                if name in sources:
                    yield name, None
        case _:
            pass


def _pair(one: exp.Expr, other: exp.Expr, sources: list[str]) -> Iterator[tuple[str, str | None]]:
    for left, right in ((one, other), (other, one)):
        name = _tenant_of(left, sources)
        if name not in sources:
            continue
        if isinstance(_bare(right), _PARAMETER):
            yield name, None
            continue
        against = _tenant_of(right, sources)
        if against is not None:
            yield name, against if against in sources else None


def _bare(value: exp.Expr) -> exp.Expr:
    return value.this if isinstance(value, exp.Cast) else value


def _tenant_of(value: exp.Expr, sources: list[str]) -> str | None:
    """The source whose `organization_id` this is; None for anything else, or when it is not said."""
    if not isinstance(value, exp.Column) or value.name != TENANT:
        return None
    if value.table:
        return value.table
    return sources[0] if len(sources) == 1 else None
