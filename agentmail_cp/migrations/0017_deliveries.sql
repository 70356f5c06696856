-- One row per event and endpoint it is told to: pending → delivered | failed, and pending again when it is
-- resent. number is the order in which they were made. due_at: when the next attempt is; claimed_until: a worker
-- is at it, or lets it rest; claim_id: under which claim; failures: attempts in vain since it was made or resent,
-- which is its place in the schedule. event_id is null for an event sent as a test. No body is stored: it is made anew for every attempt.
create table delivery (
    delivery_id uuid primary key,
    number bigint generated always as identity,
    organization_id uuid not null,
    webhook_id uuid not null,
    event_id uuid,
    event_type text not null,
    state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    due_at timestamptz not null default now(),
    claimed_until timestamptz,
    claim_id uuid,
    attempts integer not null default 0,
    failures integer not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
)
-- Every claim walks past what was done since the index was last cleaned. The table is large with what is done
-- for long, of which PostgreSQL would by default wait for a fifth to change, and then leave the indexes alone.
with (
    fillfactor = 70,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_scale_factor = 0.002,
    vacuum_index_cleanup = on
);
create unique index delivery_event_key on delivery (webhook_id, event_id);
create index delivery_due on delivery (webhook_id, due_at, number) where state = 'pending';
create index delivery_log on delivery (webhook_id, number desc);
-- What a reader of the log looks for first, among millions that were delivered.
create index delivery_failed on delivery (webhook_id, number desc) where state = 'failed';
create index delivery_age on delivery (created_at);

-- What came of each attempt: the endpoint's status, or why there was none. response is the beginning of its
-- answer, as text.
create table delivery_attempt (
    delivery_id uuid not null,
    number integer not null,
    organization_id uuid not null,
    at timestamptz not null,
    duration_ms integer not null,
    status smallint,
    error text,
    response text not null default '',
    primary key (delivery_id, number)
);
