"""Extraction: people's own words are found, and hostile mail neither breaks nor stalls it."""

# ruff: noqa: RUF001  letters of other alphabets are what is tested

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmail_cp.extract import MAX_INPUT, preview, reply_html, reply_text, text_of

BITS = st.sampled_from(
    [
        "<div>",
        "</p>",
        "<table><tr><td>",
        "<style>",
        "<!--",
        "&#x0;",
        "\x00",
        "> a\n",
        "wrote:\n",
        "-- \n",
        "On 1 Nov 2023, B wrote:\n",
        "<div class=gmail_quote>",
        "From: a\nTo: b\n",
        "é",
        " ",
        "\r",
        "]]>",
    ]
)
HOSTILE = st.text() | st.lists(BITS | st.text(max_size=5), max_size=30).map("".join)


@given(HOSTILE)
@settings(max_examples=300)
def test_no_mail_is_a_crash(text: str) -> None:
    text_of(text)
    reply_html(text)
    assert reply_text(text) or not text.strip()
    shown = preview(text)
    assert len(shown) <= 200
    assert shown == " ".join(shown.split())


@pytest.mark.parametrize(
    "bit",
    [
        "Op heeft geschreven ",
        "Den 1 skrev wrote: ",
        "<table><tr><td>x",
        "<ul><li>x",
        "<script>",
        "<div class='gmail_quote'",
        "style=",
        "On 1 a\n",
        "From: x\nTo: y\n",
        "\n",
        "<a@b>",
        "&nbsp;<br>",
    ],
)
def test_no_mail_holds_a_worker_up(bit: str) -> None:
    text = (bit * MAX_INPUT)[: 4 * MAX_INPUT]
    started = time.perf_counter()
    for extract in (text_of, reply_text, reply_html, preview):
        extract(text)
        extract(text[:MAX_INPUT])
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("bit", [" ", "\n", "&nbsp;", "<br>", "<br ", "> "])
def test_breaks_above_a_quotation_hold_nobody_up(bit: str) -> None:
    """Whoever asks for such a mail would stop the whole process: a regular expression lets nobody in."""
    above = (bit * MAX_INPUT)[:60_000] + "x"
    started = time.perf_counter()
    assert reply_html(f'{above}<div class="gmail_quote">old</div>').startswith(above)
    assert time.perf_counter() - started < 5


def test_breaks_above_a_quotation_are_left_out() -> None:
    for breaks in (" ", "<br>", "<BR />\n", "&nbsp;<br/> &NBSP;", "\n<br \n>"):
        assert reply_html(f'<p>New{breaks}<div class="gmail_quote">old</div>') == "<p>New</p>"


def test_a_margin_cannot_fill_the_memory() -> None:
    html = '<p title=">" style="margin-top: 90000000em">a</p><p style="padding-left:90000000em">b'
    assert len(text_of(html)) < 100


def test_html_reads_as_on_the_screen() -> None:
    html = (
        "<head><title>t</title><style>p{}</style></head><p>Hello&nbsp;<b>A</b>da</p>"
        "<script>alert(1)</script><p style='display:none'>hidden</p>"
        "<table><tr><td>1<td>2</table><ul><li>one</ul>"
    )
    assert text_of(html).split() == ["Hello", "Ada", "1", "2", "*", "one"]


def test_a_preview_is_one_line_of_at_most_200_characters() -> None:
    assert preview("  Hello\r\n\tAda\u200b \u034f\ufeff ") == "Hello Ada"
    assert len(preview("word " * 1000)) == 199


