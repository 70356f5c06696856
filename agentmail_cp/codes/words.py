"""The words by which one-time codes are known, in the languages mail comes in. All are folded."""

# ruff: noqa: RUF001  letters of other alphabets are what this module holds

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split("|"))


STRONG = _words("""
    verification code | security code | one-time | one time code | one time pass | otp | passcode |
    pass code | login code | log-in code | sign-in code | signin code | access code |
    confirmation code | authentication code | activation code | auth code | magic code |
    temporary code | 2fa code | verify code | pin code | single-use code | bestätigungscode |
    verifizierungscode | sicherheitscode | einmalcode | einmalpasswort | zugangscode | anmeldecode |
    aktivierungscode | freischaltcode | einmal-code | logincode | login-code | prüfcode |
    authentifizierungscode | einmalkennwort | mtan | code de vérification | code de sécurité |
    code de confirmation | code à usage unique | code d'accès | code d’accès |
    mot de passe à usage unique | code de connexion | code d'activation | code d’activation |
    code de validation | code temporaire | código de verificación | código de seguridad |
    código de confirmación | un solo uso | código de acceso | código de activación |
    código de inicio de sesión | código único | código de verificação | código de segurança |
    código de confirmação | uso único | código de acesso | código de ativação | código de login |
    codice di verifica | codice di sicurezza | codice di conferma | codice monouso | codice di accesso |
    codice di attivazione | password monouso | codice temporaneo | verificatiecode | beveiligingscode |
    bevestigingscode | inlogcode | toegangscode | eenmalige code | eenmalig wachtwoord |
    activeringscode | 認証コード | 確認コード | 検証コード | ワンタイム | セキュリティコード |
    セキュリティ コード | 暗証番号 | 認証番号 | 確認番号 | ログインコード | パスコード | 认证码 |
    验证码 | 驗證碼 | 校验码 | 动态密码 | 動態密碼 | 动态码 | 确认码 | 確認碼 | 安全码 | 安全碼 |
    一次性密码 | 一次性密碼 | 验证代码 | 驗證代碼 | 安全代码 | 登录码 | 登入碼 | 인증번호 | 인증 번호 |
    인증 코드 | 인증코드 | 확인 코드 | 확인코드 | 보안 코드 | 보안코드 | 일회용 | 로그인 코드 |
    otp 번호 | код подтверждения | проверочный код | код безопасности | одноразовый | код доступа |
    код для входа | код активации | код проверки | код авторизации | kod weryfikacyjny |
    kod potwierdzający | kod bezpieczeństwa | kod jednorazowy | doğrulama kodu | güvenlik kodu |
    onay kodu | tek kullanımlık | verifieringskod | engångskod | säkerhetskod | bekräftelsekod |
    inloggningskod | bekræftelseskode | engangskode | sikkerhedskode | sikkerhetskode |
    bekreftelseskode | vahvistuskoodi | kertakäyttö | ověřovací kód | jednorázový | overovací kód |
    код підтвердження | одноразовий | κωδικός επαλήθευσης | cod de verificare | رمز التحقق |
    رمز التأكيد | קוד אימות | קוד האימות | सत्यापन कोड | ओटीपी | mã xác minh | mã xác nhận |
    mã xác thực | kode verifikasi | kode otp | รหัสยืนยัน | รหัส otp
""")
"""Words that speak of a one-time code and of nothing else."""

WEAK = _words("""
    code | codes | pin | tan | código | codigo | codice | コード | 代码 | 代碼 | 코드 | код | код: |
    kod | kodu | kodunuz | kode | koden | koodi | kód | cod | codul | κωδικός | رمز | קוד | कोड | mã |
    รหัส | 密码 | 密碼 | 番号
""")
"""Words for a code of any kind."""

OTHER = _words("""
    zip code | zip | postal code | postcode | post code | zipcode | area code | error code |
    promo code | promocode | discount code | coupon code | voucher code | gift code | barcode |
    gift card code | referral code | country code | dress code | source code | qr code | qr-code |
    code of conduct | vat code | tax code | product code | item code | sort code | code promo |
    code postal | code de réduction | code avantage | code barre | code client | postleitzahl | plz |
    gutscheincode | rabattcode | aktionscode | fehlercode | código postal | codigo postal |
    código promocional | código de descuento | código de barras | código de desconto |
    código de rastreio | código de seguimiento | código de rastreamento | codice postale |
    codice sconto | codice fiscale | codice promozionale | codice cliente | kortingscode | actiecode |
    クーポンコード | 郵便番号 | 注文番号 | 電話番号 | 追跡番号 | お問い合わせ番号 | 伝票番号 |
    会員番号 | 予約番号 | お客様番号 | 优惠码 | 優惠碼 | 邮政编码 | 邮编 | 郵遞區號 | 订单号 |
    订单编号 | 訂單編號 | 快递单号 | 运单号 | 客服电话 | 兑换码 | 주문번호 | 주문 번호 | 우편번호 |
    운송장 | 송장번호 | 고객센터 | 쿠폰 | 전화번호 | 예약번호 | промокод | почтовый индекс | индекс |
    номер заказа | заказ | трек-номер | телефон | order | invoice | tracking | shipment | receipt |
    ticket | case number | case id | case # | reference | customer number | account number |
    account ending | ending in | ending with | member number | phone | telephone | call | fax | po box |
    p.o. box | isbn | version | copyright | © | (c) | build | room | flight | booking | reservation |
    total | amount | balance | transaction | sku | serial number | case no | ref. | ref: | iban |
    suite | bestellung | bestellnummer | rechnung | rechnungsnummer | sendungsnummer | kundennummer |
    auftrag | auftragsnummer | vorgangsnummer | aktenzeichen | telefon | tel. | tel: | betrag |
    paketnummer | ticketnummer | buchung | buchungsnummer | referenznummer | hrb | konto | commande |
    facture | numéro de suivi | numéro de client | référence | téléphone | tél | réservation | montant |
    colis | dossier | pedido | factura | nota fiscal | fatura | seguimiento | rastreamento | reserva |
    referencia | referência | teléfono | telefone | importe | valor total | encomenda | ordine |
    fattura | spedizione | prenotazione | riferimento | telefono | importo | bestelling | bestelnummer |
    factuur | factuurnummer | klantnummer | telefoon | boeking | pakket | zamówienie | faktura |
    sipariş | fatura no | beställning | ordre | tilaus | objednávka | 订单 | 訂單 | 发票 | 注文 |
    請求書 | 주문 | счет | счёт | сумма | накладная
""")
"""What a number is called that is no one-time code. Covers words of codes that are part of it."""

OFFERS = _words("""
    % off | discount | coupon | promo | sale | save | voucher | gift card | checkout | rabatt |
    gutschein | sparen | remise | réduction | soldes | descuento | oferta | desconto | cupom | sconto |
    offerta | korting | 割引 | クーポン | セール | 折扣 | 优惠 | 優惠 | 할인 | 쿠폰 | скидк | промо |
    booking | reservation | itinerary | flight | boarding | check-in date | buchung | réservation |
    reserva | prenotazione | boeking | 予約 | 预订 | 예약 | бронирован | rezervasyon
""")
"""Words around codes that are shown at a till or a counter, again and again."""
