"""The command line of an operator: `agentmail-cp …`.

Each command reads the settings from the environment, does one thing and says in plain sentences what went
wrong (exit status 1). Nothing is decided here.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, get_args
from uuid import UUID

import rich_click as click
import uvloop

from agentmail_cp import __version__, access, db, domains, inboxes, limits, lists, settings
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, MigrationChanged, Tx
from agentmail_cp.domains import dkim
from agentmail_cp.errors import AgentMailError
from agentmail_cp.mailserver import MailServerError
from agentmail_cp.settings import Settings, SettingsError
from agentmail_cp.stalwart.setup import SetupError, run_apply, run_status
from agentmail_cp.stalwart.wanted import OwnServer, standard_server

T = TypeVar("T")

EXPECTED = (SettingsError, SetupError, AgentMailError, MailServerError, MigrationChanged)
"""What is told in one sentence instead of a traceback."""


def run(action: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    """Load the settings and run an action; what is expected to fail ends in one sentence."""
    try:
        loaded = settings.load()
        return uvloop.run(action(loaded))
    except EXPECTED as error:
        fix = getattr(error, "fix", None)
        click.echo(f"{error} {fix or ''}".strip(), err=True)
        sys.exit(1)


@contextlib.asynccontextmanager
async def _database(loaded: Settings) -> AsyncGenerator[Database]:
    database = Database(loaded.database_url, size=2)
    await database.open()
    try:
        async with database.reading() as tx:
            missing = await db.pending(tx)
        if missing:
            raise db.not_migrated(missing)
        yield database
    finally:
        await database.close()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agentmail-cp")
def main() -> None:
    """Real email inboxes for AI agents, on a Stalwart mail server people own."""


@main.command()
@click.option("--worker/--no-worker", default=True, help="Also run the worker in this process.")
def serve(*, worker: bool) -> None:
    """Run the API."""
    from agentmail_cp import app  # noqa: PLC0415 - the other commands need no web framework

    async def action(loaded: Settings) -> None:
        app.configure_logging(loaded)
        await app.serve(loaded, worker=worker)

    run(action)


@main.command()
def worker() -> None:
    """Run the worker alone: intake, settling and jobs."""
    from agentmail_cp import app  # noqa: PLC0415 - the other commands need no web framework

    async def action(loaded: Settings) -> None:
        app.configure_logging(loaded)
        await app.work(loaded)

    run(action)


@main.command()
def migrate() -> None:
    """Bring the database to this release's schema."""

    async def action(loaded: Settings) -> None:
        applied = await db.migrate(loaded.database_url)
        click.echo("\n".join(f"applied {name}" for name in applied) or "Nothing to apply.")

    run(action)


@main.command()
def dev() -> None:
    """Run everything on this machine, as `make dev` does."""
    from agentmail_cp.dev.command import main as start  # noqa: PLC0415 - see serve

    sys.exit(start())


@main.group()
def org() -> None:
    """Organisations."""


@org.command("create")
@click.argument("name")
def org_create(name: str) -> None:
    """Make an organisation and print its id."""

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.transaction() as tx:
            click.echo(str((await access.create_organization(tx, name)).organization_id))

    run(action)


@org.command("list")
def org_list() -> None:
    """List organisations."""

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.transaction() as tx:
            for each in await access.list_organizations(tx):
                click.echo(f"{each.organization_id}  {each.name}")

    run(action)


@org.group("limits")
def org_limits() -> None:
    """What an organisation may do: its own limits, and the settings for the rest. 0 is no limit."""


_ORG = click.option("--org", "organization", type=click.UUID, help="Needed when there are several.")
_LIMIT = click.argument("name", metavar="NAME", type=click.Choice(limits.NAMES))


@org_limits.command("show")
@_ORG
def org_limits_show(organization: UUID | None) -> None:
    """Show every limit, and whether it is the organisation's own."""

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.reading() as tx:
            owner = await access.only_organization(tx, organization)
            own = {each.name for each in await limits.list_own(tx, owner)}
            holding = await limits.of(tx, loaded, owner)
        for name in limits.NAMES:
            source = "own" if name in own else "setting"
            click.echo(f"{name:<30}{getattr(holding, name):>12}  {source}")

    run(action)


@org_limits.command("set")
@_LIMIT
@click.argument("value", type=click.IntRange(min=0))
@_ORG
def org_limits_set(name: str, value: int, organization: UUID | None) -> None:
    """Give an organisation a limit of its own, by a name that `show` lists. It holds at once, in every
    process; for requests, from a key's next minute on.
    """

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.transaction() as tx:
            owner = await access.only_organization(tx, organization)
            await limits.set_limit(tx, owner, name, value)
        click.echo(f"{name} of {owner} is {value or 'unlimited'}.")

    run(action)


@org_limits.command("clear")
@_LIMIT
@_ORG
def org_limits_clear(name: str, organization: UUID | None) -> None:
    """Take an organisation's own limit away: the setting holds again."""

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.transaction() as tx:
            owner = await access.only_organization(tx, organization)
            await limits.clear_limit(tx, owner, name)
        click.echo(f"{name} of {owner} is the setting's: {getattr(loaded, name)}.")

    run(action)


