-- squawk-ignore-file ban-concurrent-index-creation-in-transaction
-- status: paused stops both ways; what the mail server was told of it is open while pausing_until is set, and
-- finished by whoever comes after that. send_paused: a person's wish or the service's own doing, with its reason.
-- bounces_from: bounces and complaints about mail from before do not count any more. What leaves is recognised
-- at the mail server's door by addresses, and mail handed in over SMTP is counted like a send.
set lock_timeout = '4s';
alter table inbox add column if not exists status text not null default 'active'
    check (status in ('active', 'paused'));
alter table inbox add column if not exists pausing_until timestamptz;
alter table inbox add column if not exists send_paused boolean not null default false;
alter table inbox add column if not exists send_paused_reason text;
alter table inbox add column if not exists bounces_from timestamptz;
alter table send add column if not exists addresses text[];
alter table submission add column if not exists recipients bigint;
alter table submission add column if not exists counted_thread uuid;
alter table submission add column if not exists counted_at timestamptz;
reset lock_timeout;
drop index concurrently if exists inbox_pausing;
create index concurrently if not exists inbox_pausing on inbox (pausing_until)
    where pausing_until is not null;
drop index concurrently if exists recipient_lately;
create index concurrently if not exists recipient_lately on recipient (inbox_id, created_at);
