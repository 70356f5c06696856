-- squawk-ignore-file ban-concurrent-index-creation-in-transaction
-- How many recipients an event is about: what rates are counted in. Sends from before count as one each.
set lock_timeout = '4s';
alter table event add column if not exists recipients integer not null default 1;
reset lock_timeout;
-- What metrics read, each within an organisation, a pod and an inbox. Changes of labels are most of the log
-- and counted by nobody. Built while the service runs; what an interrupted run left half-built is dropped.
drop index concurrently if exists event_metric_all;
create index concurrently if not exists event_metric_all
    on event (organization_id, type, created_at) include (recipients)
    where type not in ('label.added', 'label.removed');
drop index concurrently if exists event_metric_pod;
create index concurrently if not exists event_metric_pod
    on event (organization_id, pod_id, type, created_at) include (recipients)
    where type not in ('label.added', 'label.removed');
drop index concurrently if exists event_metric;
create index concurrently if not exists event_metric
    on event (organization_id, inbox_id, type, created_at) include (recipients)
    where type not in ('label.added', 'label.removed');
drop index concurrently if exists message_usage;
create index concurrently if not exists message_usage
    on message (organization_id, pod_id, inbox_id) include ("timestamp", size);
drop index concurrently if exists thread_usage;
create index concurrently if not exists thread_usage
    on thread (organization_id, pod_id, inbox_id) include (created_at);
