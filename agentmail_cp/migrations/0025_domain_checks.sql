-- Since when checks of a domain that was verified fail, one after the other: it is broken only when they have
-- done so for a while.
alter table domain add column failing_since timestamptz;

-- Since when a DKIM key signs no more; its record is needed until mail signed with it has arrived.
alter table dkim_key add column retiring_at timestamptz;
