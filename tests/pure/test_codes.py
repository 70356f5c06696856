"""One-time codes: agents sign up with them unattended, and type in what they are given here."""

# ruff: noqa: RUF001  letters of other alphabets are what is tested

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmail_cp import codes
from agentmail_cp.markup import MAX_INPUT, read
from tests.pure.effort import BITS, grows_no_faster_than_its_input

FOUND: list[tuple[str, str, str]] = [
    # subject, text, code
    ("Your verification code", "Your verification code is 482913.", "482913"),
    ("482913 is your Acme code", "Hi,\n\nsomebody asked to log in.\n", "482913"),
    ("Sign in to Acme", "Your login code is:\n\n  482913\n\nIt expires in 10 minutes.", "482913"),
    ("Verify", "Enter this code to finish signing up.\n\n482 913\n\nThanks, Acme", "482913"),
    ("Acme", "G-482913 is your Google verification code.", "G-482913"),
    ("Slack confirmation code: AB1-2CD", "Confirm your email address.\n\nAB1-2CD\n", "AB1-2CD"),
    ("Steam Guard", "Here is the Steam Guard code you need to login:\n\nR7K9P\n", "R7K9P"),
    ("Device", "First copy your one-time code: AB12-CD34", "AB12-CD34"),
    ("GitHub", "Please verify your device.\n\nVerification code: 048291\n", "048291"),
    ("PIN", "Your PIN is 4829. Never share it.", "4829"),
    ("Login", "Your OTP for transaction of Rs. 4500 is 739204. Valid for 10 minutes.", "739204"),
    ("Confirm", "Use the security code 73920418 to continue, order 99887766.", "73920418"),
    ("Acme", "Your code: 4 8 2 9 1 3", "482913"),
    ("Acme", "482-913 is your Instagram code. Don't share it.", "482913"),
    (
        "Microsoft account security code",
        "Security code: 4829137\n\nOnly enter it at microsoft.com",
        "4829137",
    ),
    (
        "Your temporary ChatGPT code",
        "Enter this temporary verification code to continue:\n\n739204\n",
        "739204",
    ),
    (
        "Log in to Notion",
        "Your sign-up code is\n\nx7k2p9\n\nIf you didn't ask, ignore this.",
        "x7k2p9",
    ),
    ("Two-factor", "Someone tried to log in. If it was you, the passcode is 2024.", "2024"),
    (
        "Amazon",
        "To verify your email address, use this One Time Password (OTP):\n\n739204\n\nDon't share this OTP.",
        "739204",
    ),
    (
        "Ihr Bestätigungscode",
        "Guten Tag,\n\nIhr Bestätigungscode lautet: 482913\n\nEr ist 15 Minuten gültig.",
        "482913",
    ),
    ("Anmeldung", "482913 ist Ihr Einmalcode für die Anmeldung bei Beispiel.", "482913"),
    ("Konto", "Bitte geben Sie folgenden Code ein:\n\n4829\n\nMit freundlichen Grüßen", "4829"),
    ("Ihre TAN", "Ihre TAN für die Überweisung über 1.250,00 EUR: 739204", "739204"),
    (
        "Votre code de vérification",
        "Bonjour,\n\nVoici votre code de vérification : 482913\n",
        "482913",
    ),
    ("Connexion", "Votre code de sécurité est 48 29 13. Il expire dans 10 minutes.", "482913"),
    ("Su código", "Tu código de verificación es 482913. No lo compartas.", "482913"),
    ("Inicio", "Introduce este código para continuar:\n\n7392\n", "7392"),
    ("Acesso", "Seu código de verificação é 482913", "482913"),
    ("Acesso", "Use o código abaixo para entrar:\n\n739204\n", "739204"),
    ("Codice", "Il tuo codice di verifica è: 482913", "482913"),
    ("Accesso", "Inserisci il codice 739204 per accedere.", "739204"),
    ("Inloggen", "Je verificatiecode is 482913. Deze code is 5 minuten geldig.", "482913"),
    ("認証コード", "認証コード：482913\n有効期限は10分です。", "482913"),
    ("ログイン", "ワンタイムパスワードは「４８２９１３」です。", "482913"),
    ("確認", "以下の確認コードを入力してください。\n\n7392\n\n2026年11月21日", "7392"),
    ("验证码", "【示例】您的验证码是482913，5分钟内有效，请勿泄露。", "482913"),
    ("登入", "您的驗證碼為：739204", "739204"),
    ("인증", "[예시] 인증번호 482913 를 입력해 주세요.", "482913"),
    ("로그인", "인증번호는 739204입니다.", "739204"),
    ("Код", "Ваш код подтверждения: 482913. Никому его не сообщайте.", "482913"),
    ("Вход", "739204 — ваш код для входа.", "739204"),
    ("Logowanie", "Twój kod weryfikacyjny to 482913", "482913"),
    ("Giriş", "Doğrulama kodunuz: 482913", "482913"),
    ("Inloggning", "Din engångskod är 482913", "482913"),
    ("Підтвердження", "Ваш код підтвердження: 482913", "482913"),
    ("Overeen", "رمز التحقق الخاص بك هو 482913", "482913"),
    ("אימות", "קוד האימות שלך הוא 482913", "482913"),
    (
        "Slack",
        "Your confirmation code is below; enter it now.\n\n482-913\n\nSlack, San Francisco, CA 94105",
        "482913",
    ),
    ("MFA", "Code: 482913\nIP: 10.0.0.1\nTime: 2026-05-12 10:20:30 UTC", "482913"),
    ("LinkedIn", "Ada, your pin is 482913. Please use it to complete the verification.", "482913"),
    ("支付宝", "【支付宝】校验码 739204，请勿泄露。订单号 2026051248291374", "739204"),
    ("Xác minh", "Mã xác minh của bạn là 482913", "482913"),
]

