-- Labels of a message that the mail server has no room for: Stalwart shows 99 different ones in an account. They
-- are in `labels` as well; here is which of those no reading of the mailbox may take away.
alter table message add column kept_labels text[] not null default '{}';
-- The same of a draft's version in force.
alter table draft add column kept_labels text[] not null default '{}';
-- The labels of the mail that is sent, for whoever finds out later that its copy has only some of them.
alter table send add column labels text[] not null default '{}';
