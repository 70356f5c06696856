-- squawk-ignore-file ban-concurrent-index-creation-in-transaction
-- number: the order in which events were written, which within an inbox is that of seq. position: the order
-- in which they were published, one transaction at a time, so that whoever has read up to a position has
-- missed nothing below it; null until then.
set lock_timeout = '4s';
create sequence if not exists event_number;
create sequence if not exists event_position;
alter table event add column if not exists number bigint;
alter table event alter column number set default nextval('event_number');
alter table event add column if not exists position bigint;
reset lock_timeout;
drop index concurrently if exists event_unpublished;
create index concurrently if not exists event_unpublished
    on event (number, event_id) where position is null;
drop index concurrently if exists event_position_key;
create unique index concurrently if not exists event_position_key
    on event (position) where position is not null;
drop index concurrently if exists event_feed;
create index concurrently if not exists event_feed
    on event (organization_id, position) where position is not null;