@org.group("unauthenticated")
def org_unauthenticated() -> None:
    """What becomes of mail that is an explicit FAIL (SPF and DKIM, DMARC): none (nothing), label (it is
    hidden) or drop (it is erased).
    """


@org_unauthenticated.command("show")
@_ORG
def org_unauthenticated_show(organization: UUID | None) -> None:
    """Show what becomes of it, and whether that is the organisation's own wish."""

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.reading() as tx:
            owner = await access.only_organization(tx, organization)
            own = await access.on_unauthenticated(tx, owner)
        click.echo(f"{own or loaded.unauthenticated}  {'own' if own else 'setting'}")

    run(action)


@org_unauthenticated.command("set")
@click.argument("wish", type=click.Choice(get_args(settings.Unauthenticated)))
@_ORG
def org_unauthenticated_set(wish: settings.Unauthenticated, organization: UUID | None) -> None:
    """Give an organisation its own wish. It holds at once, for mail that comes in from now on."""

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.transaction() as tx:
            owner = await access.only_organization(tx, organization)
            await access.set_on_unauthenticated(tx, owner, wish)
        click.echo(f"unauthenticated of {owner} is {wish}.")

    run(action)


@org_unauthenticated.command("clear")
@_ORG
def org_unauthenticated_clear(organization: UUID | None) -> None:
    """Take an organisation's own wish away: the setting holds again."""

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.transaction() as tx:
            owner = await access.only_organization(tx, organization)
            await access.set_on_unauthenticated(tx, owner, None)
        click.echo(f"unauthenticated of {owner} is the setting's: {loaded.unauthenticated}.")

    run(action)


@org.group("suppressions")
def org_suppressions() -> None:
    """Addresses an organisation may not write to any more: they are none, or complained."""


@org_suppressions.command("list")
@_ORG
def org_suppressions_list(organization: UUID | None) -> None:
    """List suppressed addresses, since when, after what, and why."""

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.reading() as tx:
            owner = await access.only_organization(tx, organization)
            after = ""
            while page := await lists.list_suppressed(tx, owner, after=after, limit=1_000):
                for each in page:
                    since = each.created_at.astimezone(UTC)
                    click.echo(
                        f"{each.entry}  {since:%Y-%m-%d}  {each.origin}  {each.reason or ''}"
                    )
                after = page[-1].entry

    run(action)


@org_suppressions.command("remove")
@click.argument("address")
@_ORG
def org_suppressions_remove(address: str, organization: UUID | None) -> None:
    """Let an organisation write to an address again."""

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.transaction() as tx:
            owner = await access.only_organization(tx, organization)
            await lists.lift(tx, owner, address)
        click.echo(f"{address} can be written to again.")

    run(action)


@main.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.option("--org", "organization", type=click.UUID, help="Needed when there are several.")
@click.option("--pod", help="A pod, by id or client_id: the key is for it and its inboxes only.")
@click.option("--inbox", help="An inbox, by address or id: the key is for it only.")
@click.option("--name", default="API key", show_default=True)
@click.option(
    "--permission",
    "permissions",
    metavar="NAME",
    type=click.Choice(sorted(access.PERMISSIONS)),
    multiple=True,
    help="What the key may do, like message_read; may be repeated. Without: everything.",
)
@click.option(
    "--expires",
    metavar="TIME",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]),
    help="When the key ends, like 2027-01-31 or 2027-01-31T12:00:00Z; UTC without an offset.",
)
@click.option(
    "--expires-in-days",
    metavar="DAYS",
    type=click.IntRange(min=1),
    help="The same counted from now.",
)
def keys_create(
    organization: UUID | None,
    pod: str | None,
    inbox: str | None,
    name: str,
    permissions: tuple[str, ...],
    expires: datetime | None,
    expires_in_days: int | None,
) -> None:
    """Make an API key and print it. It is shown only now."""
    if expires and expires_in_days:
        raise click.UsageError("Give --expires or --expires-in-days, not both.")
    expires_at = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days else expires

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.transaction() as tx:
            made = await access.create_key(
                tx,
                await _reach(tx, organization, pod, inbox),
                prefix=loaded.key_prefix,
                name=name,
                permissions=dict.fromkeys(permissions, True) if permissions else None,
                expires_at=expires_at,
            )
        click.echo(made.secret)

    run(action)


async def _reach(tx: Tx, organization: UUID | None, pod: str | None, inbox: str | None) -> Reach:
    """How far a new key reaches; the pod or inbox stays until the key is there."""
    reach = Reach(await access.only_organization(tx, organization))
    if pod is not None:
        pod_id = await access.find_pod(tx, reach, pod)
        await access.hold_pod(tx, reach.organization_id, pod_id)
        reach = Reach(reach.organization_id, pod_id)
    if inbox is None:
        return reach
    return (await inboxes.get(tx, reach, inbox, lock=True)).reach


@main.group("inboxes")
def inboxes_group() -> None:
    """Inboxes."""


