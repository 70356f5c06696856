-- What is remembered of the events of an inbox that are not kept any longer: the last of them, which stays a
-- cursor for whoever had read that far, and up to which position events have expired, so that whoever had not is
-- told that some are missing. What was erased with its inbox has not expired: nobody is to miss it.
create table event_horizon (
    inbox_id uuid primary key,
    organization_id uuid not null,
    pod_id uuid not null,
    event_id uuid not null,
    position bigint not null,
    expired bigint not null default 0
);
create unique index event_horizon_cursor on event_horizon (event_id);
create index event_horizon_of_organization on event_horizon (organization_id, expired);
create index event_horizon_of_pod on event_horizon (pod_id, expired);
