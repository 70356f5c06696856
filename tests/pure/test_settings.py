"""Settings: a wrong one names itself, a secret never shows, and others' variables are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import settings
from agentmail_cp.settings import PREFIX, SECRETS, Settings, SettingsError

URL = "postgresql://me:hunter2@db.test/mail"
GOOD = {f"{PREFIX}DATABASE_URL": URL}

WRONG = {
    "database_url": "mysql://me:hunter2@db.test",
    "database_pool_size": "0",
    "stalwart_url": "stalwart:8080",
    "stalwart_connections": "many",
    "stalwart_connect_timeout": "0",
    "stalwart_timeout": "-1",
    "stalwart_webhook_url": "api:8000",
    "stalwart_webhook_throttle": "soon",
    "port": "65536",
    "public_url": "api.test",
    "domain": "my company",
    "domain_shared": "maybe",
    "imap_port": "0",
    "imap_host": "https://mail.example.com",
    "imap_tls": "ssl",
    "imap_connections_per_inbox": "0",
    "smtp_port": "x",
    "smtp_host": "mail.example.com:587",
    "smtp_tls": "ssl",
    "smtps_port": "0",
    "mx_port": "70000",
    "key_prefix": "no spaces_",
    "sweep_interval": "0",
    "intake_batch": "201",
    "settle_interval": "61",
    "deleted_inbox_retention_days": "0",
    "event_retention_days": "2",
    "max_message_size": "0",
    "submission_copy_delay": "-1",
    "large_requests": "0",
    "feedback_enabled": "perhaps",
    "unauthenticated": "erase",
    "sends_per_day": "-1",
    "inbox_sends_per_day": "-1",
    "inbox_new_recipients_per_day": "-1",
    "thread_sends_per_hour": "-1",
    "loop_automatic_replies": "-1",
    "loop_turns": "-1",
    "loop_pace": "-1",
    "pause_bounces_per_thousand": "1001",
    "pause_complaints_per_thousand": "-1",
    "pause_days": "0",
    "pause_least_recipients": "0",
    "pods_per_organization": "-1",
    "inboxes_per_organization": "-1",
    "inboxes_per_pod": "-1",
    "domains_per_organization": "-1",
    "list_entries_per_organization": "-1",
    "webhooks_per_organization": "-1",
    "requests_per_minute": "-1",
    "outbound_allow": "10.0.0.1/8",
    "mail_host": "localhost",
    "sending_host": "10.0.0.1, ",
    "dkim_retiring_days": "0",
    "dns_servers": "ns1.example.com",
    "outbound_timeout": "0",
    "log_level": "loud",
    "log_format": "xml",
}
"""For each setting that is not free text, a value that does not fit."""

FREE_TEXT = {
    "stalwart_key",
    "stalwart_admin",
    "stalwart_certificate",
    "stalwart_certificate_key",
    "stalwart_webhook_secret",
    "host",
    "dkim_secret",
    "download_secret",
}


def variable(field: str) -> str:
    return PREFIX + field.upper()


def test_every_setting_has_a_wrong_value_here_or_takes_any_text() -> None:
    assert WRONG.keys() | FREE_TEXT == set(Settings.__struct_fields__)


@pytest.mark.parametrize("field", sorted(WRONG))
def test_a_wrong_value_names_its_variable(field: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(GOOD | {variable(field): WRONG[field]})
    assert str(caught.value).startswith(f"{variable(field)} ")


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)


@given(st.sampled_from(sorted(Settings.__struct_fields__)), TEXT)
def test_any_value_is_taken_or_named(field: str, value: str) -> None:
    """Whatever somebody writes, they learn which variable to look at, and no traceback."""
    assert complaint(GOOD | {variable(field): value}).startswith(("fine", f"{variable(field)} "))


def complaint(environ: dict[str, str]) -> str:
    try:
        settings.load(environ)
    except SettingsError as error:
        return str(error)
    return "fine"


@pytest.mark.parametrize("field", ["sweep_interval", "stalwart_timeout", "settle_interval"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
def test_a_time_that_is_no_number_is_refused(field: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable(field)):
        settings.load(GOOD | {variable(field): value})


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("imap_tls", "ssl", "use one of implicit, starttls, none (now 'ssl')."),
        ("log_level", "loud", "use one of debug, info, warning, error (now 'loud')."),
        ("domain_shared", "yes", "use true or false (now 'yes')."),
        ("port", "http", "use a whole number (now 'http')."),
        ("port", "70000", "use a whole number <= 65535 (now '70000')."),
        ("sweep_interval", "60s", "use a number (now '60s')."),
        ("sweep_interval", "0", "use a number > 0 (now '0')."),
        ("deleted_inbox_retention_days", "never", "use a whole number (now 'never')."),
        ("stalwart_url", "stalwart", "use a URL like http://stalwart:8080 (now 'stalwart')."),
        ("public_url", "https://", "use a URL like https://api.example.com (now 'https://')."),
        ("key_prefix", "inai", "use letters and digits, then _, like inai_ (now 'inai')."),
    ],
)
def test_a_refusal_says_what_is_allowed(field: str, value: str, told: str) -> None:
    """A regular expression, or the value alone, sends people into the source."""
    with pytest.raises(SettingsError) as caught:
        settings.load(GOOD | {variable(field): value})
    assert str(caught.value) == f"{variable(field)} does not fit: {told}"


@pytest.mark.parametrize("field", ["mail_host", "sending_host"])
@pytest.mark.parametrize(
    "value", ["203.0.113.9", "mx.example.com, 10.0.0.1", "mail", ",", "https://mx.example.com"]
)
def test_what_cannot_stand_in_customers_records_is_refused(field: str, value: str) -> None:
    """Customers would be told to publish an MX record that leads to an address, and get no mail."""
    with pytest.raises(SettingsError) as caught:
        settings.load(GOOD | {variable(field): value})
    assert str(caught.value) == (
        f"{variable(field)} does not fit: use host names, not addresses, parted by commas, like"
        f" mx1.example.com (now {value!r})."
    )


@pytest.mark.parametrize(
    "host", ["localhost", "mail_1", "127.0.0.1", "::1", "mail.example.com", "Büro.test"]
)
def test_mail_clients_may_be_told_of_any_host(host: str) -> None:
    """On a machine or network of one's own there may be no domain name."""
    given = {variable("imap_host"): host, variable("smtp_host"): host}
    loaded = settings.load(GOOD | given)
    assert (loaded.imap_host, loaded.smtp_host) == (host, host)


