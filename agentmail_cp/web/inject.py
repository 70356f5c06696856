"""What handlers are given by name: `caller`, `db`, `server`, `settings`, `doorbell`, `feed`, `asked`,
`links`, `uploads`, `naming`.

None is checked again at run time: the wiring in `app.py` gives each its type.
"""

from __future__ import annotations

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from agentmail_cp import access, db, events, intake, mailserver, settings
from agentmail_cp.web import links, listing, outgoing
from agentmail_cp.web import naming as names

Caller = NamedDependency[SkipValidation[access.Principal]]
Db = NamedDependency[SkipValidation[db.Database]]
Server = NamedDependency[SkipValidation[mailserver.MailServer]]
Config = NamedDependency[SkipValidation[settings.Settings]]
Doorbell = NamedDependency[SkipValidation[intake.Doorbell]]
Feed = NamedDependency[SkipValidation[events.Feed]]
Asked = NamedDependency[SkipValidation[listing.Query]]
Links = NamedDependency[SkipValidation[links.Links]]
Naming = NamedDependency[SkipValidation[names.Naming]]
Uploads = NamedDependency[SkipValidation[outgoing.Uploads]]
