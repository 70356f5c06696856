-- What an organisation may do where that differs from the settings, what was sent in each window of time, and to
-- whom each inbox has written before.
create table organization_limit (
    organization_id uuid not null,
    name text not null,
    value bigint not null check (value >= 0),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, name)
);

-- most: the limit when it was last counted, 0 for none. The table itself refuses to count past it, so no two
-- processes need to agree on anything.
create table send_count (
    organization_id uuid not null,
    kind text not null,
    subject_id uuid not null,
    window_start timestamptz not null,
    count bigint not null,
    most bigint not null,
    primary key (organization_id, kind, subject_id, window_start),
    constraint send_count_within_limit check (most = 0 or count <= most)
) with (fillfactor = 50);
create index send_count_age on send_count (window_start);

-- send_id: the send that made the address known; if that comes to nothing, it is forgotten again. counted: it
-- was new, and not that of somebody who had written first.
create table known_recipient (
    organization_id uuid not null,
    inbox_id uuid not null,
    address text not null,
    send_id uuid not null,
    counted boolean not null,
    created_at timestamptz not null default now(),
    primary key (inbox_id, address)
);

-- What a send was counted as, for when it comes to nothing; null where it was not counted.
alter table send add column recipients integer;
alter table send add column counted_thread uuid;
alter table send add column counted_at timestamptz;
