"""What is asked and answered over the wire: method calls of JMAP (RFC 8620) and what comes back.

Owns the shapes of calls, answers and refusals, and how a refused call is put in the port's errors. Knows
nothing of connections; `jmap.py` carries them.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec

from agentmail_cp.mailserver import (
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
)

T = TypeVar("T")

PASSING: Final = frozenset({"serverUnavailable", "serverFail", "serverPartialFail"})


class Call(msgspec.Struct, frozen=True):
    """One method call. `tag` names it within the request (RFC 8620 section 3.2: method call id)."""

    name: str
    arguments: dict[str, Any]
    tag: str


def reference(result_of: str, name: str, path: str) -> dict[str, str]:
    """An argument taken from an earlier call of the same request (RFC 8620 section 3.7)."""
    return {"resultOf": result_of, "name": name, "path": path}


class MethodError(MailServerConfused):
    """A method call was refused (RFC 8620 section 3.6.2) in a way its caller did not expect."""

    def __init__(self, name: str, kind: str, description: str) -> None:
        super().__init__(f"{name} answered {kind}: {description or 'no description'}")
        self.type = kind
        self.description = description


class _Error(msgspec.Struct):
    type: str
    description: str = ""


class SetError(msgspec.Struct, frozen=True, rename="camel"):
    """Why one object of a `/set` was refused (RFC 8620 section 5.3, with Stalwart's additions)."""

    type: str
    description: str = ""
    properties: tuple[str, ...] = ()
    validation_errors: tuple[dict[str, Any], ...] = ()
    linked_objects: tuple[dict[str, Any], ...] = ()
    object_id: dict[str, Any] | str | None = None
    existing_id: str | None = None

    @property
    def sentence(self) -> str:
        """Everything the server said, for a person."""
        where = f" ({', '.join(self.properties)})" if self.properties else ""
        details = "; ".join(
            " ".join(str(value) for value in error.values()) for error in self.validation_errors
        )
        return f"{self.type}{where}: {self.description or details or 'no description'}"


class Created(msgspec.Struct, frozen=True):
    """What a `/set` or `/import` tells of an object it made."""

    id: str


class SetAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """What a `/set` (RFC 8620 section 5.3) or `Email/import` did and what it refused, by id."""

    created: dict[str, Created] | None = None
    not_created: dict[str, SetError] | None = None
    not_updated: dict[str, SetError] | None = None
    not_destroyed: dict[str, SetError] | None = None

    def made(self, creation_id: str) -> str | None:
        """The id of the object made under this creation id, None when it was refused."""
        created = (self.created or {}).get(creation_id)
        return created.id if created else None


class GetAnswer(msgspec.Struct, Generic[T]):
    """Objects a `/get` found (RFC 8620 section 5.1). Management objects have no state."""

    found: list[T] = msgspec.field(name="list")
    state: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """What one call answered.

    `followers` are further answers under the same tag (RFC 8621 section 7.5: implicit Email/set).
    """

    call: str
    name: str
    arguments: msgspec.Raw
    followers: tuple[Answer, ...] = ()

    @property
    def error(self) -> MailServerError | None:
        """The call's error in the port's words, None when it succeeded."""
        if self.name != "error":
            return None
        refused = decode(self.arguments, _Error, self.call)
        if refused.type in PASSING:
            return MailServerUnavailable(f"{self.call} answered {refused.type}.", reached=True)
        if refused.type == "accountNotFound":
            return MailServerRejected(Refusal.NO_ACCOUNT, "There is no such account.")
        if refused.type == "forbidden":
            return MethodError(self.call, "forbidden", explain_permission(refused.description))
        return MethodError(self.call, refused.type, refused.description)

    def into(self, shape: type[T]) -> T:
        """The answer's arguments. Raises `error` if there is one, Confused for another shape."""
        if (error := self.error) is not None:
            raise error
        return decode(self.arguments, shape, self.call)


def explain_permission(description: str) -> str:
    """What to do where our key may not do something; `description` is what the server said."""
    return (
        f"{description or 'the key lacks a permission'}. Run `agentmail-cp stalwart status` to see "
        "what is missing and `agentmail-cp stalwart apply` to grant it."
    )


def decode(content: bytes | msgspec.Raw, shape: type[T], origin: str) -> T:
    """What the server said, in the shape that is expected of `origin`. Raises `MailServerConfused`."""
    try:
        return msgspec.json.decode(content, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = error if isinstance(error, msgspec.ValidationError) else type(error).__name__
        message = f"{origin} answered something unknown to this version: {reason}"
        raise MailServerConfused(message) from None
