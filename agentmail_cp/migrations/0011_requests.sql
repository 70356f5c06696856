-- How much of its requests a minute each API key has taken, one row a key. Unlogged: counting writes no WAL,
-- and after a crash of PostgreSQL, or on a promoted standby, every window just begins anew.
create unlogged table request_window (
    organization_id uuid not null,
    api_key_id uuid not null,
    started_at timestamptz not null,
    taken bigint not null,
    -- The size of the last lease: what the statement that took it is told.
    granted bigint not null,
    primary key (organization_id, api_key_id)
)
-- Room for updates beside the row they replace, so that none touches the index.
with (fillfactor = 50);
