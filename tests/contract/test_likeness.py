"""The sandbox takes a mail apart as Stalwart does: the same raw mails, the same answers.

Where the two are known to differ (broken MIME that Stalwart shows as an attachment, comments in
addresses) there is no sample here; nothing may depend on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentmail_cp.mailserver import Folder

if TYPE_CHECKING:
    from tests.contract.world import World

TEXT = "Content-Type: text/plain\r\n\r\n"
HTML = "Content-Type: text/html\r\n\r\n"
PNG = "Content-Type: image/png\r\n"


def mail(body: str, *headers: str) -> bytes:
    return "\r\n".join(["From: a@b.test", *headers, "", body]).encode()


def multipart(kind: str, *parts: str) -> bytes:
    body = "".join(f"--edge\r\n{part}\r\n" for part in parts) + "--edge--\r\n"
    return mail(body, "MIME-Version: 1.0", f'Content-Type: multipart/{kind}; boundary="edge"')


MAILS: dict[str, bytes] = {
    "no content type": mail("hi\r\nthere\r\n"),
    "addresses": mail("hi", 'To: y@z.test, "Q, R" <q@r.test>, Team: g@x.test, h@x.test;', "Cc: x"),
    "nobody": mail("hi", "To: undisclosed-recipients:;", "Cc:", "Subject:"),
    "quotes in a name": mail(
        "hi", 'Sender: "a \\"q\\" b" <a@b.test>', "Reply-To: =?x?= <a@b.test>"
    ),
    "ids with words between": mail(
        "hi", "In-Reply-To: see <a@b> and", "References: <a@b><c@d>,<e@f>"
    ),
    "ids without brackets": mail("hi", "Message-ID: m1@x.test", "References: a@b c@d"),
    "an id with a space": mail("hi", "Message-ID: <m 1@x.test>"),
    "headers twice": mail(
        "hi", "Subject: one", "Subject: two", "Message-ID: <1@a>", "Message-ID: <2@a>"
    ),
    "encoded words": mail("hi", "Subject: =?iso-8859-1?q?Gr=FC=DFe?= and =?utf-8?b?8J+agA==?="),
    "words in pieces": mail("hi", "Subject: =?utf-8?q?=C3=84?= =?utf-8?q?b?="),
    "utf-8 in headers": mail("hi", "Subject: Grüße roh", "To: Ä <a@b.test>"),
    "latin-1 in headers": b"From: a@b.test\r\nSubject: Gr\xfc\xdfe\r\n\r\nhi",
    "folded headers": mail("hi", "Subject: a\r\n  b\r\n\tc", "X-Y:\r\n d"),
    "no date": mail("hi", "Date: yesterday"),
    "a date with a comment": mail("hi", "Date: Sat, 21 Nov 2026 10:00:00 -0500 (EST)"),
    "alternative": multipart("alternative", TEXT + "text", HTML + "<p>html</p>"),
    "alternative of html": multipart("alternative", HTML + "<p>html</p>"),
    "html": mail("<p>Click <b>here</b> to go</p><td>b<td>c", "Content-Type: text/html"),
    "alternative of text": multipart("alternative", TEXT + "text"),
    "invitation": multipart(
        "alternative", TEXT + "text", HTML + "<p>h</p>", "Content-Type: text/calendar\r\n\r\nBEGIN"
    ),
    "several texts": multipart("mixed", TEXT + "one", TEXT + "two", HTML + "<p>three</p>"),
    "a text file": multipart(
        "mixed", TEXT + "one", "Content-Type: text/plain; name=a.txt\r\n\r\nx"
    ),
    "a picture inside": multipart(
        "related", HTML + "<img src=cid:x>", PNG + "Content-ID: <x>\r\n\r\nPNG"
    ),
    "a picture between": multipart("mixed", TEXT + "one", PNG + "\r\nPNG", TEXT + "two"),
    "a picture attached": multipart(
        "mixed", TEXT + "one", PNG + "Content-Disposition: attachment; filename=x.png\r\n\r\nPNG"
    ),
    "a forwarded mail": multipart(
        "mixed",
        TEXT + "fwd",
        f"Content-Type: message/rfc822\r\n\r\nFrom: z@z.test\r\n{HTML}<p>x</p>",
    ),
    "a digest": multipart(
        "digest", "\r\nFrom: a@b.test\r\n\r\none", "\r\nFrom: c@d.test\r\n\r\ntwo"
    ),
    "a signed mail": multipart(
        "signed", TEXT + "text", "Content-Type: application/pgp-signature; name=s.asc\r\n\r\nSIG"
    ),
    "nested": multipart(
        "mixed",
        'Content-Type: multipart/alternative; boundary="in"\r\n\r\n'
        f'--in\r\n{TEXT}t\r\n--in\r\nContent-Type: multipart/related; boundary="rel"\r\n\r\n'
        f"--rel\r\n{HTML}<b>h</b>\r\n--rel\r\n{PNG}Content-ID: <g>\r\n\r\nPNG\r\n--rel--\r\n\r\n"
        "--in--\r\n",
        "Content-Type: application/zip\r\n"
        'Content-Disposition: attachment; filename="=?utf-8?q?=C3=BC.zip?="\r\n\r\nPK',
    ),
    "a long file name": multipart(
        "mixed",
        TEXT + "x",
        "Content-Type: application/octet-stream\r\nContent-Disposition: attachment;\r\n"
        " filename*0*=utf-8''%C3%BC%20long;\r\n filename*1=name.txt\r\n\r\nx",
    ),
    "only a file": mail(
        "JVBERi0=", "Content-Type: application/pdf", "Content-Transfer-Encoding: base64"
    ),
    "only a picture": mail("UE5H", "Content-Type: image/png", "Content-Transfer-Encoding: base64"),
    "only an invitation": mail(
        "BEGIN:VCALENDAR", "Content-Type: text/calendar; method=REQUEST; charset=utf-8"
    ),
    "only a mail": mail("From: z@z.test\r\n\r\ninner", "Content-Type: message/rfc822"),
    "only an empty file": mail("", "Content-Type: application/pdf; name=a.pdf"),
    "empty html": mail("", "Content-Type: text/html"),
    "a report": multipart(
        "report",
        TEXT + "failed",
        "Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns;x.test\r\n",
        "Content-Type: text/rfc822-headers\r\n\r\nSubject: was\r\n",
    ),
    "only files": multipart(
        "mixed",
        "Content-Type: application/zip; name=a.zip\r\n\r\nPK",
        "Content-Type: application/zip; name=b.zip\r\n\r\nPK",
    ),
    "an empty text and a file": multipart(
        "mixed", TEXT, "Content-Type: application/zip; name=a.zip\r\n\r\nPK"
    ),
    "a draft of Thunderbird": mail(
        "hi",
        "To: =?UTF-8?Q?B=C3=B6b?= <bob@x.test>, carol@x.test",
        "Bcc: Dave <dave@x.test>, eve@x.test",
        "Reply-To: team@x.test, two@x.test",
        "Message-ID: <u1@x.test>",
        "In-Reply-To: <p@x.test>",
        "References: <r@x.test> <p@x.test>",
        "X-Mozilla-Draft-Info: internal/draft; vcard=0; receipt=0; DSN=0; uuencode=0",
        "Content-Type: text/plain; charset=UTF-8; format=flowed",
    ),
    "a draft with nobody yet": mail("", "To: ", "Bcc:", "Subject: "),
    "quoted-printable": mail(
        "Gr=C3=BC=C3=9Fe=\r\n weiter=20\r\n",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: quoted-printable",
    ),
    "windows-1252": b"From: a@b.test\r\nContent-Type: text/plain; charset=windows-1252\r\n\r\n\x80uro",
    "no parts": mail("no parts", "Content-Type: multipart/mixed; boundary=x"),
    "no boundary": mail("no parts", "Content-Type: multipart/mixed"),
    "line feeds": b"From: a@b.test\nSubject: lf\n\nhi\nthere\n",
    "no body": mail(""),
}


@pytest.mark.stalwart
@pytest.mark.parametrize("name", list(MAILS))
async def test_a_mail_looks_the_same_in_the_sandbox(sandbox: World, real: World, name: str) -> None:
    assert await seen(sandbox, MAILS[name]) == await seen(real, MAILS[name])


async def seen(world: World, raw: bytes) -> dict[str, Any]:
    """Everything the port tells about a mail, without what no two servers share."""
    account = await world.account()
    account_id = account.account_id
    document_id = await world.server.append(account_id, raw, folder=Folder.INBOX)
    (found,) = await world.server.fetch(account_id, [document_id])
    content = await world.content(account, document_id)
    attachments = [
        {
            "type": each.content_type,
            "size": each.size,
            "name": each.filename,
            "cid": each.content_id,
            "inline": each.inline,
            "data": [part async for part in world.server.download(account_id, each.blob_id)],
        }
        for each in content.attachments
    ]
    ours = {"document_id": None, "received_at": None}
    bodies = {"headers": content.headers, "text": content.text, "html": content.html}
    return {**msgspec.structs.asdict(found), **ours, **bodies, "attachments": attachments}
