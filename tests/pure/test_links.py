"""Action links: agents click on them to verify an address, and must not click on everything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmail_cp import links
from agentmail_cp.markup import read
from tests.pure.effort import BITS, grows_no_faster_than_its_input

T = "https://acme.test/a?t=0f8fad5bd9cb469fa165708672899fae"

FOUND: list[tuple[str, str, str]] = [
    ("<a href='https://acme.test'>Acme</a> <p>Hi</p><a href='{}'>Verify email</a>", T, "verify"),
    ("<a href='{}'><img src=b.png alt='Confirm your account'></a>", T, "verify"),
    ("<a href='{}'><b>E-Mail-Adresse</b> bestätigen</a>", T, "verify"),
    ("<a href='{}'>Confirmer mon adresse</a>", T, "verify"),
    ("<a href='{}'>Activar cuenta</a>", T, "verify"),
    ("<a href='{}'>Ativar conta</a>", T, "verify"),
    ("<a href='{}'>Conferma indirizzo</a>", T, "verify"),
    ("<a href='{}'>E-mailadres bevestigen</a>", T, "verify"),
    ("<a href='{}'>メールアドレスを確認する</a>", T, "verify"),
    ("<a href='{}'>验证邮箱</a>", T, "verify"),
    ("<a href='{}'>이메일 인증하기</a>", T, "verify"),
    ("<a href='{}'>Подтвердить адрес</a>", T, "verify"),
    ("<a href='{}'>Reset password</a>", T, "reset"),
    ("<a href='{}'>Neues Passwort festlegen</a>", T, "reset"),
    ("<a href='{}'>Réinitialiser le mot de passe</a>", T, "reset"),
    ("<a href='{}'>Restablecer contraseña</a>", T, "reset"),
    ("<a href='{}'>パスワードを再設定する</a>", T, "reset"),
    ("<a href='{}'>重置密码</a>", T, "reset"),
    ("<a href='{}'>Сбросить пароль</a>", T, "reset"),
    ("<a href='{}'>Log in to Acme</a>", T, "login"),
    ("<a href='{}'>Jetzt anmelden</a>", T, "login"),
    ("<a href='{}'>ログイン</a>", T, "login"),
    ("<a href='{}'>Accept invitation</a>", T, "invite"),
    (
        "<a href='{}'>Click here</a>",
        "https://acme.test/verify-email?token=a81bc81bdead4e5dabff90865d1e13b1",
        "verify",
    ),
    (
        "<a href='{}'>https://acme.test/…</a>",
        "https://acme.test/users/password/reset/a81bc81bdead4e5dabff90865d1e13b1",
        "reset",
    ),
]

PLAIN: list[tuple[str, str, str]] = [
    ("To verify your address, open {}.", T, "verify"),
    ("Reset your password:\n\n{}\n\nAcme", T, "reset"),
    ("Use this magic link ({}) to log in.", T, "login"),
    ("Bitte bestätigen Sie Ihre Adresse:\n<{}>", T, "verify"),
    ("以下のURLをクリックして登録を完了してください。\n{}", T, "verify"),
    ("{}", "https://acme.test/confirm/a81bc81bdead4e5dabff90865d1e13b1", "verify"),
    (
        "Confirm: {}",
        "https://acme.test/w/Mail_(address)?t=a81bc81bdead4e5dabff90865d1e13b1",
        "verify",
    ),
]

FOOTER = """
<p><a href="https://acme.test/">Acme</a> <a href="https://acme.test/blog">Blog</a>
<a href="https://twitter.com/acme">Twitter</a> <a href="https://www.linkedin.com/company/acme">in</a>
<a href="https://acme.test/u/8fad5bd9cb469fa165708672899fae">Unsubscribe</a>
<a href="https://acme.test/unsubscribe?u=1">here</a> <a href="https://acme.test/legal">Privacy</a></p>
"""


@pytest.mark.parametrize(("html", "url", "kind"), FOUND, ids=[each[0][:40] for each in FOUND])
def test_the_action_of_a_mail_comes_first(html: str, url: str, kind: str) -> None:
    first, *rest = links.find("", read(FOOTER + html.format(url) + FOOTER))
    assert (first.url, first.kind) == (url, kind)
    assert first.confidence >= 0.7
    assert all(each.confidence <= 0.4 for each in rest), rest


@pytest.mark.parametrize(("text", "url", "kind"), PLAIN, ids=[each[0][:40] for each in PLAIN])
def test_a_link_in_plain_text_is_told_by_the_words_before_it(
    text: str, url: str, kind: str
) -> None:
    first, *rest = links.find(
        text.format(url) + "\n\nAcme, https://acme.test\nTwitter: https://twitter.com/acme\n"
    )
    assert (first.url, first.kind) == (url, kind)
    assert first.confidence >= 0.7
    assert all(each.confidence <= 0.4 for each in rest), rest


def test_a_sentence_says_what_its_own_link_is_for() -> None:
    """The page of one's settings is not what verifies an address."""
    found = links.find(
        "Enter the verification code: 482913.\n\nIf it was not you, visit https://acme.test/settings/me."
    )
    assert [(each.kind, each.confidence) for each in found] == [("other", 0.2)]