@pytest.mark.parametrize("field", sorted(SECRETS))
def test_a_secret_is_never_in_a_message(field: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load({variable(field): "hunter2", f"{PREFIX}PORT": "x"})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        settings.load({variable("database_url"): "mysql://hunter2", variable(field): "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Agents.Example", "agents.example"),
        ("agents.example.", "agents.example"),
        (" agents.example", "agents.example"),
        ("Büro.example", "xn--bro-hoa.example"),
    ],
)
def test_a_domain_is_kept_as_stalwart_keeps_it(written: str, meant: str) -> None:
    """Stalwart stores it in lower case, so that every later `stalwart apply` would not find it, and fail
    with a domain that is there already.
    """
    assert settings.load(GOOD | {variable("domain"): written}).domain == meant


@pytest.mark.parametrize("text", ["localhost", "https://agents.example", "a@b.example", "10.0.0.1"])
def test_what_is_no_domain_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(GOOD | {variable("domain"): text})
    assert str(caught.value) == (
        f"{variable('domain')} is no domain name (now {text!r}); write it like example.com."
    )


@pytest.mark.parametrize(
    "password",
    [
        "hun%ter2",
        "hun@ter2",
        "hun@,ter2@",
        "hun/ter2",
        "2/hunter2",
        "hun ter2",
        "?@hunter2",
        "\udc80hunter2",
    ],
)
def test_a_password_that_a_url_cannot_hold_is_told_of_and_never_shown(password: str) -> None:
    """Whoever sets a generated password finds it, or a part of it, in the log of every command."""
    with pytest.raises(SettingsError) as caught:
        settings.load({variable("database_url"): f"postgresql://me:{password}@db.test:5432/mail"})
    said = str(caught.value)
    assert said.startswith(f"{variable('database_url')} is no PostgreSQL URL")
    assert "%25" in said
    assert "ter2" not in said + repr(caught.value.__cause__)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hun%25t%40er%2F2@db.test:5432/mail?sslmode=verify-full",
        "postgresql://me@a.test:5432,b.test/mail?target_session_attrs=read-write",
        "postgresql:///mail?host=/run/postgresql",
        "postgresql://%2Frun%2Fpostgresql/mail",
        "postgres://me:hunter2@[::1]:5433/mail",
    ],
)
def test_every_url_that_postgresql_reads_is_taken(url: str) -> None:
    assert settings.load({variable("database_url"): url}).database_url == url


