-- squawk-ignore-file ban-concurrent-index-creation-in-transaction
-- Pods are made, listed and limited. inbox_limit is a pod's own; null leaves it to the organisation's.
set lock_timeout = '4s';
alter table pod add column if not exists inbox_limit integer check (inbox_limit > 0);
reset lock_timeout;
drop index concurrently if exists pod_list;
create index concurrently if not exists pod_list
    on pod (organization_id, created_at desc, pod_id desc);
-- Addresses are never issued twice, so of an organisation whose agents come and go most rows are tombstones:
-- lists pass over none of them.
drop index concurrently if exists inbox_list_active;
create index concurrently if not exists inbox_list_active
    on inbox (organization_id, created_at desc, inbox_id desc) where state = 'active';
drop index concurrently if exists inbox_list_pod;
create index concurrently if not exists inbox_list_pod
    on inbox (pod_id, created_at desc, inbox_id desc) where state = 'active';
drop index concurrently if exists inbox_list;
-- What counts towards a quota, and keeps a pod from being deleted.
drop index concurrently if exists inbox_living;
create index concurrently if not exists inbox_living
    on inbox (organization_id, pod_id) where state in ('creating', 'active', 'deleting');
