"""Mails that report something, as the sandbox and the world around it write them. Pure."""

from __future__ import annotations

import re
import secrets
from email.parser import BytesParser
from email.policy import compat32
from email.utils import format_datetime, make_msgid
from typing import TYPE_CHECKING

from agentmail_cp.mailserver import Complaint, ReportType
from agentmail_cp.sandbox.mime import parse

if TYPE_CHECKING:
    from datetime import datetime

NO_MAILBOX = "550 5.1.1 The mailbox does not exist."


def delivery_report(
    raw: bytes,
    *,
    sender: str,
    recipient: str,
    hostname: str,
    now: datetime,
    message_id: str | None = None,
) -> bytes:
    """The bounce (RFC 3464) of a mail that `recipient` could not get."""
    envelope = f"Original-Envelope-Id: {message_id}\r\n" if message_id else ""
    status = (
        f"Reporting-MTA: dns;{hostname}\r\n{envelope}\r\nFinal-Recipient: rfc822;{recipient}\r\n"
        f"Action: failed\r\nDiagnostic-Code: smtp;{NO_MAILBOX}\r\nStatus: 5.1.1\r\n"
    )
    head = (
        f"From: Mail Delivery Subsystem <MAILER-DAEMON@{hostname}>\r\n"
        f"To: {sender}\r\nAuto-Submitted: auto-generated\r\nSubject: Failed to deliver message\r\n"
        f"Message-ID: {make_msgid(domain=hostname)}\r\nDate: {format_datetime(now)}\r\n"
    )
    text = f"Your message could not be delivered to <{recipient}>: {NO_MAILBOX}\r\n"
    return head.encode() + _report("delivery-status", text, status, _head_of(raw))


def feedback_report(raw: bytes, *, sender: str, recipient: str, now: datetime) -> bytes:
    """A complaint (ARF, RFC 5965) of `recipient` about a mail, as a large provider sends them."""
    domain = recipient.rpartition("@")[2]
    report = (
        "Feedback-Type: abuse\r\nUser-Agent: sandbox/1\r\nVersion: 1\r\n"
        f"Original-Mail-From: <{sender}>\r\nOriginal-Rcpt-To: <{recipient}>\r\n\r\n"
    )
    head = (
        f"Return-Path: <feedback@{domain}>\r\n"
        f"Received: from mx.{domain} ([192.0.2.1]);\r\n\t{format_datetime(now)}\r\n"
        f"From: Feedback <feedback@{domain}>\r\nTo: {sender}\r\nSubject: FW: spam\r\n"
        f"Message-ID: {make_msgid(domain=domain)}\r\nDate: {format_datetime(now)}\r\n"
    )
    text = f"This is an email abuse report of <{recipient}>.\r\n"
    return head.encode() + _report("feedback-report", text, report, _head_of(raw))


def _report(kind: str, text: str, report: str, original: bytes) -> bytes:
    edge = secrets.token_hex(16)
    head = (
        f"MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type={kind};\r\n"
        f'\tboundary="{edge}"\r\n\r\n'
        f"--{edge}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}"
        f"--{edge}\r\nContent-Type: message/{kind}\r\n\r\n{report}"
        f"--{edge}\r\nContent-Type: message/rfc822\r\n\r\n"
    )
    return head.encode() + original + f"\r\n\r\n--{edge}--\r\n".encode()


def _head_of(raw: bytes) -> bytes:
    return re.split(rb"\r?\n\r?\n", raw, maxsplit=1)[0]


def complaint_in(raw: bytes, *, number: int, now: datetime) -> Complaint | None:
    """What a mail complains about, None when it is no complaint. Like Stalwart 0.16, it looks at nothing but
    the report itself: which mail it is about, only an envelope id tells.
    """
    mail = parse(raw)
    if mail.index.report is not ReportType.FEEDBACK:
        return None
    part = next(each for each in mail.attachments if each.content_type.endswith("feedback-report"))
    fields = BytesParser(policy=compat32).parsebytes(part.data, headersonly=True)
    recipient = _bare(fields.get("Original-Rcpt-To"))
    return Complaint(
        complaint_id=f"complaint-{number}",
        kind=str(fields.get("Feedback-Type", "other")).strip().lower(),
        at=now.replace(microsecond=0),
        message_id=_bare(fields.get("Original-Envelope-Id")),
        sender=_bare(fields.get("Original-Mail-From")),
        recipients=() if recipient is None else (recipient,),
    )


def _bare(value: object) -> str | None:
    return str(value or "").strip().removeprefix("<").removesuffix(">") or None
