"""Where a sent message stands, shown with it: an agent asks once, and not each server's language."""

from __future__ import annotations

from tests.api.mailbox import arrive, ok, path_of
from tests.fix_app import DOMAIN, Json, Service, a_mail, until


async def test_a_sent_message_tells_where_it_stands_at_each_recipient(anywhere: Service) -> None:
    """With what the mail server said, where that is not good news."""
    alice, bob = await anywhere.inbox("alice"), await anywhere.inbox("bob")
    nobody = f"nobody{anywhere.suffix}@{DOMAIN}"
    sent = await anywhere.send(alice, to=[bob["email"]], cc=[nobody], subject="Hi", text="Hi.")

    async def look() -> dict[str, Json]:
        message = await ok(await anywhere.client.get(path_of(alice, sent)))
        return {each["address"]: each for each in message["deliveries"]}

    shown = await until(look, lambda seen: seen[bob["email"]]["status"] == "delivered", seconds=10)
    assert shown.keys() == {bob["email"], nobody}
    assert shown[nobody]["status"] == "rejected"
    assert shown[nobody]["code"]
    assert nobody not in shown[bob["email"]].get("diagnostic", "")
    assert all(each["updated_at"].endswith("Z") for each in shown.values())


async def test_a_received_message_stands_nowhere(service: Service) -> None:
    inbox = await service.inbox("bob")
    (message,) = await arrive(service, inbox, a_mail(inbox["email"]))
    whole = await ok(await service.client.get(path_of(inbox, message)))
    assert "deliveries" not in whole


async def test_a_message_that_went_to_oneself_is_shown_as_sent(service: Service) -> None:
    """Its copy in Sent is the message; what arrived is another one, and stands nowhere."""
    inbox = await service.inbox("both")
    sent = await service.send(inbox, to=inbox["email"], subject="Note", text="Hi.")
    whole = await ok(await service.client.get(path_of(inbox, sent)))
    assert [each["address"] for each in whole["deliveries"]] == [inbox["email"]]
