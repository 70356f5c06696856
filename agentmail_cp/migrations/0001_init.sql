-- Organisations, pods, keys, inboxes, threads, messages, sends, events.
-- No message body, other header or attachment is ever stored here: mail lives in Stalwart.

create table organization (
    organization_id uuid primary key,
    name text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table pod (
    pod_id uuid primary key,
    organization_id uuid not null,
    name text not null,
    is_default boolean not null default false,
    client_id text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create unique index pod_default_key on pod (organization_id) where is_default;
create unique index pod_client_id_key on pod (organization_id, client_id) where client_id is not null;

create table api_key (
    api_key_id uuid primary key,
    organization_id uuid not null,
    pod_id uuid,
    inbox_id uuid,
    name text not null,
    prefix text not null,
    hash bytea not null,
    permissions jsonb,
    expires_at timestamptz,
    used_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create unique index api_key_hash_key on api_key (hash);
create index api_key_list on api_key (organization_id, created_at desc, api_key_id desc);

-- An inbox is creating → active → deleting → deleted. Its address is never issued twice, so a deleted
-- row stays as the address's tombstone; only an abandoned `creating` row is removed.
create table inbox (
    inbox_id uuid primary key,
    organization_id uuid not null,
    pod_id uuid not null,
    address text not null,
    username text not null,
    domain text not null,
    display_name text,
    client_id text,
    metadata jsonb not null default '{}',
    state text not null check (state in ('creating', 'active', 'deleting', 'deleted', 'erased')),
    account_id text,
    lease_until timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz
);
create unique index inbox_address_key on inbox (address);
create unique index inbox_client_id_key on inbox (organization_id, client_id)
    where client_id is not null and state in ('creating', 'active');
create index inbox_list on inbox (organization_id, created_at desc, inbox_id desc);
create index inbox_unsettled on inbox (lease_until) where state in ('creating', 'deleting');
create index inbox_retained on inbox (deleted_at) where state = 'deleted';

-- Where reading each inbox from Stalwart stands. due_at: somebody rang; claimed_until: a worker is at it;
-- synced_at: the last comparison, which the sweep keeps fresh. event_seq numbers the inbox's events.
create table inbox_sync (
    inbox_id uuid primary key,
    organization_id uuid not null,
    pod_id uuid not null,
    account_id text not null,
    state text,
    due_at timestamptz,
    claimed_until timestamptz,
    synced_at timestamptz not null default '-infinity',
    failures integer not null default 0,
    last_error text,
    event_seq bigint not null default 0
) with (fillfactor = 70);
create unique index inbox_sync_account_key on inbox_sync (account_id);
create index inbox_sync_due on inbox_sync (due_at) where due_at is not null;
create index inbox_sync_claimed on inbox_sync (claimed_until) where claimed_until is not null;
create index inbox_sync_stale on inbox_sync (synced_at);

-- masks: one bit per label that hides a message (1 spam, 2 blocked, 4 unauthenticated, 8 trash), the
-- distinct values over the thread's messages.
create table thread (
    thread_id uuid primary key,
    organization_id uuid not null,
    pod_id uuid not null,
    inbox_id uuid not null,
    subject text,
    preview text not null default '',
    labels text[] not null,
    masks smallint[] not null,
    senders text[] not null,
    recipients text[] not null,
    message_count integer not null,
    size bigint not null,
    has_attachment boolean not null,
    last_message_id text not null,
    "timestamp" timestamptz not null,
    received_timestamp timestamptz,
    sent_timestamp timestamptz,
    created_at timestamptz not null,
    updated_at timestamptz not null default now()
);
create index thread_list on thread (inbox_id, "timestamp" desc, thread_id desc);
create index thread_list_visible on thread (inbox_id, "timestamp" desc, thread_id desc)
    where masks @> '{0}'::smallint[];
create index thread_list_all on thread (organization_id, "timestamp" desc, thread_id desc);

-- A thread_id that was joined to an older one keeps answering.
create table thread_alias (
    alias uuid primary key,
    organization_id uuid not null,
    inbox_id uuid not null,
    thread_id uuid not null
);
create index thread_alias_thread on thread_alias (thread_id);

-- Every Message-ID a thread's messages carry or mention, seen or not: what late parents are found by.
create table thread_reference (
    inbox_id uuid not null,
    reference text not null,
    organization_id uuid not null,
    thread_id uuid not null,
    primary key (inbox_id, reference)
);
create index thread_reference_thread on thread_reference (thread_id);

create table message (
    inbox_id uuid not null,
    document_id bigint not null,
    organization_id uuid not null,
    pod_id uuid not null,
    thread_id uuid not null,
    message_id text not null,
    direction text not null check (direction in ('received', 'sent')),
    labels text[] not null,
    mask smallint not null,
    "timestamp" timestamptz not null,
    subject text,
    sender text not null,
    "to" text[] not null,
    cc text[] not null,
    bcc text[] not null,
    reply_to text[] not null,
    in_reply_to text,
    "references" text[] not null,
    preview text not null,
    size bigint not null,
    has_attachment boolean not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (inbox_id, document_id)
);
create unique index message_id_key on message (inbox_id, message_id);
create index message_list on message (inbox_id, "timestamp" desc, document_id desc);
create index message_list_visible on message (inbox_id, "timestamp" desc, document_id desc)
    where mask = 0;
create index message_list_unread on message (inbox_id, "timestamp" desc, document_id desc)
    where labels @> '{unread}'::text[];
create index message_thread on message (thread_id, "timestamp", document_id);

-- One row per send, written before Stalwart is asked: submitting → sent | refused | abandoned, with
-- unknown in between when no answer came. It holds no body. The key is the caller's Idempotency-Key.
-- owed_until: a request without a key was left without an answer; until then its repetition gets it.
create table send (
    send_id uuid primary key,
    organization_id uuid not null,
    inbox_id uuid not null,
    account_id text not null,
    idempotency_key text,
    fingerprint bytea not null,
    message_id text not null,
    mail_state text,
    state text not null check (state in ('submitting', 'unknown', 'sent', 'refused', 'abandoned')),
    lease_until timestamptz not null,
    owed_until timestamptz,
    document_id bigint,
    answer jsonb,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create unique index send_idempotency_key on send (organization_id, idempotency_key)
    where idempotency_key is not null;
create index send_unsettled on send (lease_until) where state in ('submitting', 'unknown');
create index send_unsent on send (inbox_id) where state <> 'sent';
create index send_owed on send (inbox_id, fingerprint)
    where idempotency_key is null and (owed_until is not null or state in ('submitting', 'unknown'));
create index send_age on send (created_at);

-- The event log: append-only. `facts` holds small things only; bodies are read from Stalwart at delivery.
create table event (
    event_id uuid primary key,
    organization_id uuid not null,
    pod_id uuid not null,
    inbox_id uuid not null,
    seq bigint not null,
    type text not null,
    thread_id uuid,
    message_id text,
    document_id bigint,
    facts jsonb not null default '{}',
    created_at timestamptz not null default now(),
    transaction xid8 not null default pg_current_xact_id()
);
create unique index event_seq_key on event (inbox_id, seq);
create index event_age on event (created_at);
