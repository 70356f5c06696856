"""What every part of the sandbox shares: the accounts, the domains, and the faults each call goes through."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from agentmail_cp.mailserver import AccountId, MailServerRejected, Refusal
from agentmail_cp.sandbox.faults import HEALTHY, Faults, Hook, answering

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import CoroutineType

    from agentmail_cp.sandbox.domains import Hosted
    from agentmail_cp.sandbox.mailbox import Mailbox

P = ParamSpec("P")
R = TypeVar("R")
Part = TypeVar("Part", bound="Core")

NO_MAILBOX: Final = "550 5.1.2 Mailbox does not exist."


def answered(
    method: Callable[Concatenate[Part, P], Awaitable[R]],
) -> Callable[Concatenate[Part, P], CoroutineType[Any, Any, R]]:
    """Send a method of the port through the faults that are set when it is called."""

    @wraps(method)
    async def call(self: Part, /, *args: P.args, **kwargs: P.kwargs) -> R:
        async with self.answering(method.__name__):
            return await method(self, *args, **kwargs)

    return call


class Core:
    """The state of the sandbox; see `MailSandbox` for what the public attributes mean."""

    def __init__(self, *, on_bell: Callable[[AccountId], None] | None, patience: float) -> None:
        self.faults: Faults = HEALTHY
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.on_bell = on_bell
        self._patience = patience
        self._hosted: dict[str, Hosted] = {}
        self._disabled: dict[tuple[str, str], dict[str, Mailbox]] = {}
        self._mailboxes: dict[AccountId, Mailbox] = {}
        self._addresses: dict[str, Mailbox] = {}

    def answering(self, method: str) -> AbstractAsyncContextManager[None]:
        """The context one call is carried out in; used by `answered`."""
        return answering(
            self.faults.of(method),
            patience=self._patience,
            before=self.before.get(method),
            after=self.after.get(method),
        )

    @property
    def addresses(self) -> frozenset[str]:
        """The address of every account, retired ones and strangers' included."""
        return frozenset(self._addresses)

    def mailbox(self, account_id: AccountId) -> Mailbox:
        """An account's insides, faults or not. Rejected: NO_ACCOUNT."""
        mailbox = self._mailboxes.get(account_id)
        if mailbox is None:
            raise MailServerRejected(Refusal.NO_ACCOUNT, f"There is no account {account_id}.")
        return mailbox

    def _bell(self, mailbox: Mailbox) -> None:
        if self.on_bell is not None:
            self.on_bell(mailbox.account_id)

    def retry(self) -> None:
        """Try again what is still in the queue, as a mail server does after a while."""
        raise NotImplementedError
