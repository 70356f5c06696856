"""What a blob measures and which blob a raw message is, without moving its bytes.

An attachment's size as `Email/get` tells it is not what a download gives: Stalwart 0.16 counts a text
after decoding its charset, and a nested message before decoding its transfer encoding
(`email/src/message/body.rs`). `Blob/get` (RFC 9404) counts what is really there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agentmail_cp.mailserver import BlobId, MailServerRejected, Refusal
from agentmail_cp.stalwart.calls import Call, GetAnswer
from agentmail_cp.stalwart.folders import ensure_exists, exists
from agentmail_cp.stalwart.ids import email_id
from agentmail_cp.stalwart.jmap import BLOB_SLACK, RequestRefused

if TYPE_CHECKING:
    from agentmail_cp.mailserver import AccountId, DocumentId
    from agentmail_cp.stalwart.jmap import JmapClient


class _Size(msgspec.Struct):
    size: int


class _Raw(msgspec.Struct, rename="camel"):
    blob_id: str


class Blobs:
    """The part of `StalwartMailServer` that measures blobs."""

    _jmap: JmapClient

    async def blob_size(self, account_id: AccountId, blob_id: BlobId) -> int:
        arguments = {"accountId": account_id, "ids": [blob_id], "properties": ["size"]}
        call = Call("Blob/get", arguments, "blob")
        try:
            answers = await self._jmap.call(
                exists(account_id, "account"), call, repeat=True, slack=BLOB_SLACK
            )
        except RequestRefused:
            # Stalwart reads nothing of a request with an id that cannot be one of its own.
            raise _no_blob() from None
        ensure_exists(answers["account"])
        found = answers["blob"].into(GetAnswer[_Size]).found
        if not found:
            raise _no_blob()
        return found[0].size

    async def raw_blob(self, account_id: AccountId, document_id: DocumentId) -> BlobId:
        arguments = {
            "accountId": account_id,
            "ids": [email_id(document_id)],
            "properties": ["blobId"],
        }
        call = Call("Email/get", arguments, "mail")
        answers = await self._jmap.call(exists(account_id, "account"), call, repeat=True)
        ensure_exists(answers["account"])
        found = answers["mail"].into(GetAnswer[_Raw]).found
        if not found:
            raise MailServerRejected(Refusal.NO_MAIL, "There is no such mail.")
        return BlobId(found[0].blob_id)


def _no_blob() -> MailServerRejected:
    return MailServerRejected(Refusal.NO_BLOB, "There is no such blob.")
