-- squawk-ignore-file ban-concurrent-index-creation-in-transaction, ban-drop-constraint, constraint-missing-not-valid
-- Keys of a pod and of an inbox are listed and, with these, revoked. A key of an inbox has its pod, too.
drop index concurrently if exists api_key_pod;
create index concurrently if not exists api_key_pod
    on api_key (pod_id, created_at desc, api_key_id desc) where pod_id is not null;
drop index concurrently if exists api_key_inbox;
create index concurrently if not exists api_key_inbox
    on api_key (inbox_id, created_at desc, api_key_id desc) where inbox_id is not null;
alter table api_key drop constraint if exists api_key_reach;
alter table api_key add constraint api_key_reach
    check (inbox_id is null or pod_id is not null) not valid;
alter table api_key validate constraint api_key_reach;
