-- Mail that clients handed in over SMTP and its copy in Sent: pending → imported → done, or pending → done
-- where the client saved one itself. No part of the mail is here: blob_id names it in Stalwart.
-- due_at: when to look next, put ahead while a worker is at it; null: somebody has to notice something.
create table submission (
    submission_id uuid primary key,
    organization_id uuid not null,
    inbox_id uuid not null,
    account_id text not null,
    message_id text not null,
    blob_id text not null,
    mail_state text,
    state text not null default 'pending' check (state in ('pending', 'imported', 'done')),
    document_id bigint,
    due_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create unique index submission_message_id_key on submission (inbox_id, message_id);
create index submission_due on submission (due_at) where due_at is not null;
create index submission_age on submission (created_at);
