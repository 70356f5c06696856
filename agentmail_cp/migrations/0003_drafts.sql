-- Drafts: each is an unfinished mail in Stalwart's Drafts and a row here, without its body.

-- version numbers the Message-IDs of what we store; document_id is the version in force, null once it is
-- gone while somebody is at it; taken is the one being replaced, sent or destroyed. mail_state is where
-- the inbox stood when it was taken. change is the fingerprint of an update whose outcome its caller was
-- not told. fire_at: when the scheduler next looks at it.
create table draft (
    inbox_id uuid not null,
    draft_id uuid not null,
    organization_id uuid not null,
    pod_id uuid not null,
    account_id text not null,
    client_id text,
    state text not null
        check (state in ('storing', 'draft', 'updating', 'sending', 'deleting', 'sent')),
    version integer not null,
    document_id bigint,
    taken bigint,
    mail_state text,
    lease_until timestamptz,
    change bytea,
    next_send_at timestamptz,
    in_reply_to text,
    forward_of text,
    reply_all boolean not null default false,
    send_at timestamptz,
    send_status text check (send_status in ('scheduled', 'failed')),
    send_error text,
    fire_at timestamptz,
    attempts integer not null default 0,
    labels text[] not null,
    subject text,
    "to" text[] not null,
    cc text[] not null,
    bcc text[] not null,
    reply_to text[] not null,
    "references" text[] not null,
    preview text not null,
    size bigint not null,
    has_attachment boolean not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (inbox_id, draft_id)
);
create index draft_id_key on draft (organization_id, draft_id);
create unique index draft_client_id_key on draft (inbox_id, client_id) where client_id is not null;
create index draft_document on draft (inbox_id, document_id);
create index draft_list on draft (inbox_id, updated_at desc, draft_id desc)
    where state in ('draft', 'updating', 'sending');
create index draft_list_pod on draft (pod_id, updated_at desc, draft_id desc)
    where state in ('draft', 'updating', 'sending');
create index draft_list_all on draft (organization_id, updated_at desc, draft_id desc)
    where state in ('draft', 'updating', 'sending');
create index draft_due on draft (fire_at) where state = 'draft' and send_status = 'scheduled';
create index draft_unsettled on draft (lease_until) where lease_until is not null;

-- The draft a mail was made of: the two change together.
alter table send add column draft_id uuid;
