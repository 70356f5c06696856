"""Which mailbox gets mail on Stalwart 0.16: pauses, and the catch-all mailbox of a domain.

Both are marks of the account (`marks.py`). The catch-all mailbox also has a Sieve script (RFC 5228), which
notes at delivery to whom the mail was addressed: Stalwart hands the address over as the original recipient
(RFC 3461 section 4.2), to the script alone. No mailbox may write scripts, so this one is its only one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentmail_cp.mailserver import AccountId, MailServerConfused, MailServerRejected, Refusal
from agentmail_cp.stalwart import marks
from agentmail_cp.stalwart.admin import Accounts
from agentmail_cp.stalwart.calls import Call, GetAnswer, SetAnswer
from agentmail_cp.stalwart.marks import Marked

if TYPE_CHECKING:
    from agentmail_cp.stalwart.calls import SetError

ORIGINAL_RECIPIENT: Final = "X-Agentmail-Original-Recipient"

SCRIPT_NAME: Final = "agentmail-cp original recipient"
SCRIPT: Final = f"""\
require ["editheader", "envelope", "envelope-dsn", "variables"];
deleteheader "{ORIGINAL_RECIPIENT}";
if envelope :matches "orcpt" "rfc822;*" {{
  set :lower "asked" "${{1}}";
  set "bare" "${{asked}}";
  if string :matches "${{asked}}" "*+*@*" {{
    set "bare" "${{1}}@${{3}}";
  }}
  if not envelope :is "to" "${{bare}}" {{
    addheader "{ORIGINAL_RECIPIENT}" "${{asked}}";
  }}
}}
"""
"""A tag is no other recipient. What the sender claims to be the original recipient, Stalwart puts aside when
the catch-all takes the mail.
"""

AT_ONCE: Final = "2020-01-01T00:00:00Z"
SOME: Final = 500
"""Objects in one set, as any Stalwart takes them."""


class _Script(msgspec.Struct, rename="camel"):
    id: str
    name: str = ""
    is_active: bool = False


class _Queued(msgspec.Struct):
    ids: list[str]


class Receiving(Accounts):
    """The part of `StalwartMailServer` that says which mailbox gets mail."""

    async def pause_receiving(self, account_id: AccountId, paused: bool) -> None:  # noqa: FBT001
        account = await self._marked(account_id)
        await self._mark(account, paused=paused, catches=marks.caught(account))
        if not paused:
            await self._try_again(account.email_address)

    async def _catcher(self, address: str) -> AccountId:
        """The account that is to get what is addressed to nobody."""
        account = await self.find_account(address)
        if account is None or not account.ours:
            raise MailServerRejected(Refusal.NO_ACCOUNT, f"{address} is no account.")
        return account.account_id

    async def _catch(self, account_id: AccountId, domain_id: str) -> None:
        await self._ensure_script(account_id)
        account = await self._marked(account_id)
        catches = marks.caught(account) | {domain_id}
        holder = await self._mark(account, paused=marks.is_paused(account), catches=catches)
        if holder is not None:
            await self._release(await self._marked(holder), domain_id)
            await self._mark(account, paused=marks.is_paused(account), catches=catches)

    async def _uncatch(self, address: str, domain_id: str) -> None:
        account = await self.find_account(address)
        if account is not None:
            await self._release(await self._marked(account.account_id), domain_id)

    async def _release(self, account: Marked, domain_id: str) -> None:
        catches = marks.caught(account) - {domain_id}
        await self._mark(account, paused=marks.is_paused(account), catches=catches)

    async def _mark(
        self, account: Marked, *, paused: bool, catches: frozenset[str]
    ) -> AccountId | None:
        """Give an account these marks; or tell which one has one of them that only one can have."""
        wanted = marks.wanted(account, paused=paused, catches=catches)
        if wanted == account.marks:
            return None
        change = {"aliases": marks.aliases(account, wanted)}
        call = Call("x:Account/set", {"update": {account.id: change}}, "set")
        refused = (await self._jmap.call(call))["set"].into(SetAnswer).not_updated or {}
        error = refused.get(account.id)
        if error is None:
            return None
        if (holder := _holder(error)) is not None:
            return holder
        code = Refusal.NO_ACCOUNT if error.type == "notFound" else Refusal.FORBIDDEN
        raise MailServerRejected(code, error.sentence)

    async def _marked(self, account_id: AccountId) -> Marked:
        wanted = ["id", "name", "domainId", "emailAddress", "aliases"]
        call = Call("x:Account/get", {"ids": [account_id], "properties": wanted}, "get")
        found = (await self._jmap.call(call, repeat=True))["get"].into(GetAnswer[Marked]).found
        if not found:
            raise MailServerRejected(Refusal.NO_ACCOUNT, "There is no such account.")
        return found[0]

    async def _try_again(self, address: str) -> None:
        """Have the queue deliver at once what waits for this address."""
        query = Call("x:QueuedMessage/query", {"filter": {"to": address}}, "query")
        ids = (await self._jmap.call(query, repeat=True))["query"].into(_Queued).ids
        for start in range(0, len(ids), SOME):
            update = {each: {"nextRetry": AT_ONCE} for each in ids[start : start + SOME]}
            # One that is gone was delivered meanwhile.
            call = Call("x:QueuedMessage/set", {"update": update}, "set")
            (await self._jmap.call(call))["set"].into(SetAnswer)

    async def _ensure_script(self, account_id: AccountId) -> None:
        wanted = {"accountId": account_id, "ids": None, "properties": ["id", "name", "isActive"]}
        call = Call("SieveScript/get", wanted, "get")
        found = (await self._jmap.call(call, repeat=True))["get"].into(GetAnswer[_Script]).found
        if any(script.name == SCRIPT_NAME and script.is_active for script in found):
            return
        upload = {"blob": {"data": [{"data:asText": SCRIPT}], "type": "application/sieve"}}
        script: dict[str, Any] = {
            "accountId": account_id,
            "create": {"script": {"name": SCRIPT_NAME, "blobId": "#blob"}},
            "onSuccessActivateScript": "#script",
            "destroy": [each.id for each in found if each.name == SCRIPT_NAME],
        }
        answers = await self._jmap.call(
            Call("Blob/upload", {"accountId": account_id, "create": upload}, "upload"),
            Call("SieveScript/set", script, "set"),
        )
        done = answers["set"].into(SetAnswer)
        if done.made("script") is None:
            error = (done.not_created or {}).get("script")
            raise MailServerConfused(
                f"Stalwart takes no Sieve script: {error.sentence if error else 'no reason'}"
            )


def _holder(error: SetError) -> AccountId | None:
    if error.type != "primaryKeyViolation" or not isinstance(error.object_id, dict):
        return None
    return AccountId(str(error.object_id.get("id")))