@pytest.mark.parametrize(
    "intro",
    [
        "On Mon, Nov 20, 2023 at 10:00 AM Bob <bob@example.com> wrote:",
        "On Mon, Nov 20, 2023 at 10:00 AM Bob Longname\n<bob@example.com> wrote:",
        "Am 20.11.2023 um 10:00 schrieb Bob <bob@example.com>:",
        "Am Mo., 20. Nov. 2023 um 10:00 Uhr schrieb Bob <bob@example.com>:",
        "Le lun. 20 nov. 2023 à 10:00, Bob <bob@example.com> a écrit :",
        "El lun, 20 nov 2023 a las 10:00, Bob (<bob@example.com>) escribió:",
        "Il giorno lun 20 nov 2023 alle ore 10:00 Bob <bob@example.com> ha scritto:",
        "Em seg., 20 de nov. de 2023 às 10:00, Bob <bob@example.com> escreveu:",
        "Op ma 20 nov 2023 om 10:00 schreef Bob <bob@example.com>:",
        "Den mån 20 nov. 2023 kl 10:00 skrev Bob <bob@example.com>:",
        "pon., 20 lis 2023 o 10:00 Bob <bob@example.com> napisał(a):",
        "пн, 20 нояб. 2023 г. в 10:00, Bob <bob@example.com>:",
        "2023年11月20日(月) 10:00 Bob <bob@example.com>:",
        "Bob <bob@example.com> 于2023年11月20日周一 10:00写道:",
        "2023년 11월 20일 (월) 오전 10:00, Bob <bob@example.com>님이 작성:",
        "20 Kas 2023 Pzt 10:00 tarihinde Bob <bob@example.com> şunu yazdı:",
        "Den fre. 20. nov. 2026 kl. 10.00 skrev Bob <bob@example.com>:",
        "pe 20. marrask. 2026 klo 10.00 Bob (bob@example.com) kirjoitti:",
        "pá 20. 11. 2026 v 10:00 odesílatel Bob <bob@example.com> napsal:",
        "pi 20. 11. 2026 o 10:00 Bob <bob@example.com> napísal(a):",
        "Bob <bob@example.com> ezt írta (időpont: 2026. nov. 20., P, 10:00):",
        "Στις Παρ 20 Νοε 2026 στις 10:00 π.μ., ο χρήστης Bob <bob@example.com> έγραψε:",
        "пт, 20 лист. 2026 р. о 10:00 Bob <bob@example.com> пише:",
        "\u202bבתאריך יום ו׳, 20 בנוב׳ 2026 ב-10:00 מאת \u202aBob\u202c <\u202abob@example.com\u202c>:",
        "في الجمعة، 20 نوفمبر 2026 في 10:00 ص تمت كتابة ما يلي بواسطة Bob <bob@example.com>:",
        "Vào Th 6, 20 thg 11, 2026 vào lúc 10:00 Bob <bob@example.com> đã viết:",
        "Pada tanggal Jum, 20 Nov 2026 pukul 10.00 Bob <bob@example.com> menulis:",
        "În vin., 20 nov. 2026 la 10:00, Bob <bob@example.com> a scris:",
        "W dniu 20.11.2026 o 10:00, Bob pisze:",
        "Bob <bob@example.com> hat am 20.11.2026 10:00 CET geschrieben:",
        "Bob <bob@example.com> schrieb am Fr., 20. Nov. 2026, 10:00:",
        "2026. 11. 20. 오전 10:00, Bob <bob@example.com> 작성:",
        "Quoting Bob <bob@example.com>:",
    ],
)
def test_what_is_quoted_is_left_out_in_many_languages(intro: str) -> None:
    assert reply_text(f"New words\n\n{intro}\n\n> old\n> words\n") == "New words"


