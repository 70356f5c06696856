"""Domains: the claims of organisations on domain names, from the first record to the last mail.

Owns the tables `domain`, `dkim_key` and `subdomain`. A name is nobody's until an organisation shows its token
in DNS; until then the mail server knows nothing of it. `domain` says which states a claim has, `claiming` who
may add one and who proves it, `schedule` when it is checked, `settlement` how the mail server is told,
`subdomains` which names below it are its own, `use` what inboxes may do on it.
"""

from __future__ import annotations

from agentmail_cp.domains.checking import Checking, conflicting
from agentmail_cp.domains.claiming import (
    DomainPatch,
    NewDomain,
    check_name,
    create,
    prove,
    update,
)
from agentmail_cp.domains.domain import (
    Domain,
    DomainStatus,
    count,
    get,
    get_own,
    list_page,
    with_parents,
)
from agentmail_cp.domains.presenting import SHOWN_TYPES, described, finding, wanted_of
from agentmail_cp.domains.records import Hosts, Record, hosts_of
from agentmail_cp.domains.releasing import release
from agentmail_cp.domains.resolving import Resolver
from agentmail_cp.domains.rotation import rotate
from agentmail_cp.domains.schedule import check_soon
from agentmail_cp.domains.settlement import delete, settle, tell
from agentmail_cp.domains.surveying import list_all
from agentmail_cp.domains.use import (
    MailDomain,
    broken,
    for_inboxes,
    hold,
    keeps_feedback,
    own_names,
)
from agentmail_cp.domains.zone import zone_file

__all__ = [
    "SHOWN_TYPES",
    "Checking",
    "Domain",
    "DomainPatch",
    "DomainStatus",
    "Hosts",
    "MailDomain",
    "NewDomain",
    "Record",
    "Resolver",
    "broken",
    "check_name",
    "check_soon",
    "conflicting",
    "count",
    "create",
    "delete",
    "described",
    "finding",
    "for_inboxes",
    "get",
    "get_own",
    "hold",
    "hosts_of",
    "keeps_feedback",
    "list_all",
    "list_page",
    "own_names",
    "prove",
    "release",
    "rotate",
    "settle",
    "tell",
    "update",
    "wanted_of",
    "with_parents",
    "zone_file",
]
