"""Bodies of requests and answers, field by field as the official SDKs and the seeds spell them.

Answers carry the SDKs' fields and, beside them, the seeds' own spellings. Fields without a value are left
out. Requests take a text or a list wherever the contract does, and ignore fields they do not know.
"""

from __future__ import annotations

from agentmail_cp.web.bodies.attachments import (
    AttachmentItem,
    AttachmentResponse,
    RawMessageResponse,
    attachment_id,
    attachment_item,
    attachment_items,
    attachment_response,
)
from agentmail_cp.web.bodies.inboxes import (
    CreateInbox,
    Credentials,
    Endpoint,
    Inbox,
    ListInboxes,
    UpdateInbox,
    credentials,
    inbox,
)
from agentmail_cp.web.bodies.keys import (
    ApiKey,
    CreateApiKey,
    CreatedApiKey,
    Identity,
    ListApiKeys,
    UpdateApiKey,
    api_key,
    created_api_key,
)
from agentmail_cp.web.bodies.messages import (
    ListMessages,
    Message,
    MessageItem,
    UpdateMessage,
    UpdateMessageResponse,
    message,
    message_item,
)
from agentmail_cp.web.bodies.sends import (
    ForwardMessage,
    Outgoing,
    RejectedRecipient,
    ReplyToMessage,
    SendAttachment,
    SendMessage,
    SendMessageResponse,
    Texts,
    sent,
)
from agentmail_cp.web.bodies.threads import (
    ListThreads,
    Thread,
    ThreadItem,
    thread,
    thread_item,
)

__all__ = [
    "ApiKey",
    "AttachmentItem",
    "AttachmentResponse",
    "CreateApiKey",
    "CreateInbox",
    "CreatedApiKey",
    "Credentials",
    "Endpoint",
    "ForwardMessage",
    "Identity",
    "Inbox",
    "ListApiKeys",
    "ListInboxes",
    "ListMessages",
    "ListThreads",
    "Message",
    "MessageItem",
    "Outgoing",
    "RawMessageResponse",
    "RejectedRecipient",
    "ReplyToMessage",
    "SendAttachment",
    "SendMessage",
    "SendMessageResponse",
    "Texts",
    "Thread",
    "ThreadItem",
    "UpdateApiKey",
    "UpdateInbox",
    "UpdateMessage",
    "UpdateMessageResponse",
    "api_key",
    "attachment_id",
    "attachment_item",
    "attachment_items",
    "attachment_response",
    "created_api_key",
    "credentials",
    "inbox",
    "message",
    "message_item",
    "sent",
    "thread",
    "thread_item",
]