@inboxes_group.command("erase")
@click.argument("address")
@click.option("--org", "organization", type=click.UUID, help="Needed when there are several.")
def inboxes_erase(address: str, organization: UUID | None) -> None:
    """Destroy the retained mail of a deleted inbox, for good."""
    from agentmail_cp.app import connect_mail_server  # noqa: PLC0415 - see serve

    async def action(loaded: Settings) -> None:
        server = connect_mail_server(loaded)
        async with _database(loaded) as database:
            async with database.transaction() as tx:
                owner = await access.only_organization(tx, organization)
            await inboxes.erase(database, server, organization_id=owner, address=address)
        await server.close()
        click.echo(f"The mail of {address} is erased.")

    run(action)


@main.group("domains")
def domains_group() -> None:
    """Domains of all organisations."""


@domains_group.command("list")
def domains_list() -> None:
    """List domains: whose, their status, since when they are verified, and broken."""

    async def action(loaded: Settings) -> None:
        async with _database(loaded) as database, database.reading() as tx:
            last = None
            while page := await domains.list_all(tx, after=last, limit=1_000):
                for each in page:
                    since = f"{_day(each.verified_at)}  {_day(each.broken_since)}"
                    click.echo(f"{each.name}  {each.organization_id}  {each.status.value}  {since}")
                last = page[-1]

    run(action)


def _day(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d}" if moment else "-"


@domains_group.command("release")
@click.argument("name")
def domains_release(name: str) -> None:
    """Take a proved name from its organisation, as when the domain has another owner now."""

    async def action(loaded: Settings) -> None:
        pairs = await dkim.new_pairs()
        async with _database(loaded) as database, database.transaction() as tx:
            held = await domains.release(tx, name, pairs, dkim.sealing_key(loaded))
            owner = await access.get_organization(tx, held.organization_id)
        click.echo(
            f"{held.name} was of {owner.name} ({owner.organization_id}) since {_day(held.proved_at)}.\n"
            "A worker has the mail server let go of it now: its inboxes stay readable, and neither send nor"
            " receive.\nTheir claim stays, with a new id, token and keys. The first organisation whose token"
            " is seen in DNS has the name next."
        )

    run(action)


def _own_server(hostname: str | None) -> OwnServer | None:
    """As Stalwart keeps its name, so that it is no other one the next time."""
    return standard_server(hostname.lower().removesuffix(".")) if hostname else None


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end instead.")
@click.option(
    "--only", "names", metavar="NAME", multiple=True, help="Only this check, and what it needs."
)
@click.option(
    "--explain",
    metavar="NAME",
    multiple=True,
    help="Say what a check looks at and how to mend it; `all` for all.",
)
@click.option(
    "--own",
    "hostname",
    metavar="HOSTNAME",
    help="As for `stalwart apply`: compare name and listeners, too.",
)
@click.option("--dev", is_flag=True, help="The Stalwart is one of `make dev`.")
def doctor(
    *,
    as_json: bool,
    names: tuple[str, ...],
    explain: tuple[str, ...],
    hostname: str | None,
    dev: bool,
) -> None:
    """Look at everything that can go wrong, and say how to mend it.

    Sends a mail through a hidden inbox, which is removed again. Exit status 1 if a check failed; a warning is
    no failure. Run it where the API runs.
    """
    from agentmail_cp.doctor import Kind, consulting  # noqa: PLC0415 - see serve

    kind = Kind(dev=dev, own=_own_server(hostname))
    try:
        if explain:
            click.echo(consulting.explained(explain))
            return
        sys.exit(uvloop.run(consulting.consult(names, kind, as_json=as_json)))
    except consulting.UnknownCheck as error:
        raise click.UsageError(str(error)) from None


@main.group()
def stalwart() -> None:
    """The Stalwart mail server."""


@stalwart.command("apply")
@click.option("--check", is_flag=True, help="Only show what differs; exit status 2 if anything.")
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write our API key for Stalwart (mode 0600) if it has to be made.",
)
@click.option(
    "--own",
    "hostname",
    metavar="HOSTNAME",
    help="Stalwart serves nobody else: also give it this name and its listeners, on standard ports.",
)
def stalwart_apply(*, check: bool, key_file: Path | None, hostname: str | None) -> None:
    """Bring Stalwart to the state described in stalwart-config/."""
    own = _own_server(hostname)

    async def action(loaded: Settings) -> int:
        report = await run_apply(loaded, check=check, own=own, key_file=key_file)
        click.echo(report.text)
        return 2 if check and report.changes else 0

    sys.exit(run(action))


@stalwart.command("status")
def stalwart_status() -> None:
    """Show Stalwart's version and what our key may not do; exit status 2 if anything is missing."""

    async def action(loaded: Settings) -> int:
        status = await run_status(loaded)
        click.echo(f"{status.product} {status.version}")
        if status.missing:
            click.echo("Missing permissions: " + ", ".join(status.missing))
            return 2
        click.echo("Our key has every permission it needs.")
        return 0

    sys.exit(run(action))
