-- What tells a mail that comes again over SMTP from another one under its Message-ID, and how often it came: so
-- that one Message-ID opens no limit. Null where the mail is from before.
set lock_timeout = '4s';
alter table submission add column if not exists digest bytea;
alter table submission add column if not exists repeats integer not null default 0;
reset lock_timeout;
