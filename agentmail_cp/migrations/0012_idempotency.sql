-- Requests that make something, by the Idempotency-Key they came with: one row until remembered_until. Running
-- (completed_at is null; whoever made the attempt is believed to be alive until lease_until) or done: then
-- the answer is made again of what resource_id names. seed is what ids, names and, together with the caller's
-- own API key, secrets are derived from. No body, no answer, no secret.
create table idempotency_key (
    organization_id uuid not null,
    key text not null,
    api_key_id uuid not null,
    kind text not null,
    fingerprint bytea not null,
    seed bytea not null,
    attempt integer not null default 1,
    lease_until timestamptz not null,
    resource_id text,
    is_new boolean,
    created_at timestamptz not null default now(),
    completed_at timestamptz,
    remembered_until timestamptz not null,
    primary key (organization_id, key)
);
create index idempotency_key_age on idempotency_key (remembered_until);
