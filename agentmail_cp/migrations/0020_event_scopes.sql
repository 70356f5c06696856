-- squawk-ignore-file ban-concurrent-index-creation-in-transaction
-- The events of one pod or inbox in their order, also where they are few among many of the organisation's. The
-- organisation is in front because every query names it: what is looked ahead needs no look at the rows.
drop index concurrently if exists event_feed_pod;
create index concurrently if not exists event_feed_pod
    on event (organization_id, pod_id, position) where position is not null;
drop index concurrently if exists event_feed_inbox;
create index concurrently if not exists event_feed_inbox
    on event (organization_id, inbox_id, position) where position is not null;