def test_a_page_to_log_in_at_is_no_way_in() -> None:
    """Shops put one under every mail; a link that logs in holds a secret."""
    page, way = "https://acme.test/login", f"https://acme.test/login?t={'0f8fad5bd9cb469fa1' * 2}"
    found = links.find("", read(f"<a href={page}>Log in</a><a href={way}>Log in</a>"))
    assert [(each.url, each.confidence) for each in found] == [(way, 0.95), (page, 0.5)]


def test_a_social_network_has_actions_of_its_own() -> None:
    at = "https://www.facebook.com/recover/code/?u=1&n=482913"
    html = f"<a href={at}>Change password</a><a href=https://www.facebook.com/acme>Join us</a>"
    assert [(each.kind, each.confidence) for each in links.find("", read(html))] == [
        ("reset", 0.95),
        ("other", 0.05),
    ]


def test_a_newsletter_asks_for_nothing() -> None:
    """An agent that follows its surest link would unsubscribe its owner."""
    found = links.find("", read(FOOTER + "<a href='https://acme.test/post/1'>Read more</a>"))
    assert all(each.confidence <= 0.4 for each in found)
    kinds = {each.url: (each.kind, each.confidence) for each in found}
    assert kinds["https://acme.test/unsubscribe?u=1"] == ("unsubscribe", 0.1)
    assert kinds["https://twitter.com/acme"] == ("other", 0.05)


@pytest.mark.parametrize(
    "href",
    [
        *(
            "javascript:alert(1)",
            "java\nscript:alert(1)",
            " JaVaScRiPt:alert(1)",
            "data:text/html,x",
        ),
        *(
            "mailto:a@b.test",
            "tel:+1",
            "/verify",
            "//acme.test/verify",
            "#verify",
            "ftp://acme.test/verify",
        ),
        *(
            "https://",
            "http:///verify",
            "https://acme.test@evil.test/verify",
            "https://[::1/verify",
        ),
        *(
            "https://acme.test/verify.png",
            "file:///etc/passwd",
            "vbscript:x",
        ),
        "https://acme.test/verify?" + "x" * links.LONGEST_URL,
    ],
)
def test_what_nobody_should_follow_is_left_out(href: str) -> None:
    """A script, a picture that tells on its reader, a host in disguise, half a link."""
    assert (
        links.find(
            href, read(f'<a href="{href}">Verify</a><img src="https://t.test/p.gif?verify">')
        )
        == []
    )


def test_a_link_is_read_as_browsers_do() -> None:
    found = links.find(
        "", read('<A HREF=" https://acme.test/ver\nify?a=1&amp;b=2 ">Verify\n <i>now</i></A>')
    )
    assert [(each.url, each.text) for each in found] == [
        ("https://acme.test/verify?a=1&b=2", "Verify now")
    ]


def test_there_are_never_too_many_links_or_too_long_texts() -> None:
    """Strangers decide what a mail holds, and every answer about it would carry all of that."""
    html = "".join(f"<a href='https://acme.test/{each}'>{'x' * 500}</a>" for each in range(1000))
    found = links.find("", read(html))
    assert len(found) == links.MOST
    assert all(len(each.text) <= links.LONGEST_TEXT for each in found)


def test_a_link_in_both_parts_is_one_link() -> None:
    found = links.find(f"Verify: {T}", read(f"<a href='{T}'>Verify</a>"))
    assert [(each.url, each.text) for each in found] == [(T, "Verify")]


HOSTILE = st.lists(st.sampled_from(BITS) | st.text(max_size=5), max_size=40).map("".join)


@given(HOSTILE, HOSTILE)
@settings(max_examples=300)
def test_no_mail_is_a_crash(text: str, html: str) -> None:
    found = links.find(text, read(html))
    assert len(found) <= links.MOST
    assert len({each.url for each in found}) == len(found)
    for each in found:
        assert each.url.lower().startswith(("http://", "https://"))
        assert len(each.url) <= links.LONGEST_URL
        assert 0 <= each.confidence <= 1
        assert not set(each.url) & set(" \t\r\n")


@pytest.mark.parametrize("bit", BITS)
def test_no_mail_takes_long(bit: str) -> None:
    """One mail made for it would hold up everybody's."""
    grows_no_faster_than_its_input(lambda size: links.find(_of(bit, size), read(_of(bit, size))))


def _of(bit: str, size: int) -> str:
    return (bit * (size // len(bit) + 1))[:size]
