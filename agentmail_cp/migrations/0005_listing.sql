-- squawk-ignore-file ban-concurrent-index-creation-in-transaction
-- What agents ask all day: what is unread, hidden mail left out. Among a hundred thousand threads, or behind as
-- much spam that nobody reads, the few that match are found without a look at the others. The events that are
-- changes of labels are few among one for each mail. Built while the service runs, each statement by itself:
-- what an interrupted run left half-built is dropped first.
drop index concurrently if exists thread_list_unread;
create index concurrently if not exists thread_list_unread
    on thread (inbox_id, "timestamp" desc, thread_id desc)
    where labels @> '{unread}'::text[] and masks @> '{0}'::smallint[];
drop index concurrently if exists thread_list_all_unread;
create index concurrently if not exists thread_list_all_unread
    on thread (organization_id, "timestamp" desc, thread_id desc)
    where labels @> '{unread}'::text[] and masks @> '{0}'::smallint[];
drop index concurrently if exists thread_list_all_visible;
create index concurrently if not exists thread_list_all_visible
    on thread (organization_id, "timestamp" desc, thread_id desc) where masks @> '{0}'::smallint[];
drop index concurrently if exists message_list_new;
create index concurrently if not exists message_list_new
    on message (inbox_id, "timestamp" desc, document_id desc)
    where labels @> '{unread}'::text[] and mask = 0;
drop index concurrently if exists message_list_unread;
drop index concurrently if exists event_label;
create index concurrently if not exists event_label on event (inbox_id, seq)
    where type in ('label.added', 'label.removed');