NOT_FOUND: list[tuple[str, str]] = [
    ("Your order", "Thanks for your order 4829137. It ships on 12 May 2026."),
    ("Order #48291", "Order number: 482913\nTotal: $1,299.00"),
    ("Invoice 20260012", "Invoice no. 20260012 of 2026-05-12 over EUR 4829,00 is due."),
    ("Meeting in 2026", "See you in 2026, at the latest on 14:30."),
    ("Call us", "Call +1 415 555 2671 or 555-123-4567, (030) 4829137 or 0800 123 4567."),
    ("Newsletter", "Acme Inc., 1234 Main Street, San Francisco, CA 94105. © 2026 Acme"),
    ("Versand", "Ihre Sendungsnummer: 00340434161094042557, Kundennummer 482913, 10115 Berlin"),
    ("Rechnung 482913", "Ihre Rechnung 482913 über 1.250,00 €. PLZ: 10115"),
    ("Parcel", "Tracking number 1Z999AA10123456784 or tracking ID 48291374"),
    ("Sale", "Use code SAVE20 at checkout for 20% off. Coupon code: SUMMER25"),
    ("Sale", "Use code 482913 at checkout and save 20%."),
    ("Commande", "Votre commande n° 482913 a été expédiée. Code postal : 75011"),
    ("Pedido", "Tu pedido 482913 está en camino. Código postal: 28013"),
    ("注文", "ご注文番号：4829137 合計：4829円 〒1500001 電話番号 0312345678"),
    ("订单", "您的订单号：48291374，合计：4829元，客服电话 4008001234"),
    ("주문", "주문번호: 482913 결제금액 48,290원"),
    ("Заказ", "Ваш заказ 482913 на сумму 4829 руб. Почтовый индекс: 101000"),
    ("Ticket", "Re: [Case number 482913] Ticket 48291 was updated"),
    ("Card", "Your card ending in 4829 was charged. Transaction 73920418."),
    ("Stats", "You had 4829 users and 1440 minutes of calls, room 7392, build 73920."),
    (
        "Hello",
        "Hello, how are you? See https://example.com/v/482913?code=739204 and ada1234@example.com.",
    ),
    ("Flight", "Your booking reference is AB12CD, flight LH4829, reservation code XK9F2P"),
    ("WELCOME", "WELCOME TO ACME\n\nWE ARE GLAD TO HAVE YOU\n\nVERIFY\n"),
    ("Docs", "Error code 40413 came with HTML5 and UTF8 since version 20481."),
    ("Steps", "Do this:\n1\n2\n3\n4\n5\n6\n"),
    ("Receipt", "ORDER ID\nMXYZ123456\nDOCUMENT NO.\n123456789012\nTOTAL 4,99 €"),
    ("Invitation", "Meeting ID: 987 6543 2101\nOne tap mobile\n+16699006833,,98765432101#"),
    ("Support", "Ticket 48213: your code review for version 20481 is done"),
    ("News", "In 1998 the code of 2000 engineers shipped 12345 units."),
    ("Bank", "USD 2,500.00 on card XX4829. Balance 73920. Not you? SMS BLOCK 4829 to 56070"),
    ("Buchung", "Buchungscode: X7K2P9, Flug LH 4829 am 12.05.2026"),
    ("楽天", "ご注文番号：213310-20260512-0482913。お届け予定日：5月12日"),
    ("Zip", "Zip code: 94105. Area code: 4150."),
]

