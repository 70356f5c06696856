"""Mail providers by the names of their hosts, so that people are told whom a record leads to. Pure."""

from __future__ import annotations

from typing import Final

_SUFFIXES: Final = {
    "google.com": "Google Workspace",
    "googlemail.com": "Google Workspace",
    "outlook.com": "Microsoft 365",
    "office365.us": "Microsoft 365",
    "mx.microsoft": "Microsoft 365",
    "zoho.com": "Zoho Mail",
    "zoho.eu": "Zoho Mail",
    "zoho.in": "Zoho Mail",
    "zohomail.com": "Zoho Mail",
    "messagingengine.com": "Fastmail",
    "protonmail.ch": "Proton Mail",
    "icloud.com": "iCloud Mail",
    "yandex.net": "Yandex 360",
    "yandex.ru": "Yandex 360",
    "yandex.com": "Yandex 360",
    "awsapps.com": "Amazon WorkMail",
    "amazonaws.com": "Amazon SES",
    "amazonses.com": "Amazon SES",
    "mailgun.org": "Mailgun",
    "sendgrid.net": "SendGrid",
    "mtasv.net": "Postmark",
    "mandrillapp.com": "Mailchimp",
    "mcsv.net": "Mailchimp",
    "sparkpostmail.com": "SparkPost",
    "brevo.com": "Brevo",
    "sendinblue.com": "Brevo",
    "pphosted.com": "Proofpoint",
    "mimecast.com": "Mimecast",
    "barracudanetworks.com": "Barracuda",
    "ovh.net": "OVHcloud",
    "ionos.com": "IONOS",
    "kundenserver.de": "IONOS",
    "secureserver.net": "GoDaddy",
    "privateemail.com": "Namecheap Private Email",
    "improvmx.com": "ImprovMX",
    "forwardemail.net": "Forward Email",
    "migadu.com": "Migadu",
    "mailbox.org": "mailbox.org",
    "mx.cloudflare.net": "Cloudflare Email Routing",
    "rackspace.com": "Rackspace",
    "emailsrvr.com": "Rackspace",
    "titan.email": "Titan",
    "qq.com": "Tencent Exmail",
    "mail.ru": "VK WorkSpace",
    "tutanota.de": "Tuta",
    "gandi.net": "Gandi",
}


def provider_of(host: str) -> str | None:
    """The provider a host of mail or SPF belongs to, as people call it; None for one not known here."""
    labels = host.lower().rstrip(".").split(".")
    above = (".".join(labels[start:]) for start in range(len(labels)))
    return next((_SUFFIXES[name] for name in above if name in _SUFFIXES), None)


def named(host: str) -> str:
    """A host, with its provider where that is known."""
    provider = provider_of(host)
    return f"{provider} ({host})" if provider else host
