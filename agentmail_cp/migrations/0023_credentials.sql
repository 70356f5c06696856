-- What mail clients log in with, as far as it is not Stalwart's alone to know. No password or API key is
-- stored here: of an API key that is a mail password the hash that Stalwart gets, of an app password that
-- is told under an Idempotency-Key what only that API key can open again, for a day.

-- An API key chosen as mail password, for an organisation, one of its pods or one inbox.
create table mail_password (
    mail_password_id uuid primary key,
    organization_id uuid not null,
    pod_id uuid,
    inbox_id uuid,
    api_key_id uuid not null,
    hash text not null,
    created_at timestamptz not null default now(),
    constraint mail_password_reach check (inbox_id is null or pod_id is not null),
    constraint mail_password_scope_key unique nulls not distinct (organization_id, pod_id, inbox_id)
);
create index mail_password_of_key on mail_password (api_key_id);

-- Inboxes whose mail password is not the one they were made with, or is being changed. due_at: Stalwart may
-- have another one than it should; lease_until: somebody is at it; generation: who, as each raises it.
create table mail_login (
    inbox_id uuid primary key,
    organization_id uuid not null,
    pod_id uuid not null,
    kind text not null check (kind in ('own', 'api_key', 'none')),
    -- What set an own password: a request that is repeated finds its own again.
    set_by uuid,
    generation bigint not null default 0,
    due_at timestamptz,
    lease_until timestamptz
) with (fillfactor = 70);
create index mail_login_due on mail_login (due_at) where due_at is not null;

-- App passwords while Stalwart mints them, and then as long as one may have to be told again.
create table app_password (
    app_password_id uuid primary key,
    organization_id uuid not null,
    pod_id uuid not null,
    inbox_id uuid not null,
    state text not null check (state in ('minting', 'told')),
    lease_until timestamptz,
    sealed bytea,
    remembered_until timestamptz
);
create index app_password_minting on app_password (lease_until) where state = 'minting';
