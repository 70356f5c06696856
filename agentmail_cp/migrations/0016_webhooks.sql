-- Webhook endpoints. scope_id is where one was made: the inbox, else the pod, else the organisation; what happens
-- beyond is never told to it. pod_ids and inbox_ids narrow that further: events of any of them, of everything if
-- both are empty. An endpoint that is not enabled has a reason. failing_since: the first failed attempt after which
-- none succeeded. headers and secrets are the caller's own; an old secret also signs until previous_until.
create table webhook (
    webhook_id uuid primary key,
    organization_id uuid not null,
    scope_id uuid not null,
    pod_id uuid,
    inbox_id uuid,
    url text not null,
    event_types text[] not null check (cardinality(event_types) > 0),
    pod_ids uuid[] not null default '{}',
    inbox_ids uuid[] not null default '{}',
    headers jsonb not null default '{}',
    client_id text,
    secret text not null,
    previous_secret text,
    previous_until timestamptz,
    enabled boolean not null default true,
    disabled_reason text check (disabled_reason in ('requested', 'gone', 'failing', 'deleted')),
    disabled_at timestamptz,
    failing_since timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check (scope_id = coalesce(inbox_id, pod_id, organization_id)),
    check (inbox_id is null or pod_id is not null),
    check (enabled = (disabled_reason is null)),
    check ((previous_secret is null) = (previous_until is null))
);
create unique index webhook_client_id_key on webhook (organization_id, scope_id, client_id)
    where client_id is not null;
create index webhook_list on webhook (organization_id, created_at desc, webhook_id desc);
create index webhook_enabled on webhook (organization_id) where enabled;