def test_a_missing_setting_is_named_with_what_to_do() -> None:
    with pytest.raises(SettingsError, match=r"^AGENTMAIL_CP_DATABASE_URL is not set\. Set it to"):
        settings.load({})


@pytest.mark.parametrize("field", sorted(Settings.__struct_fields__))
def test_every_setting_can_be_read_from_a_file(field: str, tmp_path: Path) -> None:
    """Container secrets are files, and end with a line break."""
    from_text = settings.load(GOOD)
    value = URL if field == "database_url" else getattr(from_text, field)
    if value in {None, ""}:
        fitting: dict[str, object] = {
            "dns_servers": "10.0.0.2",
            "imap_host": "imap.api.test",
            "smtp_host": "smtp.api.test",
            "outbound_allow": "10.0.0.0/8",
            "deleted_inbox_retention_days": 7,
            "mail_host": "mx1.api.test, mx2.api.test",
            "sending_host": "out.api.test",
        }
        value = fitting.get(field, "http://api.test")
    file = tmp_path / "secret"
    file.write_text(f"{value}\n".lower() if isinstance(value, bool) else f"{value}\n")
    loaded = settings.load(GOOD | {f"{variable(field)}_FILE": str(file)})
    assert getattr(loaded, field) == value


@pytest.mark.parametrize("order", [1, -1])
def test_the_plain_variable_wins_over_the_file(tmp_path: Path, order: int) -> None:
    file = tmp_path / "domain"
    file.write_text("file.test")
    both = [(variable("domain"), "plain.test"), (variable("domain") + "_FILE", str(file))]
    assert settings.load(GOOD | dict(both[::order])).domain == "plain.test"


def test_a_file_that_cannot_be_read_names_variable_and_path(tmp_path: Path) -> None:
    missing, binary = tmp_path / "none", tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00secret")
    for path in (missing, binary, tmp_path):
        with pytest.raises(SettingsError) as caught:
            settings.load(GOOD | {f"{PREFIX}STALWART_KEY_FILE": str(path)})
        assert f"{PREFIX}STALWART_KEY_FILE names {path}" in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n"])
@pytest.mark.parametrize("field", ["stalwart_key", "stalwart_webhook_secret", "database_url"])
def test_an_empty_file_is_no_secret(field: str, text: str, tmp_path: Path) -> None:
    """A secret that was never written would be the empty one: anybody could sign with it."""
    file = tmp_path / "secret"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        settings.load(GOOD | {f"{variable(field)}_FILE": str(file)})
    assert str(caught.value) == f"{variable(field)}_FILE names {file}, which is empty."


@pytest.mark.parametrize("name", ["STALWART_KEYS", "DATABASE", "FILE", "SDK", "PORT_FILE_FILE"])
def test_an_unknown_variable_of_ours_is_named(name: str) -> None:
    """A spelling mistake must not leave a setting at its default in silence."""
    with pytest.raises(SettingsError, match=f"^{PREFIX}{name} is not a setting"):
        settings.load(GOOD | {PREFIX + name: "1"})


def test_the_official_clients_variables_are_not_ours() -> None:
    """They name somebody else's service, with its key."""
    theirs = {
        "AGENTMAIL_API_KEY": "am_1",
        "AGENTMAIL_BASE_URL": "https://api.agentmail.to",
        "AGENTMAIL_PORT": "1",
        "AGENTMAIL_TEST_DATABASE_URL": "x",
    }
    assert settings.load(GOOD | theirs) == settings.load(GOOD)


def test_an_empty_variable_is_an_unset_one() -> None:
    """Compose files pass on variables that were never set as empty ones."""
    empty = {variable(field): "" for field in Settings.__struct_fields__ if field != "database_url"}
    assert settings.load(GOOD | empty) == settings.load(GOOD)
