"""A mail of absurdly many MIME parts: Stalwart 0.16.18 would walk in a circle as soon as anybody asks it for
them, and stop answering everybody.
"""

from __future__ import annotations

import smtplib

import pytest

from tests.contract.world import World, a_raw_mail
from tests.fix_stalwart import Mailbox, StalwartServer

pytestmark = pytest.mark.stalwart


def of_parts(count: int) -> bytes:
    """A mail of so many parts, as small as they can be."""
    head, _, _ = a_raw_mail().partition(b"\r\n\r\n")
    kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-")]
    kept.append(b"Content-Type: multipart/mixed; boundary=x")
    return b"\r\n".join(kept) + b"\r\n\r\n" + b"--x\r\n\r\n\r\n" * count + b"--x--\r\n"


@pytest.mark.parametrize("count", [10_001, 80_000])
async def test_a_mail_of_absurdly_many_parts_is_refused(real: World, count: int) -> None:
    """One mail from a stranger would stop mail for everybody."""
    account = await real.account()
    with pytest.raises(smtplib.SMTPDataError) as refused:
        await real.deliver(of_parts(count), account.address)
    assert refused.value.smtp_code == 554
    assert "10000 MIME parts" in str(refused.value.smtp_error)


async def test_a_mail_of_many_parts_is_read(real: World) -> None:
    account = await real.account()
    mail = await real.received(account, of_parts(9_000))
    assert await real.content(account, mail.document_id)


async def test_nobody_here_sends_one_either(stalwart: StalwartServer, mailbox: Mailbox) -> None:
    with stalwart.submission(mailbox) as client, pytest.raises(smtplib.SMTPDataError) as refused:
        client.sendmail(mailbox.address, [mailbox.address], of_parts(80_000))
    assert refused.value.smtp_code == 554