HIGH = 0.5


@pytest.mark.parametrize(("subject", "text", "code"), FOUND, ids=[each[1][:40] for each in FOUND])
def test_a_code_is_found(subject: str, text: str, code: str) -> None:
    first, *rest = codes.find(subject, text)
    assert first.code == code
    assert first.confidence >= 0.8
    assert all(each.confidence < first.confidence for each in rest), rest


@pytest.mark.parametrize(("subject", "text"), NOT_FOUND, ids=[each[1][:40] for each in NOT_FOUND])
def test_another_number_is_no_code(subject: str, text: str) -> None:
    """An agent that types in an order number locks the account it wants to open."""
    assert [each for each in codes.find(subject, text) if each.confidence >= HIGH] == []


HTML = [
    "<p>Your code is</p><h1>482913</h1>",
    "<p>Your verification code:</p><table><tr>" + "".join(f"<td>{each}</td>" for each in "482913"),
    "<div>Use code <span>482</span><span>913</span> to log in</div>",
    "<style>.c123456{}</style><p>Enter this code: <b>482913</b></p><!-- code 999999 -->",
    "<p>Ihr Best&auml;tigungscode lautet</p><p><strong>482&nbsp;913</strong></p>",
]


@pytest.mark.parametrize("html", HTML)
def test_a_code_in_html_alone_is_found(html: str) -> None:
    """Many mails say in their plain part only that there is another one."""
    first, *rest = codes.find("Sign in", "Please view this mail in a browser.", read(html).text)
    assert (first.code, rest) == ("482913", [])
    assert first.confidence >= 0.8


def test_a_later_text_is_not_asked_where_an_earlier_one_is_sure() -> None:
    """The same mail twice gives each code once."""
    found = codes.find("Hi", "Your code is 482913.", "Your code is 739204.")
    assert [each.code for each in found] == ["482913"]


def test_several_codes_are_given_the_surest_first() -> None:
    found = codes.find("Login", "Your login code is 482913.\n\nYour backup code: AB12-CD34\n")
    assert [each.code for each in found] == ["482913", "AB12-CD34"]


def test_there_are_never_too_many() -> None:
    text = "\n".join(f"Your code is {number}." for number in range(100_000, 100_200))
    assert len(codes.find("", text)) == codes.MOST


HOSTILE = st.lists(st.sampled_from(BITS) | st.text(max_size=5), max_size=40).map("".join)


@given(HOSTILE, HOSTILE, HOSTILE)
@settings(max_examples=300)
def test_no_mail_is_a_crash(subject: str, text: str, html: str) -> None:
    found = codes.find(subject, text, read(html).text)
    assert len(found) <= codes.MOST
    assert found == sorted(found, key=lambda each: -each.confidence)
    for each in found:
        assert 0 <= each.confidence <= 1
        assert 4 <= len(each.code) <= 30
        assert each.code.isprintable()


@given(st.from_regex(r"[1-9][0-9]{5}", fullmatch=True))
def test_every_six_digits_are_found(digits: str) -> None:
    """Whatever the code is, also one that reads like a date."""
    (first, *_) = codes.find("Hello", f"Your verification code is {digits}.")
    assert first.code == digits


@pytest.mark.parametrize("bit", BITS)
def test_no_mail_takes_long(bit: str) -> None:
    """One mail made for it would hold up everybody's."""
    grows_no_faster_than_its_input(lambda size: codes.find("", _of(bit, size)))
    grows_no_faster_than_its_input(lambda size: read(_of(bit, size * MAX_INPUT // 65_536)))


def _of(bit: str, size: int) -> str:
    return (bit * (size // len(bit) + 1))[:size]
