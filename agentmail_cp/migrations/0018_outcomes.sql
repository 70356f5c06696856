-- What became of a sent message at each recipient: queued → delayed → unknown → delivered → bounced → complained,
-- never back; rejected when it was handed in. code and diagnostic are the mail server's words. due_at: when to ask
-- the mail server, null when there is nothing left to ask; looks: how often it was asked in vain. gone_at: since
-- when the mail is known to have left the queue, with nobody having said where to.
create table recipient (
    organization_id uuid not null,
    inbox_id uuid not null,
    message_id text not null,
    address text not null,
    status text not null check (
        status in ('queued', 'delayed', 'unknown', 'delivered', 'bounced', 'complained', 'rejected')
    ),
    code text,
    diagnostic text,
    due_at timestamptz,
    looks smallint not null default 0,
    gone_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (inbox_id, message_id, address)
) with (fillfactor = 80);
create index recipient_due on recipient (due_at) where due_at is not null;

-- Which message a mail in the mail server's queue is: its reports name nothing but the queue's own id.
create table queued_mail (
    queue_id bigint primary key,
    organization_id uuid not null,
    inbox_id uuid not null,
    message_id text not null,
    created_at timestamptz not null default now()
);
create index queued_mail_message on queued_mail (inbox_id, message_id);
create index queued_mail_age on queued_mail (created_at);

-- What somebody said became of a mail, written before whoever said it is answered, gone when it is told on. It names
-- the mail by queue_id, or by message_id where it came by mail; by_mail: anybody may have written it.
create table outcome_report (
    report_id bigint generated always as identity primary key,
    organization_id uuid not null,
    inbox_id uuid not null,
    queue_id bigint,
    message_id text,
    address text not null,
    outcome text not null check (
        outcome in ('delayed', 'unknown', 'delivered', 'failed', 'complained')
    ),
    code text,
    diagnostic text,
    by_mail boolean not null default false,
    due_at timestamptz not null default now(),
    tries smallint not null default 0,
    created_at timestamptz not null default now(),
    check ((queue_id is null) <> (message_id is null))
);
create unique index outcome_report_key on outcome_report (queue_id, address, outcome)
    where queue_id is not null;
create unique index outcome_report_message_key
    on outcome_report (inbox_id, message_id, address, outcome) where message_id is not null;
create index outcome_report_due on outcome_report (due_at, report_id);

-- Reports of an inbox, to be forgotten with it.
create index outcome_report_inbox on outcome_report (inbox_id);

-- Mails in a mailbox that told what became of another: outcomes by now, and never messages.
create table feedback_mail (
    inbox_id uuid not null,
    document_id bigint not null,
    organization_id uuid not null,
    created_at timestamptz not null default now(),
    primary key (inbox_id, document_id)
);
