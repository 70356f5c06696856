-- Allow and block lists. scope_id is whose list it is: the inbox, else the pod, else the organisation; as it stands
-- in the key, what a mail is judged by is a handful of probes of one index, however long the lists are. origin is
-- null for what callers put in; a suppression has the reason a mail server gave us, and only the operator removes it.
create table list_entry (
    organization_id uuid not null,
    scope_id uuid not null,
    pod_id uuid,
    inbox_id uuid,
    direction text not null check (direction in ('send', 'receive', 'reply')),
    list_type text not null check (list_type in ('allow', 'block')),
    entry text collate "C" not null,
    entry_type text not null check (entry_type in ('email', 'domain')),
    reason text,
    origin text check (origin in ('bounce', 'complaint', 'reject')),
    created_at timestamptz not null default now(),
    primary key (organization_id, scope_id, direction, list_type, entry),
    check (scope_id = coalesce(inbox_id, pod_id, organization_id)),
    check (origin is null or (direction = 'send' and list_type = 'block'))
);
-- How many entries an organisation's callers made, for the limit on them.
create index list_entry_made on list_entry (organization_id) where origin is null;
