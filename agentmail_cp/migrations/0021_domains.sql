-- Domains of organisations: claims on a name, and the DKIM keys made for each claim.
-- Several organisations may claim a name; only one can have proved it (proved_at), and only that one's is
-- known to the mail server (installed_at). A deleted claim keeps its proof until the mail server has let go
-- of the name, so that nobody else's is installed before that.

create table domain (
    domain_id uuid primary key,
    organization_id uuid not null,
    -- null: inboxes of every pod may be on it.
    pod_id uuid,
    name text not null,
    token text not null,
    feedback_enabled boolean not null default true,
    inbound_enabled boolean not null default true,
    subdomains_enabled boolean not null default false,
    tracking_enabled boolean not null default false,
    catch_all_inbox_id uuid,
    -- What the last check found for each wanted record, by the record's key.
    findings jsonb not null default '{}',
    reason text,
    checked_at timestamptz,
    check_due_at timestamptz not null default now(),
    -- A check is running until then (VERIFYING); a crash lets it run out.
    checking_until timestamptz,
    failures integer not null default 0,
    proved_at timestamptz,
    installed_at timestamptz,
    verified_at timestamptz,
    -- Since when a verified domain lacks what it needs; its inboxes may not send from then on.
    broken_since timestamptz,
    -- Since when the mail server may have something else than this row says; null: it has been told.
    unsettled_since timestamptz,
    -- Somebody is telling it until then; a crash lets it run out.
    settling_until timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz
);
create unique index domain_claim_key on domain (organization_id, name) where deleted_at is null;
create unique index domain_proved_key on domain (name) where proved_at is not null;
create index domain_list on domain (organization_id, created_at desc, domain_id desc);
create index domain_name on domain (organization_id, name);
create index domain_due on domain (check_due_at) where deleted_at is null;
create index domain_unsettled on domain (unsettled_since) where unsettled_since is not null;
create index domain_catch_all on domain (catch_all_inbox_id) where catch_all_inbox_id is not null;

-- A key is pending → active → retiring → retired. private_key is encrypted and only there until the mail
-- server has it.
create table dkim_key (
    dkim_key_id uuid primary key,
    domain_id uuid not null,
    organization_id uuid not null,
    selector text not null,
    algorithm text not null check (algorithm in ('ed25519', 'rsa')),
    public_key text not null,
    private_key bytea,
    stage text not null check (stage in ('pending', 'active', 'retiring', 'retired')),
    created_at timestamptz not null default now(),
    activated_at timestamptz,
    retired_at timestamptz
);
create unique index dkim_key_selector_key on dkim_key (domain_id, selector);
create index dkim_key_of_domain on dkim_key (domain_id, stage);
