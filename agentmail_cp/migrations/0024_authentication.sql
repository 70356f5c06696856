-- What the mail server found out about a received mail's sender, as `authentication.Authentication`; the address
-- that a mail was sent to which came by a catch-all; and what an organisation wants done with mail that is an
-- explicit FAIL, null where the setting holds.
set lock_timeout = '4s';
alter table message add column if not exists authentication jsonb;
alter table message add column if not exists original_recipient text;
alter table organization add column if not exists unauthenticated text
    check (unauthenticated in ('none', 'label', 'drop'));
reset lock_timeout;
