"""The sandbox reads anything: a mail that raised would stop the tests of whoever received it."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.mailserver import Address, OutgoingEmail
from agentmail_cp.sandbox import mime

HEADERS = [b"From", b"To", b"Date", b"Subject", b"Message-ID", b"References", b"Content-ID"]
SHAPES = [
    b'Content-Type: multipart/mixed; boundary="b"',
    b"Content-Type: multipart/alternative; boundary=b",
    b"Content-Type: message/rfc822",
    b"Content-Type: text/html; charset=",
    b"Content-Type: text/plain; charset*=x'y'%ff; name*0*=",
    b"Content-Disposition: attachment; filename*=a'b'%zz",
    b"Content-Transfer-Encoding: base64",
    b"Content-Transfer-Encoding: quoted-printable",
    b"Subject: =?utf-8?b?",
    b"--b",
    b"--b--",
    b"",
]


def joined(parts: tuple[bytes, ...]) -> bytes:
    return b"".join(parts)


lines = st.one_of(
    st.sampled_from(SHAPES),
    st.tuples(st.sampled_from(HEADERS), st.just(b": "), st.binary()).map(joined),
    st.tuples(st.sampled_from(SHAPES), st.binary()).map(joined),
    st.binary(),
)
one_line = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=("Cs",)))


@given(st.lists(lines, max_size=25), st.sampled_from([b"\r\n", b"\n"]))
def test_no_mail_is_too_hostile_to_be_read(parts: list[bytes], line_end: bytes) -> None:
    raw = line_end.join(parts)
    parsed = mime.parse(raw)
    assert parsed.index.size == len(raw)
    assert len(parsed.index.preview) <= mime.PREVIEW_LENGTH
    mime.is_mail(raw)


@given(text=st.text(st.characters(exclude_characters="\r\0", exclude_categories=("Cs",))))
def test_a_text_body_is_read_as_it_was_written(text: str) -> None:
    parsed = mime.parse(mime.build(an_email(text=text, html=f"<p>{text}</p>"), {}, with_bcc=False))
    assert parsed.text == text
    assert parsed.html == f"<p>{text}</p>"


@given(value=one_line)
def test_a_header_is_one_header_whatever_its_text(value: str) -> None:
    email = an_email(subject=value, headers=(("X-Own", value),))
    parsed = mime.parse(mime.build(email, {}, with_bcc=False))
    names = [name for name, _ in parsed.headers]
    assert set(names) <= {
        *("From", "To", "Subject", "Date", "Message-ID", "X-Own"),
        *("Content-Type", "Content-Transfer-Encoding", "MIME-Version"),
    }
    assert len(names) == len(set(names))


def test_a_header_on_two_lines_is_refused() -> None:
    for injected in ("a\r\nBcc: evil@x.test", "a\nb", "a\rb", "a\0b"):
        for email in (
            an_email(subject=injected),
            an_email(headers=(("X-Own", injected),)),
            an_email(sender=Address("a@contract.test", injected)),
            an_email(message_id=injected),
        ):
            try:
                mime.build(email, {}, with_bcc=False)
            except ValueError:
                continue
            raise AssertionError(injected)


def an_email(**other: object) -> OutgoingEmail:
    fields: dict[str, object] = {
        "message_id": "m@contract.test",
        "date": datetime(2026, 11, 21, tzinfo=UTC),
        "sender": Address("a@contract.test", "A"),
        "to": (Address("b@contract.test"),),
        "recipients": ("b@contract.test",),
    }
    return OutgoingEmail(**{**fields, **other})  # pyright: ignore[reportArgumentType]


def test_a_mail_nested_without_end_is_taken() -> None:
    """The mailbox of whoever received it would stop."""
    deep = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level)
        for level in range(3000)
    )
    assert mime.parse(b"Subject: Deep\r\n" + deep).index.subject == "Deep"
