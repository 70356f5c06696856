-- squawk-ignore-file ban-concurrent-index-creation-in-transaction, ban-drop-not-null
-- Events of no inbox, of a pod or of the whole organisation: they have no number within an inbox. In the horizon,
-- the id of the pod or of the organisation stands for the inbox they do not have.

set lock_timeout = '4s';
alter table event alter column inbox_id drop not null;
alter table event alter column pod_id drop not null;
alter table event alter column seq drop not null;
alter table event_horizon alter column pod_id drop not null;
reset lock_timeout;

-- Inboxes on a domain and below it: the end of a name is the beginning of the name read backwards.
drop index concurrently if exists inbox_domain;
create index concurrently if not exists inbox_domain on inbox (reverse(domain) text_pattern_ops);