@pytest.mark.parametrize(
    "history",
    [
        "-----Original Message-----\nFrom: Bob\nold",
        "-----Ursprüngliche Nachricht-----\nVon: Bob\nalt",
        "________________________________\nFrom: Bob <b@example.com>\nSent: Monday\nold",
        "From: Bob <b@example.com>\nSent: Monday\nTo: Ada\nSubject: x\n\nold",
        "Von: Bob <b@example.com>\nGesendet: Montag\nAn: Ada\nBetreff: x\n\nalt",
        "De : Bob <b@example.com>\nEnvoyé : lundi\nÀ : Ada\nObjet : x\n\nancien",
        "差出人: Bob <b@example.com>\n送信日時: 2023年11月20日\n宛先: Ada\n\nold",
        "---------- Forwarded message ---------\nFrom: Bob\n\nold",
        "Lähettäjä: Bob <b@example.com>\nLähetetty: perjantai\nVastaanottaja: Ada\nAihe: x\n\nold",
        "Od: Bob <b@example.com>\nOdesláno: pátek\nKomu: Ada\nPředmět: x\n\nold",
        "Kimden: Bob <b@example.com>\nGönderildi: Cuma\nKime: Ada\nKonu: x\n\nold",
        "Від: Bob <b@example.com>\nНадіслано: п'ятниця\nКому: Ada\nТема: x\n\nold",
        "Feladó: Bob <b@example.com>\nElküldve: péntek\nCímzett: Ada\nTárgy: x\n\nold",
        "De la: Bob <b@example.com>\nTrimis: vineri\nCătre: Ada\nSubiect: x\n\nold",
        "Από: Bob <b@example.com>\nΣτάλθηκε: Παρασκευή\nΠρος: Ada\nΘέμα: x\n\nold",
        "من: Bob <b@example.com>\nتم الإرسال: الجمعة\nإلى: Ada\nالموضوع: x\n\nold",
        "From: Bob Without Address\nSent: Friday\nTo: Ada\nSubject: x\n\nold",
        'Gesendet: Freitag, 20. November 2026\nVon: "Bob" <b@example.com>\nAn: Ada\nBetreff: x\n\nalt',
        "Anfang der weitergeleiteten Nachricht:\n\nVon: Bob\nBetreff: x\n\nalt",
        "##- Please type your reply above this line -##\n\nold",
    ],
)
def test_what_outlook_and_forwards_append_is_left_out(history: str) -> None:
    assert reply_text(f"New words\r\n\r\n{history}") == "New words"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hi\n-- \nBob\nExample Ltd", "Hi"),
        ("Hi\n\nSent from my iPhone", "Hi"),
        ("Hi\n\nVon meinem iPhone gesendet\n", "Hi"),
        ("Hi\n\nGet Outlook for iOS<https://aka.ms/o0ukef>", "Hi"),
        ("Hi\n\nTélécharger Outlook pour Android", "Hi"),
        ("Hi\n\nDiese Nachricht wurde von meinem Android-Gerät mit GMX Mail gesendet.", "Hi"),
        ("Hi\n\nSendt fra min iPhone", "Hi"),
        ("Hi\n\nLähetetty iPhonesta", "Hi"),
        ("Hi\n\nOdesláno z iPhonu", "Hi"),
        ("Hi\n\niPhone'umdan gönderildi", "Hi"),
        ("Hi\n\n從我的iPhone傳送", "Hi"),
        ("Hi\n\n나의 iPhone에서 보냄", "Hi"),
        ("Hi\n\nSent with Proton Mail secure email.", "Hi"),
        ("> old\n\nNew words below", "New words below"),
        ("On 20 Nov 2023, Bob wrote:\n> one\nyes\n> two\nno", "yes\nno"),
    ],
)
def test_signatures_and_answers_below(text: str, expected: str) -> None:
    assert reply_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "---------- Forwarded message ---------\nFrom: Bob <b@example.com>\n\nold words",
        "> only a quotation",
        "As she wrote:\nkeep this",
        "From: my heart, thank you",
        "Sent from my iPhone",
        "-- \nBob",
        "Hi\n\nSent the invoice to Mail Boxes Inc yesterday.",
        "Your trip\n\nFrom: Berlin\nTo: Paris\nSeat: 7A",
        "Termin\n\nDatum: 20.11.2026\nVon: 10 Uhr\nBis: 11 Uhr",
    ],
)
def test_words_are_never_lost_altogether(text: str) -> None:
    assert reply_text(text) == text


@pytest.mark.parametrize(
    "mark",
    [
        '<div class="gmail_quote">',
        '<blockquote type="cite">',
        "<div class='moz-cite-prefix'>",
        '<div id="divRplyFwdMsg" dir="ltr">',
        '<div class="yahoo_quoted">',
        '<div style="border:none;border-top:solid #E1E1E1 1.0pt;padding:3.0pt 0in 0in 0in">',
    ],
)
def test_quoted_html_is_cut_and_the_rest_stays_well_formed(mark: str) -> None:
    html = f"<html><body><div>New <b>words</b><br><br>{mark}old</div></div></body></html>"
    assert reply_html(html) == "<html><body><div>New <b>words</b></div></body></html>"


@pytest.mark.parametrize(
    "html",
    [
        "<p>No quotation</p>",
        '<div><style>p{}</style>&nbsp;<div class="gmail_quote">only a forward</div></div>',
        "<p>x</p>" + "<br>" * MAX_INPUT + '<div class="gmail_quote">',
    ],
)
def test_other_html_stays_as_it_is(html: str) -> None:
    assert reply_html(html) == html
